"""The units of outcome metrics as arrays: pairs, rankings and rated responses of one objective.

Several systems (the model, its reward, baselines) are measured on the same units at once, so that
each resample of groups gives their metrics and the differences between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prm.evaluation.baselines.responses import LabelRows, decided_pairs
from prm.metrics.agreement import nearest_level, quadratic_kappa
from prm.metrics.binary import Ranking, brier_score, expected_calibration_error, weighted_mean
from prm.metrics.correlation import MidRanks, kendall_tau, pearson
from prm.metrics.pairs import FoldedCalibration, hits, nll, sigmoid, squared_error
from prm.records import Comparison, Outcome

Array = NDArray[np.float64]
Index = NDArray[np.int64]

PAIR_METRICS = ("pair_accuracy", "pair_accuracy_half", "pair_nll", "pair_brier", "pair_ece")
RANKING_METRICS = ("kendall_tau",)
VALUE_METRICS = (
    "auroc",
    "average_precision",
    "pearson",
    "spearman",
    "mse",
    "quadratic_kappa",
    "ece",
    "brier",
)
METRICS = PAIR_METRICS + RANKING_METRICS + VALUE_METRICS
LOWER_IS_BETTER = ("pair_nll", "pair_brier", "pair_ece", "mse", "ece", "brier")

MAX_LEVELS = 20
"""With more distinct values than this, labels are no grades and kappa is not defined."""


@dataclass(frozen=True)
class System:
    """What one scorer says of every response, in the order of the records.

    Args:
        name: Name of the scorer.
        utilities: Higher is better; NaN where not scored.
        values: Prediction of the value, higher where the value is higher; `None` for a scorer that
            only ranks.
        sign: 1 if a higher value is better, -1 if a lower one is.
        is_probability: Whether the sigmoid of a difference of utilities is a probability.
        in_label_units: Whether `values` are in the units of the labels. If not, they are log-odds:
            the sigmoid of a utility is the probability of a value of 1 (of 0 if lower is better).
    """

    name: str
    utilities: Array
    values: Array | None = None
    sign: int = 1
    is_probability: bool = False
    in_label_units: bool = False


class PairUnits:
    """Decided pairs of responses; the pairs of one comparison share a weight of 1.

    Args:
        rows: Pairs and the rows of their responses.
        group: Number of the group of each response.
        systems: The scorers to measure.
    """

    metrics = PAIR_METRICS

    def __init__(self, rows: LabelRows, group: Index, systems: Sequence[System]) -> None:
        self.group, self.weight = group[rows.better], rows.weight
        margins = [s.utilities[rows.better] - s.utilities[rows.worse] for s in systems]
        self.systems = [
            _SystemPairs(margin, system.is_probability)
            for margin, system in zip(margins, systems, strict=True)
        ]

    def measure(self, multiplicity: Array) -> Array:
        """Return `PAIR_METRICS` of each system, each group counting that often."""
        weight = multiplicity[self.group] * self.weight
        return np.array([system.measure(weight) for system in self.systems])

    def counts(self) -> NDArray[np.int64]:
        """Return for each system the number of comparisons behind its metrics."""
        numbers = [self.weight[system.known].sum() for system in self.systems]
        return np.rint(numbers).astype(np.int64)[:, None].repeat(len(self.metrics), axis=1)


class _SystemPairs:
    def __init__(self, margins: Array, is_probability: bool) -> None:
        self.known = ~np.isnan(margins)
        self.margin = margin = margins[self.known]
        self.is_probability = is_probability
        terms = [hits(margin, "wrong"), hits(margin, "half"), nll(margin), squared_error(margin)]
        self.terms = np.array(terms)
        self.calibration = FoldedCalibration(margin)

    def measure(self, weights: Array) -> list[float]:
        weight = weights[self.known]
        total = weight.sum()
        if total <= 0:
            return [np.nan] * len(PAIR_METRICS)
        strict, half, mean_nll, brier = (self.terms @ weight / total).tolist()
        if not self.is_probability:
            return [strict, half, np.nan, np.nan, np.nan]
        return [strict, half, mean_nll, brier, self.calibration.error(weight)]


class RankingUnits:
    """Comparisons of three or more responses, each with its Kendall's tau."""

    metrics = RANKING_METRICS

    def __init__(
        self, records: Sequence[Outcome], starts: Index, group: Index, systems: Sequence[System]
    ) -> None:
        rankings = [
            (slice(start, start + len(record.responses)), record.ranks)
            for record, start in zip(records, starts.tolist(), strict=True)
            if isinstance(record, Comparison) and len(record.responses) > 2
        ]
        self.group = group[[span.start for span, _ in rankings]]
        self.tau = np.array(
            [
                [_tau(system.utilities[span], ranks) for span, ranks in rankings]
                for system in systems
            ]
        )

    def measure(self, multiplicity: Array) -> Array:
        """Return the mean tau of each system; rankings that decide none are left out."""
        weight = multiplicity[self.group]
        means = [
            weighted_mean(tau[k], weight[k]) for tau, k in zip(self.tau, self.known, strict=True)
        ]
        return np.array(means)[:, None]

    @property
    def known(self) -> NDArray[np.bool_]:
        """Where each system has a tau, shape [system, ranking]."""
        known: NDArray[np.bool_] = ~np.isnan(self.tau)
        return known

    def counts(self) -> NDArray[np.int64]:
        """Return for each system the number of rankings behind its mean."""
        numbers: NDArray[np.int64] = self.known.sum(axis=1)[:, None]
        return numbers


def _tau(utilities: Array, ranks: Sequence[int]) -> float:
    return np.nan if np.isnan(utilities).any() else kendall_tau(utilities, ranks)


class ValueUnits:
    """Rated responses.

    Args:
        rows: Values and the rows of their responses.
        group: Number of the group of each response.
        systems: The scorers to measure.
    """

    metrics = VALUE_METRICS

    def __init__(self, rows: LabelRows, group: Index, systems: Sequence[System]) -> None:
        self.group, self.label = group[rows.rated], rows.value
        self.ranks = MidRanks(self.label)
        self.systems = [
            None if system.values is None else _SystemValues(system, rows.rated, self.label)
            for system in systems
        ]

    def measure(self, multiplicity: Array) -> Array:
        """Return `VALUE_METRICS` of each system, each group counting that often."""
        weight = multiplicity[self.group]
        ranks = self.ranks(weight)
        return np.array(
            [
                [np.nan] * len(self.metrics) if s is None else s.measure(weight, ranks)
                for s in self.systems
            ]
        )

    def counts(self) -> NDArray[np.int64]:
        """Return for each system the number of responses behind its metrics."""
        numbers = [0 if system is None else len(self.label) for system in self.systems]
        return np.array(numbers)[:, None].repeat(len(self.metrics), axis=1)


class _SystemValues:
    def __init__(self, system: System, rated: Index, label: Array) -> None:
        assert system.values is not None
        self.label = label
        self.value = system.values[rated]
        self.ranks = MidRanks(self.value)
        self.is_binary = bool(np.isin(label, (0, 1)).all())
        # Ranked by negated value against negated label: average precision then finds the ones.
        self.ranking = Ranking(-self.value, 1 - label)
        self.in_label_units = system.in_label_units
        log_odds = system.sign * system.utilities[rated]
        inside = np.clip(self.value, 0, 1)
        self.probability = inside if system.in_label_units else sigmoid(log_odds)
        levels = np.unique(label)
        is_graded = system.in_label_units and 1 < len(levels) <= MAX_LEVELS
        self.grade = nearest_level(self.value, levels) if is_graded else None

    def measure(self, weight: Array, label_ranks: Array) -> list[float]:
        binary = [self.ranking.auroc(weight), self.ranking.error_ap(weight)]
        return [
            *(binary if self.is_binary else [np.nan, np.nan]),
            pearson(self.value, self.label, weight),
            pearson(self.ranks(weight), label_ranks, weight),
            *self._distances(weight),
            *self._calibration(weight),
        ]

    def _distances(self, weight: Array) -> list[float]:
        if not self.in_label_units:
            return [np.nan, np.nan]
        error = weighted_mean((self.value - self.label) ** 2, weight)
        if self.grade is None:
            return [error, np.nan]
        return [error, quadratic_kappa(self.grade, self.label, weight)]

    def _calibration(self, weight: Array) -> list[float]:
        if not self.is_binary:
            return [np.nan, np.nan]
        return [
            expected_calibration_error(self.probability, self.label, weight),
            brier_score(self.probability, self.label, weight),
        ]


def count_ties(records: Sequence[Outcome]) -> int:
    """Return the number of comparisons in which no response is better than another."""
    return sum(isinstance(r, Comparison) and not decided_pairs(r.ranks) for r in records)
