"""All metrics of several scorers on one set of records, with intervals clustered by problem.

Every scorer is measured on the same resamples of whole problems, so that the difference of the
model to a baseline has an interval of its own, and a verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from prm.arrays import Array
from prm.metrics.intervals import Interval, Statistic, make_interval
from prm.metrics.metric import Metric, Units

MODEL = "model"
"""Name of the model under evaluation, among the scorers."""

REWARD = "reward"
"""Name of the aggregated reward, measured on comparisons beside the objectives."""

LENGTH_ONLY = "length_only"
"""Name of the baseline that every headline quotes."""

Bootstrap = Callable[[Statistic, int], tuple[Array, Array, Array]]
"""From a statistic and the number of groups to its value and bounds; see `cluster_bootstrap`."""


@dataclass(frozen=True, slots=True)
class Difference(Interval):
    """Model minus baseline on the same units and resamples.

    Args:
        verdict: `"better"` or `"worse"` for the model if the interval excludes 0, else
            `"undecided"`; `None` without an interval, or if neither more nor less is better.
    """

    verdict: Literal["better", "worse", "undecided"] | None


@dataclass(frozen=True, slots=True)
class Part:
    """What the scorers reach on one set of records.

    Args:
        counts: What the metrics rest on, and how much was left out.
        kinds: The metrics of each kind of units, in order.
        scores: Scorer (`"model"`, `"reward"` and baselines) to metric to value and interval.
        differences: Baseline to metric to model minus baseline.
    """

    counts: dict[str, int]
    kinds: tuple[tuple[Metric, ...], ...]
    scores: dict[str, dict[str, Interval]]
    differences: dict[str, dict[str, Difference]]

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """All metrics, in order."""
        return tuple(metric for kind in self.kinds for metric in kind)

    @property
    def decided(self) -> tuple[Metric, ...]:
        """The metrics that the data decide for any scorer."""
        rows = self.scores.values()
        return tuple(m for m in self.metrics if any(row[m.name].value is not None for row in rows))

    @property
    def num_lost(self) -> int:
        """Records that were not scored, or not to their end."""
        return self.counts.get("num_unscored", self.counts.get("num_truncated_chains", 0))

    @property
    def headlines(self) -> tuple[Metric, ...]:
        """The metrics to quote: the first one of each kind of units that is for it and decided."""
        model = self.scores[MODEL]
        found = (
            [m for m in kind if m.place == "headline" and model[m.name].value is not None]
            for kind in self.kinds
        )
        return tuple(metric for kind in found for metric in kind[:1])

    def to_dict(self) -> dict[str, Any]:
        """Return counts, scores and differences as JSON values."""
        return {
            "counts": self.counts,
            "scores": plain(self.scores),
            "differences": plain(self.differences),
        }


def measure_part(
    scorers: Mapping[str, Sequence[Units]],
    num_groups: int,
    counts: dict[str, int],
    bootstrap: Bootstrap,
) -> Part:
    """Measure scorers on the same units, and the model against the baselines among them.

    Args:
        scorers: Scorer to the units as it sees them, the same kinds for all; the model first.
        num_groups: Number of groups that units are in.
        counts: What the metrics rest on.
        bootstrap: What gives intervals.
    """
    names = list(scorers)
    compared = [index for index, name in enumerate(names) if name not in (MODEL, REWARD)]

    def measure(multiplicity: Array) -> Array:
        rows = [[x for units in kinds for x in units.measure(multiplicity)] for kinds in all_units]
        values = np.array(rows)
        return np.concatenate([values, values[0] - values[compared]])

    all_units = list(scorers.values())
    kinds = tuple(tuple(units.metrics) for units in all_units[0])
    known = np.array([metric.has_interval for kind in kinds for metric in kind])
    value, low, high = bootstrap(measure, num_groups)
    low, high = np.where(known, low, np.nan), np.where(known, high, np.nan)
    bounds = np.stack([value, low, high], axis=-1).tolist()
    sizes = [[(m, units.count(m)) for units in row for m in units.metrics] for row in all_units]
    sizes += [sizes[0]] * len(compared)
    rows = [
        {
            metric: make_interval(value, low, high, n, num_groups)
            for (value, low, high), (metric, n) in zip(*row, strict=True)
        }
        for row in zip(bounds, sizes, strict=True)
    ]
    scores, differences = rows[: len(names)], rows[len(names) :]
    return Part(
        counts,
        kinds,
        {
            name: {metric.name: interval for metric, interval in row.items()}
            for name, row in zip(names, scores, strict=True)
        },
        {
            names[index]: {metric.name: _difference(metric, x) for metric, x in row.items()}
            for index, row in zip(compared, differences, strict=True)
        },
    )


def _difference(metric: Metric, interval: Interval) -> Difference:
    verdict = None
    if interval.low is not None and interval.high is not None:
        verdict = metric.better(interval.low, interval.high)
    return Difference(**asdict(interval), verdict=verdict)


def plain(table: Mapping[str, Mapping[str, Interval]]) -> dict[str, dict[str, Any]]:
    """Return intervals by scorer and metric as JSON values."""
    return {
        name: {metric: asdict(interval) for metric, interval in row.items()}
        for name, row in table.items()
    }
