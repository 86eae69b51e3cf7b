"""Losses of ratings: a number per response and objective, on whatever scale it was given.

A loss is two pure pieces over any number of responses, so that the sum over micro-batches and ranks
equals the whole optimizer batch:

- `weights(values)`: how much each response counts, from labels alone (0 where it was not rated);
- `per_response(columns, readout, values)`: the loss of each response, from the head's columns.

The loss of an optimizer batch is `sum(weights * per_response) / sum(weights)`, both sums over the
whole batch; it is 0 when nothing is rated. All losses are finite for any finite input (tested at
1e4) and are computed in float32. Before training, `check` refuses values that the loss is not made
for, and `fit` takes from the training values what the loss must know of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from prm.errors import ConfigError
from prm.losses.checks import check_class_weight, check_labels, check_smoothing, class_totals
from prm.losses.readouts import (
    ResponseLoss,
    ResponseReadout,
    are_levels,
    score,
    standard_deviation,
)

MIN_GAP = 1e-3
"""Smallest distance of neighboring thresholds, so that every level stays possible."""


class RatingLoss(ResponseLoss):
    """Base of the losses of ratings.

    Attributes:
        in_label_units: Whether the score is in the units of the ratings, so that both can be
            compared as numbers.
    """

    in_label_units: ClassVar[bool] = False

    def weights(self, values: Tensor) -> Tensor:
        """Return how much each response counts, `[read]`, 0 where its value is NaN."""
        return (~values.isnan()).float()

    def per_response(self, columns: Tensor, readout: ResponseReadout, values: Tensor) -> Tensor:
        """Return the loss of each response, `[read]`; one without a value may hold any number.

        Args:
            columns: Head output, `[read, column]`.
            readout: What the columns mean.
            values: The rating of each response, NaN where there is none, `[read]`.

        Raises:
            ConfigError: The loss cannot train this readout, or shapes do not fit.
        """
        self.check_columns(columns, readout)
        if values.shape != columns.shape[:1]:
            shapes = tuple(columns.shape), tuple(values.shape)
            raise ConfigError("shapes are wrong", expected="one value per read", got=shapes)
        return self._losses(columns.float(), values.float().nan_to_num(0.0))

    def sum(self, columns: Tensor, readout: ResponseReadout, values: Tensor) -> Tensor:
        """Return `sum(weights * per_response)`, a scalar; 0 (with gradient 0) if none is rated."""
        rated = ~values.isnan()
        columns = torch.where(rated[:, None], columns.float(), 0.0)
        losses = self.per_response(columns, readout, values)
        return torch.where(rated, losses, 0.0).mul(self.weights(values)).sum()

    def check(self, values: Tensor) -> None:
        """Check that all values that are not NaN are of the kind that the loss is made for.

        Raises:
            DataError: One of them is not; it is named.
        """
        check_labels("rating", values, values.isfinite(), "a finite number")

    def fit(self, values: Tensor) -> None:
        """Take from all training values, `[rating]`, what the loss must know before training."""

    def _losses(self, columns: Tensor, values: Tensor) -> Tensor:
        raise NotImplementedError


class MeanSquaredError(RatingLoss):
    """Squared error of the score, `(s - y)^2`, in the units of the ratings.

    Args:
        low: Lowest value that a rating can have; `check` refuses lower ones. None: any.
        high: Highest value that a rating can have; `check` refuses higher ones. None: any.
    """

    in_label_units = True

    def __init__(self, low: float | None = None, high: float | None = None) -> None:
        super().__init__()
        self.low = low
        self.high = high
        self._range = (-math.inf if low is None else low, math.inf if high is None else high)
        if not self._range[0] < self._range[1]:
            raise ConfigError("range is wrong", expected="low < high", got=(low, high))

    def check(self, values: Tensor) -> None:
        super().check(values)
        low, high = self._range
        check_labels(
            "rating", values, (values >= low) & (values <= high), f"a number in [{low}, {high}]"
        )

    def _losses(self, columns: Tensor, values: Tensor) -> Tensor:
        return (score(columns, "value") - values).square()


class BinaryCrossEntropy(RatingLoss):
    """Cross-entropy of yes/no ratings, or of probabilities: `-y log p - (1 - y) log(1 - p)`.

    The score is the log-odds of p.

    Args:
        label_smoothing: Moves ratings towards 1/2: `y (1 - s) + s / 2`, with s in [0, 1).
        positive_weight: How much a rating of 1 counts relative to one of 0; a soft one is weighted
            in between. `balanced` makes both classes count the same over the training set: the
            ratio of negatives to positives is filled in by `fit`.

    Example:
        >>> loss = BinaryCrossEntropy()
        >>> loss.per_response(torch.zeros(2, 1), "value", torch.tensor([1.0, 0.0]))
        tensor([0.6931, 0.6931])
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        positive_weight: float | Literal["balanced"] = 1.0,
    ) -> None:
        super().__init__()
        check_class_weight("positive_weight", positive_weight)
        self.label_smoothing = check_smoothing(label_smoothing)
        self.positive_weight = positive_weight

    def check(self, values: Tensor) -> None:
        check_labels("rating", values, (values >= 0) & (values <= 1), "a number in [0, 1]")

    def fit(self, values: Tensor) -> None:
        """Replace `positive_weight="balanced"` by the ratio of negatives to positives.

        Raises:
            ConfigError: One of the classes does not occur.
        """
        if self.positive_weight == "balanced":
            classes = ("positive", "negative")
            positive, negative = class_totals("positive_weight", values, "ratings", classes)
            self.positive_weight = negative / positive

    def weights(self, values: Tensor) -> Tensor:
        if self.positive_weight == "balanced":
            raise ConfigError(
                "positive_weight 'balanced' was not fitted", fix="Call fit before training"
            )
        known = values.float().nan_to_num(0.0)
        weights = known * float(self.positive_weight) + (1 - known)
        return torch.where(values.isnan(), 0.0, weights)

    def _losses(self, columns: Tensor, values: Tensor) -> Tensor:
        targets = values * (1 - self.label_smoothing) + self.label_smoothing / 2
        return functional.binary_cross_entropy_with_logits(
            score(columns, "value"), targets, reduction="none"
        )


def cumulative_link_loss(scores: Tensor, levels: Tensor, thresholds: Tensor) -> Tensor:
    """Return `-log P(y)` under proportional odds, `[read]`.

    With the thresholds a below and b above level y, `P(y) = sigmoid(b - s) - sigmoid(a - s)`, and
    `log P(y) = log sigmoid(b - s) + log sigmoid(s - a) + log(1 - exp(a - b))`, which is stable; the
    lowest level has no a, the highest no b.

    Args:
        scores: s, `[read]`.
        levels: y, from 0, `[read]`. int64.
        thresholds: Strictly ascending, `[level - 1]`.
    """
    last = thresholds.numel() - 1
    lower, upper = (levels - 1).clamp(min=0), levels.clamp(max=last)
    above = functional.logsigmoid(scores - thresholds[lower])
    below = functional.logsigmoid(thresholds[upper] - scores)
    inner = (levels > 0) & (levels <= last)
    gaps = torch.where(inner, thresholds[upper] - thresholds[lower], 1.0)
    interval = torch.log(-torch.expm1(-gaps))
    outer = torch.where(levels > 0, above, below)
    return -torch.where(inner, above + below + interval, outer)


class CumulativeLink(RatingLoss):
    """Ordered levels as intervals of one score (ordinal regression, proportional odds).

    `P(y <= k) = sigmoid(b_k - s)` for levels 0 to L - 1, with learned thresholds
    `b_0 < b_1 < ... < b_{L-2}`. The score keeps one meaning, "higher is a higher level", whatever
    the distances of the levels. `fit` starts the thresholds at the log-odds of the levels'
    frequencies, where a score of 0 predicts exactly these.

    Args:
        num_levels: L, at least 2.

    Source: McCullagh 1980, "Regression models for ordinal data".
    """

    def __init__(self, num_levels: int) -> None:
        super().__init__()
        if num_levels < 2:
            raise ConfigError("num_levels is wrong", expected="2 or more", got=num_levels)
        self.num_levels = num_levels
        self.raw_thresholds = nn.Parameter(torch.empty(num_levels - 1))
        self.fit(torch.arange(num_levels))

    @property
    def thresholds(self) -> Tensor:
        """The thresholds, ascending, `[num_levels - 1]`."""
        raw = self.raw_thresholds.float()
        gaps = functional.softplus(raw[1:]) + MIN_GAP
        return torch.cat([raw[:1], gaps]).cumsum(dim=0)

    def check(self, values: Tensor) -> None:
        levels = (values >= 0) & (values < self.num_levels) & (values == values.floor())
        check_labels("rating", values, levels, f"a whole number from 0 to {self.num_levels - 1}")

    @torch.no_grad()
    def fit(self, values: Tensor) -> None:
        """Start the thresholds at the frequencies of the levels, each seen half a time more."""
        known = values[~values.isnan()].long()
        counts = torch.bincount(known, minlength=self.num_levels).double() + 0.5
        starts = torch.logit(counts.cumsum(dim=0)[:-1] / counts.sum())
        gaps = (starts.diff() - MIN_GAP).clamp(min=MIN_GAP)
        raw_gaps = gaps + torch.log(-torch.expm1(-gaps))
        self.raw_thresholds.copy_(torch.cat([starts[:1], raw_gaps]))

    def _losses(self, columns: Tensor, values: Tensor) -> Tensor:
        return cumulative_link_loss(score(columns, "value"), values.long(), self.thresholds)


def pinball_loss(quantiles: Tensor, values: Tensor, levels: Tensor) -> Tensor:
    """Return the mean over levels q of `max(q e, (q - 1) e)`, `[read]`, with `e = y - quantile`.

    Args:
        quantiles: `[read, level]`.
        values: y, `[read]`.
        levels: q, `[level]`.
    """
    errors = values[:, None] - quantiles
    return torch.maximum(levels * errors, (levels - 1) * errors).mean(dim=-1)


class Pinball(RatingLoss):
    """Quantile regression: one column per level q, with `max(q e, (q - 1) e)`, `e = y - column`.

    The mean over the levels is the loss; its minimum is where each column is that quantile of the
    ratings. The score is the mean over the columns; the spread is that of the normal distribution
    nearest to them. The levels are part of the head in the spec.

    Args:
        levels: Two or more quantile levels in (0, 1), ascending.

    Source: Koenker and Bassett 1978, "Regression quantiles".
    """

    readouts = ("quantile",)
    in_label_units = True

    def __init__(self, levels: Sequence[float] = (0.1, 0.5, 0.9)) -> None:
        super().__init__()
        self.levels = tuple(levels)
        if len(self.levels) < 2 or not are_levels(self.levels):
            raise ConfigError(
                "levels is wrong", expected="two or more numbers in (0, 1), ascending", got=levels
            )
        self.num_columns = len(self.levels)

    def _losses(self, columns: Tensor, values: Tensor) -> Tensor:
        levels = torch.tensor(self.levels, device=columns.device)
        return pinball_loss(columns, values, levels)


def gaussian_loss(means: Tensor, deviations: Tensor, values: Tensor) -> Tensor:
    """Return minus the log-density of the values under normal distributions, elementwise."""
    errors = (values - means) / deviations
    return errors.square() / 2 + deviations.log() + math.log(2 * math.pi) / 2


class GaussianLikelihood(RatingLoss):
    """Negative log-likelihood of a normal distribution whose mean and spread the head gives.

    `((y - mu) / sigma)^2 / 2 + log sigma + log(2 pi) / 2`, with sigma at least 0.001.

    Source: Nix and Weigend 1994, "Estimating the mean and variance of the target probability
    distribution".
    """

    readouts = ("gaussian",)
    num_columns = 2
    in_label_units = True

    def _losses(self, columns: Tensor, values: Tensor) -> Tensor:
        return gaussian_loss(score(columns, "gaussian"), standard_deviation(columns), values)
