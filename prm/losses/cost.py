"""The loss of an objective with a natural zero, safety first: which is better, and is it good."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from prm.errors import ConfigError
from prm.losses.checks import check_labels
from prm.losses.preference import (
    MemberPairs,
    PairLabels,
    PreferenceLoss,
    PreferenceTargets,
    bradley_terry,
)
from prm.losses.readouts import ResponseReadout, score


def sign_loss(utilities: Tensor, acceptable: Tensor) -> Tensor:
    """Return `-log sigmoid(l u)`, elementwise, with l 1 where `acceptable` is 1 and -1 where 0.

    Example:
        >>> sign_loss(torch.tensor([-2.0, -2.0]), torch.tensor([1.0, 0.0]))
        tensor([2.1269, 0.1269])
    """
    return functional.softplus((1 - 2 * acceptable) * utilities)


class SignAwareCost(PreferenceLoss):
    """Bradley-Terry on pairs, plus the sign of each utility against what is known of the response.

    `-log sigmoid(u_1 - u_2) - sign_weight * sum_i log sigmoid(l_i u_i)`, where `l_i` is 1 if a
    label is 1, acceptable, and -1 if it is 0; unlabeled responses are left out. With direction
    `minimize` the score is a cost, `-u`: positive where a response is harmful.

    Args:
        ties: What becomes of a pair of equal rank; its labels count in any case. See
            `PairLabels`.
        label_smoothing: Of the pairs. See `PairLabels`.
        sign_weight: Weight of the second term, above 0.

    Source: Dai et al. 2023 (Safe RLHF), arXiv 2310.12773, the cost model's objective.
    """

    uses_ratings = True

    def __init__(
        self,
        ties: Literal["drop", "half"] = "drop",
        label_smoothing: float = 0.0,
        sign_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.labels = PairLabels(ties, label_smoothing)
        if not 0 < sign_weight < float("inf"):
            raise ConfigError("sign_weight is wrong", expected="a number above 0", got=sign_weight)
        self.sign_weight = sign_weight

    def weights(self, targets: PreferenceTargets) -> Tensor:
        """Return 1 for each comparison with a pair that counts or a labeled response."""
        labeled = (~targets.label.isnan()).float()
        num_labeled = targets.sum(labeled, targets.comparison)
        return torch.maximum(super().weights(targets), num_labeled.clamp(max=1.0))

    def check_ratings(self, values: Tensor) -> None:
        check_labels("rating", values, (values == 0) | (values == 1), "0 or 1")

    def per_pair(self, first: Tensor, second: Tensor, sign: int, pairs: MemberPairs) -> Tensor:
        difference = sign * (score(first, "value") - score(second, "value"))
        return bradley_terry(difference, self.labels.target(pairs))

    def counted_members(self, targets: PreferenceTargets) -> Tensor:
        in_pair = super().weights(targets)[targets.comparison] > 0
        return in_pair | ~targets.label.isnan()

    def per_comparison(
        self, columns: Tensor, readout: ResponseReadout, sign: int, targets: PreferenceTargets
    ) -> Tensor:
        order = super().per_comparison(columns, readout, sign, targets)
        labels = targets.label
        utilities = sign * score(columns, readout)[targets.read]
        losses = sign_loss(utilities, labels.nan_to_num(0.0))
        known = torch.where(labels.isnan(), 0.0, losses)
        return order + self.sign_weight * targets.sum(known, targets.comparison)
