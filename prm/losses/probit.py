"""The loss of pairs for heads that say how unsure they are: a mean and a standard deviation."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from prm.losses.checks import check_shapes
from prm.losses.preference import MemberPairs, PairLabels, PreferenceLoss
from prm.losses.readouts import score, standard_deviation


def log_normal_cdf(z: Tensor) -> Tensor:
    """Return `log Phi(z)`, elementwise, with a right gradient at any z.

    The gradient of `torch.special.log_ndtr` is wrong in float32 below -1e4: a difference of two
    huge logarithms. Here the square is apart from the rest: `log(erfcx(-z / sqrt 2) / 2) - z^2 / 2`
    on the left, `log(1 - erfc(z / sqrt 2) / 2)` on the right.

    Example:
        >>> log_normal_cdf(torch.tensor([0.0, -1e4]))
        tensor([-6.9315e-01, -5.0000e+07])
    """
    low, high = z.clamp(max=0.0), z.clamp(min=0.0)
    left = torch.log(torch.special.erfcx(-low * math.sqrt(0.5)) / 2) - low.square() / 2
    right = torch.log1p(-torch.erfc(high * math.sqrt(0.5)) / 2)
    return torch.where(z < 0, left, right)


def probit(difference: Tensor, target: Tensor) -> Tensor:
    """Return `-t log Phi(z) - (1 - t) log Phi(-z)`, `[pair]`, Phi the normal distribution function.

    Args:
        difference: z, the difference of the utilities over its standard deviation, `[pair]`.
        target: t, the probability that z should be positive, in [0, 1], `[pair]`.
    """
    check_shapes(difference, target)
    first, second = log_normal_cdf(difference), log_normal_cdf(-difference)
    return -target * first - (1 - target) * second


class GaussianPreference(PreferenceLoss):
    """Probit loss of two utilities of which only mean and standard deviation are known.

    The first is better with probability `Phi((u_1 - u_2) / sqrt(sigma_1^2 + sigma_2^2))`; the loss
    is the cross-entropy against the probability t that it is. Both columns learn: a pair that the
    model gets wrong raises the standard deviations.

    Args:
        ties: See `PairLabels`.
        label_smoothing: See `PairLabels`.
        votes: See `PairLabels`.

    Source: Thurstone 1927, "A law of comparative judgment" (uncorrelated responses).
    """

    readouts = ("gaussian",)
    num_columns = 2

    def __init__(
        self,
        ties: Literal["drop", "half"] = "drop",
        label_smoothing: float = 0.0,
        votes: bool = False,
    ) -> None:
        super().__init__()
        self.labels = PairLabels(ties, label_smoothing, votes)

    def per_pair(self, first: Tensor, second: Tensor, sign: int, pairs: MemberPairs) -> Tensor:
        difference = sign * (score(first, "gaussian") - score(second, "gaussian"))
        deviation = torch.hypot(standard_deviation(first), standard_deviation(second))
        return probit(difference / deviation, self.labels.target(pairs))
