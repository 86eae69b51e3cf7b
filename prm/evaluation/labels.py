"""What comparisons and ratings say about one objective, as arrays over all their responses."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from prm.arrays import Array
from prm.records import Comparison, Outcome


class ObjectiveLabels:
    """Decided pairs and values of one objective; responses are numbered through all records.

    Args:
        records: Comparisons and ratings; those of other objectives are passed over.
        objective: Name of the objective.

    Attributes:
        better: Number of the better response of each pair.
        worse: Number of the worse one.
        share: How much each pair counts; the pairs of a comparison share a weight of 1.
        strength: How much better the better one is; NaN is unknown.
        rated: Number of each response that has a value.
        value: Its value.
        num_ties: Comparisons in which no response is better than another.
    """

    def __init__(self, records: Sequence[Outcome], objective: str) -> None:
        pairs: list[tuple[int, int, float, float]] = []
        rated: list[tuple[int, float]] = []
        self.num_ties = start = 0
        for record in records:
            if not isinstance(record, Comparison):
                value = record.values.get(objective)
                rated += [] if value is None else [(start, value)]
            elif record.objective == objective:
                decided = decided_pairs(record.ranks)
                strength = np.nan if record.strength is None else record.strength
                pairs += [(start + i, start + j, 1 / len(decided), strength) for i, j in decided]
                self.num_ties += not decided
            start += len(record.responses)
        self.better, self.worse = (np.array([p[k] for p in pairs], np.int64) for k in (0, 1))
        self.share, self.strength = (np.array([p[k] for p in pairs], np.float64) for k in (2, 3))
        self.rated = np.array([row[0] for row in rated], dtype=np.int64)
        self.value = np.array([row[1] for row in rated], dtype=np.float64)

    @property
    def value_range(self) -> tuple[float, float]:
        """Lowest and highest value; one apart if they are equal, 0 and 1 if there is none."""
        low, high = float(self.value.min(initial=np.inf)), float(self.value.max(initial=-np.inf))
        if low < high:
            return low, high
        return (low, low + 1) if 1 < low < np.inf or low < 0 else (0.0, 1.0)

    @property
    def scaled_value(self) -> Array:
        """The values scaled to [0, 1]."""
        low, high = self.value_range
        return np.clip((self.value - low) / (high - low), 0, 1)


def decided_pairs(ranks: Sequence[int]) -> list[tuple[int, int]]:
    """Return (better, worse) for every two responses whose ranks differ.

    Example:
        >>> decided_pairs([1, 0, 1])
        [(1, 0), (1, 2)]
    """
    return [
        (i, j) if ranks[i] < ranks[j] else (j, i)
        for i, j in combinations(range(len(ranks)), 2)
        if ranks[i] != ranks[j]
    ]
