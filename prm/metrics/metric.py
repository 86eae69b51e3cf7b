"""What is said of a metric wherever it is shown, and the units that metrics are measured on.

A metric is a value beside its function: tables, the terminal, `--monitor` and reports read its
name, heading, direction and convention from it, so that a new metric is one entry of the units it
is measured on.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from prm.arrays import Array, Indices

Place = Literal["headline", "brief", "full"]
"""How much a metric is shown: quoted and beside each baseline, in tables before others, or last."""

PLACES: tuple[Place, ...] = get_args(Place)
"""The places, in the order in which a table that is too narrow for all metrics has them."""


@dataclass(frozen=True, slots=True)
class Metric:
    """The facts of a metric.

    Args:
        name: Its key in logs, in reports and after `--monitor`.
        heading: What tables call it.
        higher_is_better: Whether more is better; `None` if neither more nor less is, so that a
            difference has no verdict.
        convention: How it is counted, in a sentence that stands beside the numbers.
        unit: What its number of units counts, in the plural.
        place: Where it is shown.
        has_interval: Whether resampling gives an interval that covers its true value as often as
            it says; if not, it is shown without.

    Example:
        >>> brier = Metric("brier", "Brier", False, "squared distance to the label", "steps")
        >>> brier.better(-0.2, -0.1), brier.better(0.1, 0.3), brier.better(-0.1, 0.1)
        ('better', 'worse', 'undecided')
    """

    name: str
    heading: str
    higher_is_better: bool | None
    convention: str
    unit: str
    place: Place = "full"
    has_interval: bool = True

    def better(self, low: float, high: float) -> Literal["better", "worse", "undecided"] | None:
        """Say what a difference between these bounds means for the minuend."""
        if self.higher_is_better is None:
            return None
        if low <= 0 <= high:
            return "undecided"
        return "better" if (low > 0) == self.higher_is_better else "worse"


Measures = Mapping[Metric, Callable[[Any, Array], float]]
"""Each metric with what gives it: from units and how often each counts to a value."""


class Units(ABC):
    """Labeled units of one kind as one scorer sees them, measured under any weighting.

    Args:
        groups: Number of the group of each unit, shape `[unit]`; those of a group are resampled
            together.
    """

    metrics: ClassVar[Measures]

    def __init__(self, groups: Indices) -> None:
        self.groups = groups

    def __len__(self) -> int:
        return len(self.groups)

    def weights(self, multiplicity: Array) -> Array:
        """Return how often each unit counts if its group counts `multiplicity[group]` times."""
        return multiplicity[self.groups]

    def measure(self, multiplicity: Array) -> list[float]:
        """Return the metrics in order, each group counting that often; NaN where undefined."""
        weights = self.weights(multiplicity)
        return [function(self, weights) for function in self.metrics.values()]

    def values(self) -> dict[str, float]:
        """Return the metrics by name, each group counting once."""
        once = np.ones(int(self.groups.max(initial=-1)) + 1)
        return dict(zip((metric.name for metric in self.metrics), self.measure(once), strict=True))

    def count(self, metric: Metric) -> int:
        """Return the number of units behind a metric."""
        return len(self)


def apart(num_units: int) -> Indices:
    """Return the group numbers of units that belong to no group."""
    return np.arange(num_units)
