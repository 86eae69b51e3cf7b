"""How well predictions of values agree with ratings: ranks, distances, calibration."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np

from prm.arrays import Array, Indices
from prm.metrics.agreement import nearest_level, quadratic_kappa
from prm.metrics.binary import (
    BRIER,
    ECE,
    Ranking,
    brier_score,
    expected_calibration_error,
    weighted_mean,
)
from prm.metrics.correlation import MidRanks, pearson
from prm.metrics.metric import Measures, Metric, Units, apart
from prm.metrics.pairs import sigmoid

MAX_LEVELS = 20
"""With more distinct values than this, labels are no grades and kappa is not defined."""

RATED = "rated responses"

AUROC = Metric(
    "auroc", "AUROC", True, "for values of 0 and 1 only; 1 is the positive class", RATED, "headline"
)
AVERAGE_PRECISION = Metric(
    "average_precision",
    "AP",
    True,
    "for values of 0 and 1 only; 1 is the positive class",
    RATED,
)
PEARSON = Metric("pearson", "Pearson", True, "linear correlation of score and value", RATED)
SPEARMAN = Metric(
    "spearman", "Spearman", True, "rank correlation of score and value", RATED, "headline"
)
MSE = Metric("mse", "MSE", False, "only where scores are in the units of the labels", RATED)
QUADRATIC_KAPPA = Metric(
    "quadratic_kappa",
    "kappa",
    True,
    "only where scores are in the units of the labels; scores are moved to the nearest value that "
    f"labels take ({MAX_LEVELS} values at most)",
    RATED,
)
VALUE_ECE = replace(ECE, unit=RATED)
VALUE_BRIER = replace(BRIER, unit=RATED)


class ValueUnits(Units):
    """Rated responses as one scorer sees them.

    AUROC, average precision, calibration error and Brier score are defined for labels of 0 and 1.

    Args:
        predictions: Prediction of the value, higher where the value is higher, shape `[response]`.
        labels: Values, shape `[response]`.
        log_odds: Log-odds of a value of 1, shape `[response]`, if predictions are not in the units
            of the labels. Squared error and kappa are then undefined.
        groups: Number of the prompt of each response; by default each is its own.

    Example:
        >>> scores = np.array([2.0, -1.0, 0.5])
        >>> ValueUnits(scores, np.array([1.0, 0.0, 1.0]), log_odds=scores).values()["auroc"]
        1.0
    """

    def __init__(
        self,
        predictions: Array,
        labels: Array,
        log_odds: Array | None = None,
        groups: Indices | None = None,
    ) -> None:
        super().__init__(apart(len(labels)) if groups is None else groups)
        self.prediction, self.label = predictions, labels
        self.ranks, self.label_ranks = MidRanks(predictions), MidRanks(labels)
        self.is_binary = bool(np.isin(labels, (0, 1)).all())
        # Ranked by negated value against negated label: average precision then finds the ones.
        self.ranking = Ranking(-predictions, 1 - labels)
        self.in_label_units = log_odds is None
        self.probability = np.clip(predictions, 0, 1) if log_odds is None else sigmoid(log_odds)
        levels = np.unique(labels)
        is_graded = self.in_label_units and 1 < len(levels) <= MAX_LEVELS
        self.grade = nearest_level(predictions, levels) if is_graded else None

    def _mse(self, weights: Array) -> float:
        squares = (self.prediction - self.label) ** 2
        return weighted_mean(squares, weights) if self.in_label_units else np.nan

    def _kappa(self, weights: Array) -> float:
        return np.nan if self.grade is None else quadratic_kappa(self.grade, self.label, weights)

    metrics: ClassVar[Measures] = {
        AUROC: lambda rated, weights: rated.ranking.auroc(weights) if rated.is_binary else np.nan,
        AVERAGE_PRECISION: lambda rated, weights: (
            rated.ranking.error_ap(weights) if rated.is_binary else np.nan
        ),
        PEARSON: lambda rated, weights: pearson(rated.prediction, rated.label, weights),
        SPEARMAN: lambda rated, weights: pearson(
            rated.ranks(weights), rated.label_ranks(weights), weights
        ),
        MSE: _mse,
        QUADRATIC_KAPPA: _kappa,
        VALUE_ECE: lambda rated, weights: (
            expected_calibration_error(rated.probability, rated.label, weights, debias=True)
            if rated.is_binary
            else np.nan
        ),
        VALUE_BRIER: lambda rated, weights: (
            brier_score(rated.probability, rated.label, weights) if rated.is_binary else np.nan
        ),
    }
