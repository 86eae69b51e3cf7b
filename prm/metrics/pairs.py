"""How well score margins tell the better response of a pair from the worse one.

One unit is one pair: `margins` says how much higher its first response is (difference of utilities,
so that the sigmoid is the probability that the first one is better), `outcomes` which one is: 1 the
first, 0 the second, 0.5 neither. A pair without a better response (0.5 or NaN) is left out, and so
is one without a margin (NaN), which was not scored.
Swapping the responses of a pair changes nothing. Every function takes `weights`, how often each
unit counts; a quantity that the data do not decide is NaN, never 0.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike

from prm.arrays import Array, Indices
from prm.metrics.binary import unit_weights, weighted_mean
from prm.metrics.calibration import binned_error, debiased_error
from prm.metrics.correlation import MidRanks, pearson
from prm.metrics.metric import Measures, Metric, Units, apart

Ties = Literal["wrong", "half"]
"""What equal scores count in a pair that has a better response: 0 or 0.5."""


def pair_accuracy(
    margins: ArrayLike,
    outcomes: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    ties: Ties = "wrong",
) -> float:
    """Share of pairs whose better response has the higher score.

    Args:
        margins: Score of the first response minus score of the second.
        outcomes: 1 if the first response is better, 0 if the second is, 0.5 if neither.
        weights: How often each pair counts; default once.
        ties: What a margin of 0 counts: nothing (strict accuracy) or half.

    Returns:
        A value in [0, 1]; NaN if no pair has a better response.

    Example:
        >>> pair_accuracy([2.0, 0.0, -1.0, 5.0], [1, 1, 1, 0.5])
        0.3333333333333333
        >>> pair_accuracy([2.0, 0.0, -1.0, 5.0], [1, 1, 1, 0.5], ties="half")
        0.5

    Source:
        RewardBench (arXiv 2403.13787) counts equal scores as wrong.
    """
    margin, weight = oriented(margins, outcomes, weights)
    return weighted_mean(hits(margin, ties), weight)


def pair_nll(margins: ArrayLike, outcomes: ArrayLike, weights: ArrayLike | None = None) -> float:
    r"""Mean negative log-likelihood of the better response under Bradley-Terry.

    $$-\frac{1}{n} \sum_i \log \sigma(m_i)$$ with the margin m of the better response.

    Args:
        margins: Utility of the first response minus utility of the second.
        outcomes: 1 if the first response is better, 0 if the second is, 0.5 if neither.
        weights: How often each pair counts; default once.

    Returns:
        A value from 0 up, log 2 for equal scores; NaN if no pair has a better response.

    Example:
        >>> round(pair_nll([0.0, 0.0], [1, 0]), 4)
        0.6931
    """
    margin, weight = oriented(margins, outcomes, weights)
    return weighted_mean(nll(margin), weight)


def pair_brier(margins: ArrayLike, outcomes: ArrayLike, weights: ArrayLike | None = None) -> float:
    r"""Mean squared distance between the probability of the better response and 1.

    $$\frac{1}{n} \sum_i (1 - \sigma(m_i))^2$$ with the margin m of the better response.

    Args:
        margins: Utility of the first response minus utility of the second.
        outcomes: 1 if the first response is better, 0 if the second is, 0.5 if neither.
        weights: How often each pair counts; default once.

    Returns:
        A value in [0, 1]; NaN if no pair has a better response.

    Example:
        >>> pair_brier([0.0, 0.0], [1, 0])
        0.25
    """
    margin, weight = oriented(margins, outcomes, weights)
    return weighted_mean(squared_error(margin), weight)


def pair_ece(
    margins: ArrayLike,
    outcomes: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    num_bins: int = 15,
    debias: bool = False,
) -> float:
    r"""Folded calibration error of the probability that one response is better.

    $$\sum_b \frac{n_b}{n} |a_b - c_b|$$ over bins of the confidence $\sigma(|m|)$ in [0.5, 1]: a is
    the share of pairs whose response of higher score is better (half for a margin of 0), c the mean
    confidence. Folding is needed: comparisons list the better response first, and against outcomes
    that are all 1 an unfolded error is 1 minus the mean probability, however calibrated the scores.

    Args:
        margins: Utility of the first response minus utility of the second.
        outcomes: 1 if the first response is better, 0 if the second is, 0.5 if neither.
        weights: How often each pair counts; default once.
        num_bins: Number of bins of equal width; the last one includes 1.
        debias: Whether to take off what chance adds; see `debiased_error`.

    Returns:
        A value in [0, 1], without `debias` biased upwards for few pairs; NaN if no pair has a
        better response.

    Example:
        >>> round(pair_ece([2.0, -2.0, 2.0, 2.0], [1, 0, 1, 0]), 4)
        0.1308

    Source:
        Folding as in arXiv 2311.14743.
    """
    margin, weight = oriented(margins, outcomes, weights)
    calibration = FoldedCalibration(margin, num_bins)
    return calibration.debiased(weight) if debias else calibration.error(weight)


class FoldedCalibration:
    """Pairs sorted into bins of confidence once, to be measured under many weightings.

    Args:
        margins: Margin of the better response.
        num_bins: Number of bins.
    """

    def __init__(self, margins: Array, num_bins: int = 15) -> None:
        confidence = sigmoid(np.abs(margins))
        bins = ((2 * confidence - 1) * num_bins).astype(np.int64)
        self.bins = np.minimum(bins, num_bins - 1)
        self.gaps = hits(margins, "half") - confidence
        self.variances = confidence * (1 - confidence)

    def error(self, weights: Array) -> float:
        """Return the calibration error; NaN if the weights sum to 0."""
        return binned_error(self.bins, self.gaps, weights)

    def debiased(self, weights: Array) -> float:
        """Return it without what chance adds; NaN if the weights sum to 0."""
        return debiased_error(self.bins, self.gaps, self.variances, weights)


def oriented(
    margins: ArrayLike, outcomes: ArrayLike, weights: ArrayLike | None = None
) -> tuple[Array, Array]:
    """Return margins of the better over the worse response, and weights, of the decided pairs.

    Pairs without a margin are left out as well.

    Example:
        >>> oriented([2.0, 3.0, 5.0, np.nan], [1, 0, 0.5, 1])[0].tolist()
        [2.0, -3.0]
    """
    margin = np.asarray(margins, dtype=np.float64)
    sign = 2 * np.asarray(outcomes, dtype=np.float64) - 1
    decided = (np.abs(sign) > 0) & ~np.isnan(margin)
    return (margin * np.sign(sign))[decided], unit_weights(weights, len(margin))[decided]


def hits(margins: Array, ties: Ties) -> Array:
    """Return 1 where the margin of the better response is positive, and what a tie counts.

    NaN where the margin is: a pair that was not scored is neither right nor wrong.
    """
    hit: Array = (margins > 0) + (0.5 if ties == "half" else 0.0) * (margins == 0)
    return np.where(np.isnan(margins), np.nan, hit)


def nll(margins: Array) -> Array:
    """Return the negative log-likelihood of each better response."""
    losses: Array = np.logaddexp(0.0, -margins)
    return losses


def squared_error(margins: Array) -> Array:
    """Return the squared distance of each better response's probability from 1."""
    return sigmoid(-margins) ** 2


def sigmoid(x: ArrayLike) -> Array:
    """Return 1 / (1 + exp(-x)) without overflow.

    Example:
        >>> sigmoid([-1e4, 0.0, 1e4]).tolist()
        [0.0, 0.5, 1.0]
    """
    probability: Array = np.exp(-np.logaddexp(0.0, -np.asarray(x, dtype=np.float64)))
    return probability


def minimum_domain(accuracies: ArrayLike) -> float:
    """Return the lowest accuracy over domains; NaN without a domain that has one.

    Example:
        >>> minimum_domain([0.8, np.nan, 0.6])
        0.6

    Source:
        Of PPE's metrics (arXiv 2410.14872), the best predictor of the trained policy's quality.
    """
    known = np.asarray(accuracies, dtype=np.float64)
    known = known[~np.isnan(known)]
    return float(known.min()) if len(known) else np.nan


PAIR_ACCURACY = Metric(
    "pair_accuracy",
    "strict pair accuracy",
    True,
    "share of pairs whose better response has the higher score; equal scores are wrong",
    "comparisons",
)
PAIR_ACCURACY_HALF = Metric(
    "pair_accuracy_half",
    "pair accuracy",
    True,
    "share of pairs whose better response has the higher score; equal scores count half",
    "comparisons",
    "headline",
)
PAIR_NLL = Metric(
    "pair_nll",
    "pair NLL",
    False,
    "negative log-likelihood of the better response: the sigmoid of the difference of utilities",
    "comparisons",
)
PAIR_BRIER = Metric(
    "pair_brier",
    "pair Brier",
    False,
    "squared distance to 1 of the sigmoid of the difference of utilities",
    "comparisons",
)
PAIR_ECE = Metric(
    "pair_ece",
    "pair ECE",
    False,
    "of the sigmoid of the difference of utilities, folded to confidences in [0.5, 1], 15 bins of "
    "equal width; without what chance adds, and without an interval, as none covers",
    "comparisons",
    has_interval=False,
)
STRENGTH_SPEARMAN = Metric(
    "strength_spearman",
    "strength Spearman",
    True,
    "rank correlation of the better response's margin with the strength of the preference",
    "comparisons with a strength",
)


class PairUnits(Units):
    """Decided pairs of responses as one scorer sees them.

    Args:
        margins: Utility of the better minus that of the worse response, shape `[pair]`; NaN was not
            scored, and leaves the pair out.
        shares: How much each pair counts, shape `[pair]`; default 1. The pairs of a ranking share
            a weight of 1.
        strengths: How much better the better one is, 0 or more, shape `[pair]`; NaN is unknown.
            Default unknown.
        groups: Number of the prompt of each pair; by default each is its own.
        is_probability: Whether the sigmoid of a margin is a probability; if not, likelihoods and
            calibration are undefined.

    Example:
        >>> values = PairUnits(np.array([1.0, -2.0, 0.0])).values()
        >>> round(values["pair_accuracy"], 4), values["pair_accuracy_half"]
        (0.3333, 0.5)
    """

    def __init__(
        self,
        margins: Array,
        shares: Array | None = None,
        strengths: Array | None = None,
        groups: Indices | None = None,
        is_probability: bool = True,
    ) -> None:
        known = ~np.isnan(margins)
        super().__init__((apart(len(margins)) if groups is None else groups)[known])
        self.shares = np.ones(len(self)) if shares is None else shares[known]
        self.margins = margins[known]
        self.is_probability = is_probability
        self.strict, self.half = hits(self.margins, "wrong"), hits(self.margins, "half")
        self.losses, self.squares = nll(self.margins), squared_error(self.margins)
        self.calibration = FoldedCalibration(self.margins)
        strengths = np.full(len(margins), np.nan) if strengths is None else strengths
        self.stated = ~np.isnan(strengths[known])
        self.margin_ranks = MidRanks(self.margins[self.stated])
        self.strength_ranks = MidRanks(strengths[known][self.stated])

    def weights(self, multiplicity: Array) -> Array:
        return super().weights(multiplicity) * self.shares

    def count(self, metric: Metric) -> int:
        counted = self.shares[self.stated] if metric == STRENGTH_SPEARMAN else self.shares
        return round(float(counted.sum()))

    def _strength_spearman(self, weights: Array) -> float:
        weight = weights[self.stated]
        return pearson(self.margin_ranks(weight), self.strength_ranks(weight), weight)

    metrics: ClassVar[Measures] = {
        PAIR_ACCURACY: lambda pairs, weights: weighted_mean(pairs.strict, weights),
        PAIR_ACCURACY_HALF: lambda pairs, weights: weighted_mean(pairs.half, weights),
        PAIR_NLL: lambda pairs, weights: (
            weighted_mean(pairs.losses, weights) if pairs.is_probability else np.nan
        ),
        PAIR_BRIER: lambda pairs, weights: (
            weighted_mean(pairs.squares, weights) if pairs.is_probability else np.nan
        ),
        PAIR_ECE: lambda pairs, weights: (
            pairs.calibration.debiased(weights) if pairs.is_probability else np.nan
        ),
        STRENGTH_SPEARMAN: _strength_spearman,
    }
