"""Pairwise losses in which a tie is a third outcome, with its own probability.

Both models learn from data how often responses of given utilities tie, instead of dropping ties or
calling them half a win for each side. The probabilities of the three outcomes sum to 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from prm.losses.preference import MemberPairs, PreferenceLoss
from prm.losses.readouts import score

MIN_THRESHOLD = 1e-3
"""Smallest threshold of `RaoKupper`; at 0 a tie would be impossible."""


def davidson_log_probabilities(difference: Tensor, log_tie: Tensor) -> Tensor:
    """Return the log-probabilities that the first wins, ties, loses, `[..., 3]`.

    Args:
        difference: d, how much higher the utility of the first is, `[...]`.
        log_tie: log nu, a scalar.

    Example:
        >>> davidson_log_probabilities(torch.zeros(1), torch.tensor(0.0)).exp()
        tensor([[0.3333, 0.3333, 0.3333]])
    """
    half = difference / 2
    return torch.stack([half, log_tie.expand_as(half), -half], dim=-1).log_softmax(dim=-1)


class Davidson(PreferenceLoss):
    """Bradley-Terry with ties as likely as the geometric mean of the two wins allows.

    `P(1 > 2) : P(tie) : P(2 > 1) = exp(d / 2) : nu : exp(-d / 2)`, where `d = u_1 - u_2` and
    `log nu` is learned, from 0: between equal responses all three outcomes are as likely.

    Source: Davidson 1970, "On extending the Bradley-Terry model to accommodate ties".
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_tie = nn.Parameter(torch.zeros(()))

    def per_pair(self, first: Tensor, second: Tensor, sign: int, pairs: MemberPairs) -> Tensor:
        difference = sign * (score(first, "value") - score(second, "value"))
        return _loss(davidson_log_probabilities(difference, self.log_tie.float()), pairs.tied)


def rao_kupper_log_probabilities(difference: Tensor, threshold: Tensor) -> Tensor:
    """Return the log-probabilities that the first wins, ties, loses, `[..., 3]`.

    A tie has `(exp(2 tau) - 1) sigmoid(d - tau) sigmoid(-d - tau)`, which is what the wins leave.

    Args:
        difference: d, how much higher the utility of the first is, `[...]`.
        threshold: tau, a scalar above 0.
    """
    win = functional.logsigmoid(difference - threshold)
    lose = functional.logsigmoid(-difference - threshold)
    log_expm1 = 2 * threshold + torch.log(-torch.expm1(-2 * threshold))
    return torch.stack([win, log_expm1 + win + lose, lose], dim=-1)


class RaoKupper(PreferenceLoss):
    """Bradley-Terry with a threshold below which two responses cannot be told apart.

    `P(1 > 2) = sigmoid(d - tau)`, `P(2 > 1) = sigmoid(-d - tau)`, a tie is the rest, where
    `d = u_1 - u_2` and `tau = softplus(raw) + 0.001` is learned in score units, from `log 2`:
    between equal responses all three outcomes are as likely.

    Source: Rao and Kupper 1967, "Ties in paired-comparison experiments" (`theta = exp(tau)`).
    """

    def __init__(self) -> None:
        super().__init__()
        self.raw_threshold = nn.Parameter(torch.zeros(()))

    @property
    def threshold(self) -> Tensor:
        """The threshold tau, a scalar above 0."""
        return functional.softplus(self.raw_threshold.float()) + MIN_THRESHOLD

    def per_pair(self, first: Tensor, second: Tensor, sign: int, pairs: MemberPairs) -> Tensor:
        difference = sign * (score(first, "value") - score(second, "value"))
        return _loss(rao_kupper_log_probabilities(difference, self.threshold), pairs.tied)


def _loss(log_probabilities: Tensor, tied: Tensor) -> Tensor:
    """Return minus the log-probability of what happened: the first won, or it was a tie."""
    return -torch.where(tied, log_probabilities[:, 1], log_probabilities[:, 0])
