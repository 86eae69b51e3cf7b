"""How well accepting and rejecting steps at a threshold matches their labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from prm.metrics.metric import Metric


def prm_score(
    probabilities: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None
) -> float:
    """Return the mean of the F1 of correct and of wrong steps at a threshold of 0.5.

    Args:
        probabilities: Probability of being correct, one per step; above 0.5 it is accepted.
        labels: Step labels in [0, 1]; 0.5 and above is correct.
        weights: How often each step counts; default once.

    Returns:
        A value in [0, 1]; NaN if steps of a class are missing, among labels or verdicts, or a
        probability is.

    Example:
        >>> p = np.repeat([0.9, 0.9, 0.1, 0.1], [6, 1, 2, 1])
        >>> round(prm_score(p, np.repeat([1, 0, 0, 1], [6, 1, 2, 1])), 6)
        0.761905

    Source:
        PRMBench (arXiv 2501.03124), repository ssmisya/PRMBench.
    """
    probability = np.asarray(probabilities, dtype=np.float64)
    label = np.asarray(labels, dtype=np.float64)
    weight = np.ones(len(label)) if weights is None else np.asarray(weights, dtype=np.float64)
    accepted, correct = probability > 0.5, label >= 0.5
    scores: list[float] = []
    for verdict, truth in ((accepted, correct), (~accepted, ~correct)):
        judged, real = weight @ verdict, weight @ truth
        hit = weight @ (verdict & truth)
        scores.append(float(2 * hit / (judged + real)) if judged > 0 and real > 0 else np.nan)
    return float(np.mean(scores)) if not np.isnan(probability).any() else np.nan


PRM_SCORE = Metric(
    "prm_score",
    "PRMScore",
    True,
    "mean of the F1 of correct and of wrong steps, as PRMBench counts: a step is accepted above "
    "0.5, so that exactly 0.5 is rejected; not defined where a precision or recall is not",
    "labeled steps",
)
