"""How well probabilities tell correct steps from wrong ones.

One unit is one step: `probabilities` says how likely it is correct, `labels` whether it is. A soft
label counts as correct from 0.5 up where a hard one is needed (`step_auroc`, `error_ap`) and enters
as it is elsewhere. Every function takes `weights`, how often each unit counts, so that a bootstrap
resample is a weight vector. A quantity that the data do not decide is NaN, never 0.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from prm.arrays import Array, Indices
from prm.metrics.calibration import binned_error, debiased_error
from prm.metrics.metric import Measures, Metric, Units, apart
from prm.metrics.verdicts import PRM_SCORE, prm_score


class Ranking:
    """Steps sorted by probability once, to be measured under many weightings.

    A step without a probability or label (NaN) makes every measure NaN: leave it out.

    Args:
        probabilities: Probability of being correct, one per step.
        labels: Step labels in [0, 1]; 0.5 and above is correct.
        groups: Number of the group of each step; with it, weights are per group, not per step.
        strata: Number of the stratum of each step, from 0 up: only steps of one are compared in
            `auroc`. By default there is one.

    Example:
        >>> ranking = Ranking([0.9, 0.8, 0.3], [1, 0, 0])
        >>> ranking.auroc(np.ones(3)), ranking.auroc(np.array([1, 1, 0]))
        (1.0, 1.0)
    """

    def __init__(
        self,
        probabilities: ArrayLike,
        labels: ArrayLike,
        groups: Indices | None = None,
        strata: Indices | None = None,
    ) -> None:
        probability = np.asarray(probabilities, dtype=np.float64)
        stratum = np.zeros(len(probability), dtype=np.int64) if strata is None else strata
        order = np.lexsort((probability, stratum))
        self.correct = np.asarray(labels, dtype=np.float64)[order] >= 0.5
        new = np.diff(probability[order], prepend=-np.inf) != 0
        self.starts = np.flatnonzero(new | (np.diff(stratum[order], prepend=-1) != 0))
        self.strata = stratum[order][self.starts]
        self.units = order if groups is None else groups[order]
        known = ~(np.isnan(probability) | np.isnan(np.asarray(labels, dtype=np.float64)))
        self.is_known = bool(known.all())

    def _counts(self, weights: Array) -> tuple[Array, Array]:
        """Return the weight of correct and of wrong steps at each distinct probability."""
        total = weights[self.units]
        correct = total * self.correct
        if len(self.starts) < len(self.units):
            correct = np.add.reduceat(correct, self.starts)
            total = np.add.reduceat(total, self.starts)
        return correct, total - correct

    def auroc(self, weights: Array) -> float:
        """Return the probability that a correct step outranks a wrong one; a tie counts half."""
        if len(self.units) == 0 or not self.is_known:
            return np.nan
        correct, wrong = self._counts(weights)
        num_wrong = np.bincount(self.strata, weights=wrong)
        pairs = (np.bincount(self.strata, weights=correct) * num_wrong).sum()
        if pairs == 0:
            return np.nan
        before = (np.cumsum(num_wrong) - num_wrong)[self.strata]
        outranked = np.cumsum(wrong) - wrong / 2 - before
        return float((correct * outranked).sum() / pairs)

    def error_ap(self, weights: Array) -> float:
        """Return the average precision of finding wrong steps by low probability."""
        if len(self.units) == 0 or not self.is_known:
            return np.nan
        correct, wrong = self._counts(weights)
        if wrong.sum() == 0 or correct.sum() == 0:
            return np.nan
        found = np.cumsum(wrong)
        flagged = found + np.cumsum(correct)
        precision = np.divide(found, flagged, out=np.zeros_like(found), where=flagged > 0)
        return float((wrong * precision).sum() / wrong.sum())


def step_auroc(
    probabilities: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None
) -> float:
    r"""Area under the ROC curve of step correctness.

    $$P(p_i > p_j) + P(p_i = p_j) / 2$$ for a correct step i and a wrong step j.

    Args:
        probabilities: Probability of being correct, one per step.
        labels: Step labels in [0, 1]; 0.5 and above is correct.
        weights: How often each step counts; default once.

    Returns:
        A value in [0, 1]; NaN if all steps are of one class.

    Example:
        >>> step_auroc([0.9, 0.4, 0.6, 0.1], [1, 1, 0, 0])
        0.75
    """
    ranking = Ranking(probabilities, labels)
    return ranking.auroc(unit_weights(weights, len(ranking.units)))


def error_ap(
    probabilities: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None
) -> float:
    """Average precision with the wrong step, the rare class, as the positive one.

    Steps are flagged from the lowest probability up; equal probabilities are flagged together. A
    scorer without skill gets the share of wrong steps.

    Args:
        probabilities: Probability of being correct, one per step.
        labels: Step labels in [0, 1]; below 0.5 is wrong.
        weights: How often each step counts; default once.

    Returns:
        A value in [0, 1]; NaN if all steps are of one class.

    Example:
        >>> error_ap([0.9, 0.4, 0.6, 0.1], [1, 1, 0, 0])
        0.8333333333333333
    """
    ranking = Ranking(probabilities, labels)
    return ranking.error_ap(unit_weights(weights, len(ranking.units)))


def expected_calibration_error(
    probabilities: ArrayLike,
    labels: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    num_bins: int = 15,
    debias: bool = False,
) -> float:
    r"""Mean distance between the probability of correctness and its observed frequency.

    $$\sum_b \frac{n_b}{n} \left|\bar p_b - \bar y_b\right|$$ over bins of equal width in [0, 1].
    This is the binary form: probabilities are neither folded nor reduced to the top label.

    Args:
        probabilities: Probability of being correct, one per step.
        labels: Step labels in [0, 1]; soft labels enter as they are.
        weights: How often each step counts; default once.
        num_bins: Number of bins; the last one includes 1.
        debias: Whether to take off what chance adds to the distance; see `debiased_error`. Without
            it, calibrated probabilities of few steps have an error, too.

    Returns:
        A value in [0, 1]; NaN if no step is wrong or none is correct, as confidence then looks like
        calibration.

    Example:
        >>> round(expected_calibration_error([0.8, 0.8, 0.2, 0.2], [1, 0, 0, 0]), 6)
        0.25
    """
    probability, label, weight = _units(probabilities, labels, weights)
    if not _has_both(label, weight):
        return np.nan
    if np.isnan(probability).any() or np.isnan(label).any():
        return np.nan
    bins = np.minimum((probability * num_bins).astype(np.int64), num_bins - 1)
    if not debias:
        return binned_error(bins, probability - label, weight)
    return debiased_error(bins, probability - label, probability * (1 - probability), weight)


def brier_score(
    probabilities: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None
) -> float:
    r"""Mean squared distance between probability and label.

    $$\frac{1}{n} \sum_i (p_i - y_i)^2$$

    Args:
        probabilities: Probability of being correct, one per step.
        labels: Step labels in [0, 1]; soft labels enter as they are.
        weights: How often each step counts; default once.

    Returns:
        A value in [0, 1]; NaN without steps.

    Example:
        >>> brier_score([1.0, 0.5], [1, 0])
        0.125
    """
    probability, label, weight = _units(probabilities, labels, weights)
    return weighted_mean((probability - label) ** 2, weight)


def weighted_mean(values: ArrayLike, weights: ArrayLike) -> float:
    """Return the weighted mean, NaN if the weights sum to 0.

    Example:
        >>> weighted_mean([1.0, 4.0], [2, 1])
        2.0
    """
    weight = np.asarray(weights, dtype=np.float64)
    total = weight.sum()
    return float((np.asarray(values) * weight).sum() / total) if total > 0 else np.nan


def _units(
    probabilities: ArrayLike, labels: ArrayLike, weights: ArrayLike | None
) -> tuple[Array, Array, Array]:
    probability = np.asarray(probabilities, dtype=np.float64)
    label = np.asarray(labels, dtype=np.float64)
    return probability, label, unit_weights(weights, len(probability))


def unit_weights(weights: ArrayLike | None, num_units: int) -> Array:
    """Return how often each unit counts: once if nothing is said."""
    return np.ones(num_units) if weights is None else np.asarray(weights, dtype=np.float64)


def _has_both(labels: Array, weights: Array) -> bool:
    return bool(0 < (weights * (labels >= 0.5)).sum() < weights.sum())


def strata_of(sources: ArrayLike, positions: ArrayLike) -> Indices:
    """Number the pairs of a source and a position, from 0 up without a gap.

    Example:
        >>> strata_of([0, 0, 1, 1], [0, 1, 0, 0]).tolist()
        [0, 1, 2, 2]
    """
    pairs = np.stack([np.asarray(sources), np.asarray(positions)], axis=1)
    numbers: Indices = np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)
    return numbers


STEP_AUROC = Metric(
    "step_auroc",
    "step AUROC",
    True,
    "a soft label of 0.5 and above is correct; a tie counts half",
    "labeled steps",
    "headline",
)
AUROC_WITHIN_INDEX = Metric(
    "auroc_within_index",
    "AUROC within index",
    True,
    "of a correct and a wrong step of one source at the same index in their chains; a tie counts "
    "half: what is left of step AUROC where the place says nothing",
    "labeled steps",
    "brief",
)
ERROR_AP = Metric(
    "error_ap",
    "error AP",
    True,
    "average precision with the wrong step as the positive class",
    "labeled steps",
    "brief",
)
ECE = Metric(
    "ece",
    "ECE",
    False,
    "15 bins of equal width, probability against observed frequency, not folded; without what "
    "chance adds, taking steps as independent, so that it is near 0 for calibrated probabilities; "
    "no interval, as none of a distance near 0 covers",
    "labeled steps",
    has_interval=False,
)
BRIER = Metric(
    "brier", "Brier", False, "mean squared distance of probability and label", "labeled steps"
)


class StepUnits(Units):
    """Labeled steps as one scorer sees them.

    Args:
        probabilities: Probability of being correct, shape `[step]`.
        labels: Step labels in [0, 1], shape `[step]`.
        groups: Number of the problem of each step; by default each is its own.
        strata: Number of each step's source and index in its chain, from 0 up; without it the
            AUROC within them is not defined.

    Example:
        >>> StepUnits(np.array([0.9, 0.2]), np.array([1.0, 0.0])).values()["step_auroc"]
        1.0
    """

    def __init__(
        self,
        probabilities: Array,
        labels: Array,
        groups: Indices | None = None,
        strata: Indices | None = None,
    ) -> None:
        super().__init__(apart(len(labels)) if groups is None else groups)
        self.probability, self.label = probabilities, labels
        self.ranking = Ranking(probabilities, labels)
        known = strata is not None
        self.within = Ranking(probabilities, labels, strata=strata) if known else None

    metrics: ClassVar[Measures] = {
        STEP_AUROC: lambda steps, weights: steps.ranking.auroc(weights),
        AUROC_WITHIN_INDEX: lambda steps, weights: (
            np.nan if steps.within is None else steps.within.auroc(weights)
        ),
        ERROR_AP: lambda steps, weights: steps.ranking.error_ap(weights),
        ECE: lambda steps, weights: expected_calibration_error(
            steps.probability, steps.label, weights, debias=True
        ),
        BRIER: lambda steps, weights: brier_score(steps.probability, steps.label, weights),
        PRM_SCORE: lambda steps, weights: prm_score(steps.probability, steps.label, weights),
    }
