"""Finding the first wrong step of a chain, as ProcessBench counts it.

A first error is a 0-based step index, or one of three negative codes: `CLEAN` (no step is wrong),
`UNDECIDED` (the labels do not say; such chains do not count) and, for predictions, `UNSCORED`
(there is none; it is wrong whatever the truth).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prm.arrays import Array, Indices
from prm.metrics.metric import Measures, Metric, Units, apart

CLEAN = -1
UNDECIDED = -2
UNSCORED = -3

DEFAULT_THRESHOLD = 0.5


def predict_first_error(
    probabilities: ArrayLike, threshold: float = DEFAULT_THRESHOLD, *, complete: bool = True
) -> int:
    """Return the index of the first step with a probability below the threshold.

    Args:
        probabilities: Probability of being correct, one per step in order; NaN is a step that was
            not scored and is passed over.
        threshold: A step is judged wrong strictly below it.
        complete: Whether all that matters was scored. If not, a chain without a flagged step has
            no prediction, since the error may lie where the model did not look.

    Returns:
        The 0-based index; `CLEAN` if no step is flagged; `UNSCORED` if no step was scored or the
        chain is not complete.

    Example:
        >>> predict_first_error([0.9, 0.4, 0.2]), predict_first_error([0.9, 0.5])
        (1, -1)
    """
    probability = np.asarray(probabilities, dtype=np.float64)
    flagged = np.flatnonzero(probability < threshold)
    if len(flagged):
        return int(flagged[0])
    return UNSCORED if np.isnan(probability).all() or not complete else CLEAN


def processbench_f1(error_acc: float, correct_acc: float) -> float:
    r"""Harmonic mean of the accuracies on erroneous and on clean chains.

    $$F_1 = \frac{2 a_e a_c}{a_e + a_c}$$ This is not the F1 of precision and recall.

    Args:
        error_acc: Share of erroneous chains whose first error is found exactly.
        correct_acc: Share of clean chains in which no step is flagged.

    Returns:
        A value in the unit of its arguments; 0 if both are 0, NaN if either is NaN.

    Example:
        >>> round(processbench_f1(52.2, 96.9), 2)
        67.85

    Source:
        ProcessBench (arXiv 2412.06559), section 2; the official code divides by zero where this
        returns 0.
    """
    total = error_acc + correct_acc
    return 0.0 if total == 0 else 2 * error_acc * correct_acc / total


def best_threshold(
    probabilities: Sequence[Array],
    true: ArrayLike,
    complete: ArrayLike | None = None,
) -> tuple[float, float]:
    """Return the threshold in [0, 1] with the highest ProcessBench F1, and that F1.

    Chosen on the labels it is judged by, so an upper bound: report it under a key that ends in
    `_oracle`. Exact: the F1 only changes where the threshold passes a running minimum.

    Args:
        probabilities: One array per chain; NaN is a step that was not scored.
        true: Step index, `CLEAN` or `UNDECIDED`, one per chain.
        complete: Whether all that matters of a chain was scored, as in `predict_first_error`;
            default yes.

    Returns:
        The smallest best threshold and its F1; both NaN without an erroneous and a clean chain.

    Example:
        >>> chains = [np.array([0.9, 0.7]), np.array([0.95, 0.8])]
        >>> best_threshold(chains, [1, -1])
        (0.8, 1.0)
    """
    truth = np.asarray(true)
    whole = np.ones(len(truth), dtype=bool) if complete is None else np.asarray(complete)
    rows = list(zip(probabilities, truth.tolist(), whole.tolist(), strict=True))
    wrong = np.array([_hit_range(p, first) for p, first, _ in rows if first >= 0])
    clean = np.array([_lowest(p) if ok else -np.inf for p, first, ok in rows if first == CLEAN])
    if not len(wrong) or not len(clean):
        return np.nan, np.nan
    low, high = np.sort(wrong[:, 0]), np.sort(wrong[:, 1])
    thresholds = np.unique(np.concatenate([low, high, clean, [1.0]]))
    thresholds = thresholds[(thresholds >= 0) & (thresholds <= 1)]
    hits = np.searchsorted(low, thresholds) - np.searchsorted(high, thresholds)
    kept = len(clean) - np.searchsorted(np.sort(clean), thresholds)
    scores = [
        processbench_f1(hit / len(wrong), keep / len(clean))
        for hit, keep in zip(hits.tolist(), kept.tolist(), strict=True)
    ]
    best = int(np.argmax(scores))
    return float(thresholds[best]), float(scores[best])


def _hit_range(probabilities: Array, first: int) -> tuple[float, float]:
    """Return (low, high): thresholds with low < threshold <= high find exactly step `first`."""
    if first >= len(probabilities) or np.isnan(probabilities[first]):
        return np.inf, np.inf
    low, high = float(probabilities[first]), _lowest(probabilities[:first], default=np.inf)
    return (low, high) if low < high else (np.inf, np.inf)


def _lowest(probabilities: Array, default: float = -np.inf) -> float:
    """Return the smallest scored probability; `default` if there is none."""
    scored = probabilities[~np.isnan(probabilities)]
    return float(scored.min()) if len(scored) else default


def lowest_is_last(probabilities: Array) -> float:
    """Return 1 if the last scored step alone has the lowest probability, else 0.

    Args:
        probabilities: Probability of being correct, one per step; NaN is a step that was not
            scored.

    Returns:
        NaN if fewer than two steps were scored.

    Example:
        >>> lowest_is_last(np.array([0.9, 0.8, 0.3])), lowest_is_last(np.array([0.3, 0.3]))
        (1.0, 0.0)
    """
    scored = probabilities[~np.isnan(probabilities)]
    return float(scored[:-1].min() > scored[-1]) if len(scored) > 1 else np.nan


FIRST_ERROR_ACCURACY = Metric(
    "first_error_accuracy",
    "first error",
    True,
    "exact matches of the first error among all chains whose labels decide it",
    "chains",
)
ERROR_ACC = Metric(
    "error_acc",
    "error acc",
    True,
    "exact matches among chains with an error",
    "chains with an error",
    "brief",
)
CORRECT_ACC = Metric(
    "correct_acc",
    "correct acc",
    True,
    "share of chains without an error in which no step is flagged",
    "chains without an error",
    "brief",
)
PROCESSBENCH_F1 = Metric(
    "processbench_f1",
    "F1",
    True,
    "harmonic mean of error_acc and correct_acc; 0 when both are 0",
    "chains",
    "headline",
)
ERROR_RECALL = Metric(
    "error_recall",
    "error recall",
    True,
    "share of chains with an error in which any step is flagged",
    "chains with an error",
)
MIN_ON_LAST_STEP = Metric(
    "min_on_last_step",
    "min on last",
    None,
    "share of chains of two or more steps whose last step alone is lowest",
    "chains of two or more steps",
)


class ChainUnits(Units):
    """Chains with the first error that one scorer predicts.

    Args:
        predicted: Step index, `CLEAN` or `UNSCORED`, shape `[chain]`.
        true: Step index, `CLEAN` or `UNDECIDED`, shape `[chain]`.
        lowest_is_last: 1 where the last step alone is lowest, else 0; NaN for fewer than two steps,
            the default.
        groups: Number of the problem of each chain; by default each is its own.

    Example:
        >>> chains = ChainUnits(np.array([1, 0, -1]), np.array([1, 2, -1]))
        >>> chains.values()["processbench_f1"]
        0.6666666666666666
    """

    def __init__(
        self,
        predicted: NDArray[Any],
        true: NDArray[Any],
        lowest_is_last: Array | None = None,
        groups: Indices | None = None,
    ) -> None:
        super().__init__(apart(len(true)) if groups is None else groups)
        lowest = np.full(len(true), np.nan) if lowest_is_last is None else lowest_is_last
        hit, flagged = predicted == true, predicted >= 0
        wrong, clean, several = true >= 0, true == CLEAN, ~np.isnan(lowest)
        columns = {
            FIRST_ERROR_ACCURACY: (hit, wrong | clean),
            ERROR_ACC: (hit, wrong),
            CORRECT_ACC: (hit, clean),
            ERROR_RECALL: (flagged, wrong),
            MIN_ON_LAST_STEP: (lowest, several),
        }
        self.columns: dict[Metric, tuple[Array, Array]] = {
            metric: (np.where(where, values, 0).astype(float), where.astype(float))
            for metric, (values, where) in columns.items()
        }

    def about(self, metric: Metric) -> Array:
        """Return 1 for the chains that a metric is about, 0 for the others."""
        return self.columns[FIRST_ERROR_ACCURACY if metric == PROCESSBENCH_F1 else metric][1]

    def count(self, metric: Metric) -> int:
        return int(self.about(metric).sum())

    def mean(self, metric: Metric, weights: Array) -> float:
        """Return a share of the chains that a metric is about, each counting that often."""
        values, where = self.columns[metric]
        total = weights @ where
        return float(weights @ values / total) if total > 0 else np.nan

    def f1(self, weights: Array) -> float:
        """Return the harmonic mean of the accuracies on erroneous and on clean chains."""
        return processbench_f1(self.mean(ERROR_ACC, weights), self.mean(CORRECT_ACC, weights))

    metrics: ClassVar[Measures] = {
        FIRST_ERROR_ACCURACY: lambda chains, weights: chains.mean(FIRST_ERROR_ACCURACY, weights),
        ERROR_ACC: lambda chains, weights: chains.mean(ERROR_ACC, weights),
        CORRECT_ACC: lambda chains, weights: chains.mean(CORRECT_ACC, weights),
        PROCESSBENCH_F1: f1,
        ERROR_RECALL: lambda chains, weights: chains.mean(ERROR_RECALL, weights),
        MIN_ON_LAST_STEP: lambda chains, weights: chains.mean(MIN_ON_LAST_STEP, weights),
    }
