"""All metrics of one objective on one set of scored records, with intervals clustered by prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from prm.evaluation.baselines.responses import LabelRows
from prm.evaluation.responses import (
    LOWER_IS_BETTER,
    METRICS,
    PairUnits,
    RankingUnits,
    System,
    ValueUnits,
    count_ties,
)
from prm.metrics.intervals import Interval, cluster_bootstrap, group_indices, make_interval
from prm.metrics.pairs import hits, minimum_domain
from prm.records import Outcome

Array = NDArray[np.float64]

MODEL = "model"
"""Name of the head under evaluation, among the scorers."""

REWARD = "reward"
"""Name of the aggregated reward, measured on comparisons."""

Verdict = Literal["better", "worse", "undecided"]


@dataclass(frozen=True, slots=True)
class Difference(Interval):
    """Model minus baseline on the same units and resamples.

    Args:
        verdict: `"better"` or `"worse"` for the model if the interval excludes 0, else
            `"undecided"`; `None` without an interval.
    """

    verdict: Verdict | None


@dataclass(frozen=True, slots=True)
class Part:
    """What the scorers reach on one set of records for one objective.

    Args:
        counts: What the metrics rest on, and how much was left out.
        scores: Scorer (`"model"`, `"reward"` and baselines) to metric to value and interval.
        differences: Baseline to metric to model minus baseline.
    """

    counts: dict[str, int]
    scores: dict[str, dict[str, Interval]]
    differences: dict[str, dict[str, Difference]]


class ScoredRecords:
    """Records of one objective with the scorers' utilities of their responses.

    Args:
        records: Records that supervise the objective, all scored by the model.
        objective: Name of the objective.
        systems: The scorers, the model first; one entry per response, in order.
    """

    def __init__(
        self, records: Sequence[Outcome], objective: str, systems: Sequence[System]
    ) -> None:
        self.records = list(records)
        self.objective = objective
        self.systems = list(systems)
        self.sizes = np.array([len(record.responses) for record in records], dtype=np.int64)
        self.record_group = group_indices([record.group for record in records])
        self.num_groups = int(self.record_group.max(initial=-1)) + 1

    def select(self, keep: NDArray[np.bool_]) -> ScoredRecords:
        """Return the records where `keep` holds."""
        rows = keep.repeat(self.sizes)
        systems = [
            replace(
                s, utilities=s.utilities[rows], values=None if s.values is None else s.values[rows]
            )
            for s in self.systems
        ]
        records = [record for record, kept in zip(self.records, keep, strict=True) if kept]
        return ScoredRecords(records, self.objective, systems)

    @cached_property
    def rows(self) -> LabelRows:
        """The labeled pairs and values."""
        return LabelRows(self.records, self.objective)

    @property
    def group(self) -> NDArray[np.int64]:
        """Number of the group of each response."""
        return self.record_group.repeat(self.sizes)

    def margins(self, system: System) -> Array:
        """Return the utility of the better minus that of the worse response of each pair."""
        return system.utilities[self.rows.better] - system.utilities[self.rows.worse]

    def part(self, num_unscored: int, num_resamples: int, seed: int) -> Part:
        """Measure all scorers.

        Args:
            num_unscored: Number of further records that the model did not score.
            num_resamples: Bootstrap resamples.
            seed: Seed of the bootstrap.
        """
        starts = np.cumsum(self.sizes) - self.sizes
        units = (
            PairUnits(self.rows, self.group, self.systems),
            RankingUnits(self.records, starts, self.group, self.systems),
            ValueUnits(self.rows, self.group, self.systems),
        )
        names = [system.name for system in self.systems]
        compared = [i for i, name in enumerate(names) if name not in (MODEL, REWARD)]

        def measure(multiplicity: Array) -> Array:
            values = np.concatenate([unit.measure(multiplicity) for unit in units], axis=1)
            return np.concatenate([values, values[0] - values[compared]])

        bounds = cluster_bootstrap(measure, self.num_groups, num_resamples=num_resamples, seed=seed)
        n = np.concatenate([unit.counts() for unit in units], axis=1)
        table = self._intervals(bounds, np.concatenate([n, n[[0] * len(compared)]]))
        differences = table[len(names) :]
        return Part(
            counts=self._counts(num_unscored),
            scores=dict(zip(names, table, strict=False)),
            differences={
                names[i]: {metric: _difference(metric, x) for metric, x in row.items()}
                for i, row in zip(compared, differences, strict=True)
            },
        )

    def _intervals(
        self, bounds: tuple[Array, Array, Array], n: NDArray[np.int64]
    ) -> list[dict[str, Interval]]:
        cells = np.stack([*bounds, n], axis=-1).tolist()
        return [
            {
                metric: make_interval(value, low, high, int(count), self.num_groups)
                for metric, (value, low, high, count) in zip(METRICS, row, strict=True)
            }
            for row in cells
        ]

    def _counts(self, num_unscored: int) -> dict[str, int]:
        num_ratings, num_tied = len(self.rows.value), count_ties(self.records)
        return {
            "num_records": len(self.records) + num_unscored,
            "num_groups": self.num_groups,
            "num_comparisons": len(self.records) - num_ratings - num_tied,
            "num_tied_comparisons": num_tied,
            "num_ratings": num_ratings,
            "num_unscored": num_unscored,
        }

    def minimum_domain(
        self, domains: Sequence[str], num_resamples: int, seed: int
    ) -> dict[str, Interval]:
        """Return each scorer's lowest pair accuracy over domains, ties half.

        Args:
            domains: The domain of each record.
            num_resamples: Bootstrap resamples; each takes the minimum anew.
            seed: Seed of the bootstrap.

        Returns:
            Scorer name to interval; empty if the pairs are of fewer than two domains.
        """
        domain = group_indices(domains).repeat(self.sizes)[self.rows.better]
        members = [np.flatnonzero(domain == index) for index in np.unique(domain)]
        if len(members) < 2:
            return {}
        margins = np.array([self.margins(system) for system in self.systems])
        hit = np.where(np.isnan(margins), np.nan, hits(margins, "half"))
        weight, group = self.rows.weight, self.group[self.rows.better]

        def measure(multiplicity: Array) -> list[float]:
            counts = multiplicity[group] * weight
            return [
                minimum_domain([_known_mean(row[m], counts[m]) for m in members]) for row in hit
            ]

        bounds = cluster_bootstrap(measure, self.num_groups, num_resamples=num_resamples, seed=seed)
        n = round(weight.sum())
        return {
            system.name: make_interval(value, low, high, n, self.num_groups)
            for system, (value, low, high) in zip(
                self.systems, np.stack(bounds, axis=-1).tolist(), strict=True
            )
        }


def _known_mean(values: Array, weights: Array) -> float:
    known = ~np.isnan(values)
    total = weights[known].sum()
    return float(values[known] @ weights[known] / total) if total > 0 else np.nan


def _difference(metric: str, interval: Interval) -> Difference:
    return Difference(**asdict(interval), verdict=_verdict(metric, interval))


def _verdict(metric: str, interval: Interval) -> Verdict | None:
    """Say whether the interval of model minus baseline excludes 0, and to which side.

    Example:
        >>> _verdict("pair_nll", Interval(-0.2, -0.3, -0.1, 100, 100))
        'better'
    """
    if interval.low is None or interval.high is None:
        return None
    sign = -1 if metric in LOWER_IS_BETTER else 1
    low, high = sorted((sign * interval.low, sign * interval.high))
    if low > 0:
        return "better"
    return "worse" if high < 0 else "undecided"
