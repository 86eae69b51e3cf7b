"""Statistics of outcome records: coverage of objectives, one-sided labels, and length."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prm.data.checks.keys import Columns, prompt_key
from prm.data.checks.linter import Finding, OutcomeCheck
from prm.data.checks.step_statistics import STRONG_CORRELATION, length_finding
from prm.records import Comparison, Outcome, Rating

_ONE_SIDED = 0.95


class Coverage(OutcomeCheck):
    """Counts, per objective, what supervises it, and on how much of the data."""

    def __init__(self) -> None:
        self._num_records = 0
        self._comparisons: dict[str, _Supervision] = defaultdict(_Supervision)
        self._ratings: dict[str, _Supervision] = defaultdict(_Supervision)
        self._ties: Counter[str] = Counter()

    def see_comparison(self, record: Comparison) -> None:
        """Count a comparison under its objective."""
        self._num_records += 1
        self._ties[record.objective] += record.is_tie
        self._comparisons[record.objective].add(record, len(record.responses))

    def see_rating(self, record: Rating) -> None:
        """Count a rating under each of its objectives."""
        self._num_records += 1
        for objective, value in record.values.items():
            if value is not None:
                self._ratings[objective].add(record, value)

    def findings(self) -> list[Finding]:
        """Return a table of each kind of records, then the ties and one-sided ratings."""
        return [
            *self._table("comparison", self._comparisons, self._sizes),
            *self._table("rating", self._ratings, _levels),
            *(self._tied(name, count) for name, count in sorted(self._ties.items()) if count),
            *_one_sided(self._ratings),
        ]

    def _table(
        self,
        kind: str,
        supervised: dict[str, _Supervision],
        describe: Callable[[str, NDArray[np.float64]], dict[str, Any]],
    ) -> list[Finding]:
        rows = tuple(
            {
                "objective": name,
                f"{kind}s": len(by.numbers),
                **describe(name, np.array(by.numbers)),
                "prompts": len(by.prompts),
                "sources": len(by.sources),
                "share_missing": 1 - len(by.numbers) / self._num_records,
            }
            for name, by in sorted(supervised.items())
        )
        message = f"objectives that {kind}s supervise"
        return [Finding(f"{kind}_coverage", "info", message, len(rows), table=rows)] if rows else []

    def _sizes(self, objective: str, sizes: NDArray[np.float64]) -> dict[str, Any]:
        return {
            "ties": self._ties[objective],
            "min_responses": int(sizes.min()),
            "max_responses": int(sizes.max()),
        }

    def _tied(self, objective: str, num_ties: int) -> Finding:
        share = num_ties / len(self._comparisons[objective].numbers)
        message = f"{share:.1%} of the comparisons of {objective!r} are ties"
        return Finding("ties", "info", message, num_ties)


@dataclass
class _Supervision:
    """What supervises one objective: how many responses are compared, or the ratings."""

    numbers: array[float] = field(default_factory=lambda: array("d"))
    prompts: set[int] = field(default_factory=set)
    sources: set[str] = field(default_factory=set)

    def add(self, record: Outcome, number: float) -> None:
        self.numbers.append(number)
        self.prompts.add(prompt_key(record.prompt))
        self.sources.add(record.source)


def _levels(objective: str, values: NDArray[np.float64]) -> dict[str, Any]:
    return {
        "mean": float(values.mean()),
        "std": float(values.std()),
        "min": float(values.min()),
        "max": float(values.max()),
        "levels": len(np.unique(values)),
    }


def _one_sided(ratings: dict[str, _Supervision]) -> Iterator[Finding]:
    for objective, by in sorted(ratings.items()):
        levels, counts = np.unique(by.numbers, return_counts=True)
        share = float(counts.max() / counts.sum())
        if len(levels) <= 2 and share > _ONE_SIDED:
            most = levels[counts.argmax()]
            message = f"{share:.1%} of the ratings of {objective!r} are {most:g}"
            yield Finding("one_sided_labels", "warning", message, len(by.numbers))


class ResponseLength(OutcomeCheck):
    """How much comparisons and ratings lean on the length of a response in characters."""

    def __init__(self) -> None:
        self._pairs: dict[str, Columns] = defaultdict(lambda: Columns("qd"))
        self._ratings: dict[str, Columns] = defaultdict(lambda: Columns("qd"))

    def see_comparison(self, record: Comparison) -> None:
        """Collect the differences of lengths beside which response is better."""
        members = zip(map(len, record.responses), record.ranks, strict=True)
        for (length, rank), (other, other_rank) in combinations(members, 2):
            better = (rank < other_rank) - (rank > other_rank)
            self._pairs[record.objective].add(length - other, better)

    def see_rating(self, record: Rating) -> None:
        """Collect the length of a response beside its ratings."""
        for objective, value in record.values.items():
            if value is not None:
                self._ratings[objective].add(len(record.response), value)

    def findings(self) -> list[Finding]:
        """Return one finding per objective and kind whose lengths and labels both vary."""
        pairs = [_preference(name, found) for name, found in sorted(self._pairs.items())]
        ratings = [
            length_finding("response", name, *found.arrays())
            for name, found in sorted(self._ratings.items())
        ]
        return [finding for finding in (*pairs, *ratings) if finding is not None]


def _preference(objective: str, pairs: Columns) -> Finding | None:
    """Return how often the longer response is preferred, and the rank correlation.

    Each pair counts in both orders, so the order in which a source writes pairs does not matter.
    """
    from scipy.stats import spearmanr

    difference, better = pairs.arrays()
    counts = (difference != 0) & (better != 0)
    if not counts.any():
        return None
    longer = float((difference[counts] * better[counts] > 0).mean())
    both_lengths = np.concatenate([difference, -difference])
    rho = float(spearmanr(both_lengths, np.concatenate([better, -better])).statistic)
    message = f"{objective!r}: the longer response is preferred in {longer:.1%} of {counts.sum()}"
    message += f" pairs, Spearman {rho:+.3f} of length difference and preference"
    row = {"objective": objective, "pairs": int(counts.sum())}
    return Finding(
        "length_preference_correlation",
        "warning" if abs(rho) >= STRONG_CORRELATION else "info",
        message,
        int(counts.sum()),
        table=({**row, "share_longer_preferred": longer, "spearman": rho},),
    )
