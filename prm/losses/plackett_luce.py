"""The loss of a whole ranking: each response in turn is the best of those that remain."""

from __future__ import annotations

import torch
from torch import Tensor

from prm.losses.checks import check_sign
from prm.losses.preference import PreferenceLoss, PreferenceTargets
from prm.losses.readouts import ResponseReadout, score


def plackett_luce(utilities: Tensor, ranks: Tensor, present: Tensor) -> Tensor:
    """Return the negative log-likelihood of each ranking, `[comparison]`.

    Args:
        utilities: Utility of each response, `[comparison, member]`.
        ranks: Its rank, 0 for the best, `[comparison, member]`.
        present: Which members exist, `[comparison, member]`, bool; at least one per comparison. The
            others may hold any utility and rank 0.
    """
    remaining = present[:, None, :] & (ranks[:, None, :] >= ranks[:, :, None])
    rivals = torch.where(remaining, utilities[:, None, :], -torch.inf).logsumexp(dim=-1)
    return torch.where(present, rivals - utilities, 0.0).sum(dim=-1)


class PlackettLuce(PreferenceLoss):
    """Negative log-likelihood of the ranking of K responses; for a pair, Bradley-Terry.

    `sum_i [ log sum_{j: rank_j >= rank_i} exp(u_j) - u_i ]`. Members of a tie are each chosen from
    all that remained before the tie (Breslow's approximation), which pulls them together. The loss
    is that of the whole ranking: one of K responses, K - 1 choices, weighs more than a pair.

    Example:
        >>> members = torch.arange(3)
        >>> unknown = torch.full((1,), torch.nan)
        >>> ranking = PreferenceTargets(
        ...     members, members * 0, members, unknown, unknown, members * torch.nan)
        >>> PlackettLuce().per_comparison(torch.zeros(3, 1), "value", 1, ranking)  # log 3!
        tensor([1.7918])

    Source: Plackett 1975; Luce 1959; Breslow 1974 (ties).
    """

    def weights(self, targets: PreferenceTargets) -> Tensor:
        """Return 1 for each comparison: all of them say something."""
        return torch.ones_like(targets.strength, dtype=torch.float32)

    def per_comparison(
        self, columns: Tensor, readout: ResponseReadout, sign: int, targets: PreferenceTargets
    ) -> Tensor:
        check_sign(sign)
        self.check_columns(columns, readout)
        utilities = sign * score(columns, readout)[targets.read]
        slots = _slots(targets)
        num_slots = int(slots.max()) + 1 if slots.numel() else 1
        place = (targets.comparison, slots)
        table = utilities.new_zeros(targets.num_comparisons, num_slots)
        return plackett_luce(
            table.index_put(place, utilities),
            torch.zeros_like(table, dtype=torch.int64).index_put(place, targets.rank),
            torch.zeros_like(table).bool().index_put(place, torch.ones_like(slots).bool()),
        )


def _slots(targets: PreferenceTargets) -> Tensor:
    """Return the place of each member in its comparison, from 0, `[member]`."""
    start = torch.searchsorted(targets.comparison, targets.comparison)
    return torch.arange(len(start), device=start.device) - start
