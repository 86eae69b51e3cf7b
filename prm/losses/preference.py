"""Losses of comparisons: which of some responses to a prompt is better for one objective.

A loss is two pure pieces over any number of comparisons, so that the sum over micro-batches and
ranks equals the whole optimizer batch:

- `weights(targets)`: how much each comparison counts, from labels alone (0 where the loss does not
  apply);
- `per_comparison(columns, ...)`: the loss of each comparison, from the head's output columns.

The loss of an optimizer batch is `sum(weights * per_comparison) / sum(weights)`, both sums over the
whole batch; it is 0 when there is no comparison. All losses are finite for any finite input (tested
at 1e4) and are computed in float32. They see utilities, `sign * score`, so that the better response
has the higher utility also where a lower score is better.

Here are the parts that all of them share and the loss of decided pairs. Ties have models of their
own in `ties.py`, heads with a spread in `probit.py`, whole rankings in `plackett_luce.py`, costs
with a known sign in `cost.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from prm.arrays import OnDevice
from prm.errors import ConfigError, DataError
from prm.losses.checks import check_labels, check_shapes, check_sign, check_smoothing
from prm.losses.readouts import ResponseLoss, ResponseReadout, score


@dataclass(frozen=True, slots=True)
class PreferenceTargets(OnDevice):
    """Comparisons of one objective; a member is a response in its place in a comparison.

    Args:
        read: Row of the head's columns that belongs to each member, `[member]`. int64.
        comparison: Which comparison a member belongs to, from 0, ascending, `[member]`; the
            members of a comparison are adjacent, the best one first, ties adjacent. int64.
        rank: Rank in the comparison, 0 for the best, `[member]`. int64.
        strength: How much better the first of a pair is, `[comparison]`; NaN if unknown. float32.
        share: Share of votes for the first of a pair, `[comparison]`; NaN if unknown. float32.
        label: What is known of each response on its own, `[member]`; NaN if nothing. float32.

    Raises:
        ConfigError: A field is not one-dimensional or has another length than it should.
    """

    read: Tensor
    comparison: Tensor
    rank: Tensor
    strength: Tensor
    share: Tensor
    label: Tensor

    def __post_init__(self) -> None:
        check_shapes(self.read, self.comparison, self.rank, self.label)
        check_shapes(self.strength, self.share)

    @property
    def num_comparisons(self) -> int:
        """How many comparisons there are."""
        return self.strength.numel()

    def sum(self, values: Tensor, comparison: Tensor) -> Tensor:
        """Sum values over each comparison, `[comparison]`; `comparison` says where each belongs."""
        return values.new_zeros(self.num_comparisons).index_add(0, comparison, values)

    def check(self) -> None:
        """Check the order of members, the strengths and the shares; waits for the device.

        Raises:
            DataError: Members are out of order, or a strength or share is out of range.
        """
        same = self.comparison.diff() == 0
        if (self.comparison.diff() < 0).any() or (self.rank.diff()[same] < 0).any():
            raise DataError("members of comparisons are out of order", expected="best first")
        check_labels("strength", self.strength, self.strength >= 0, "0 or more")
        in_range = (self.share >= 0) & (self.share <= 1)
        check_labels("share of votes", self.share, in_range, "a number in [0, 1]")


@dataclass(frozen=True, slots=True)
class MemberPairs:
    """All pairs of members within comparisons; every field has shape `[pair]`.

    Args:
        first: Index of the better member, or of either if they are tied.
        second: Index of the other member.
        comparison: Which comparison the pair is in.
        tied: Whether both have the same rank.
        strength: Strength of the comparison; NaN if unknown.
        share: Share of votes for the first of the comparison; NaN if unknown.
    """

    first: Tensor
    second: Tensor
    comparison: Tensor
    tied: Tensor
    strength: Tensor
    share: Tensor


def pairs_of(targets: PreferenceTargets) -> MemberPairs:
    """Return each member with every later member of its comparison.

    Example:
        >>> one, unknown = torch.zeros(3, dtype=torch.int64), torch.full((1,), torch.nan)
        >>> ranks, label = torch.arange(3), torch.full((3,), torch.nan)
        >>> pairs = pairs_of(PreferenceTargets(one, one, ranks, unknown, unknown, label))
        >>> pairs.first.tolist(), pairs.second.tolist()
        ([0, 0, 1], [1, 2, 2])
    """
    comparison = targets.comparison
    index = torch.arange(comparison.numel(), device=comparison.device)
    num_later = torch.searchsorted(comparison, comparison, right=True) - index - 1
    first = index.repeat_interleave(num_later)
    before = num_later.cumsum(0) - num_later
    nth = torch.arange(first.numel(), device=first.device) - before[first]
    second = first + 1 + nth
    within = comparison[first]
    tied = targets.rank[first] == targets.rank[second]
    strength, share = targets.strength[within].float(), targets.share[within].float()
    return MemberPairs(first, second, within, tied, strength, share)


@dataclass(frozen=True, slots=True)
class PairLabels:
    """What labels say where one of two responses is better, and a tie cannot happen.

    Args:
        ties: What becomes of a pair of equal rank. `drop`: it does not count. `half`: either
            response is better with probability 1/2.
        label_smoothing: Moves the probability t that the first is better towards 1/2:
            `t (1 - s) + s / 2`, with s in [0, 1).
        votes: Use the share of votes for the first response, where it is known, as t; a tie with
            votes then counts whatever `ties` says. Otherwise t is 1.

    Raises:
        ConfigError: An option is wrong.
    """

    ties: Literal["drop", "half"] = "drop"
    label_smoothing: float = 0.0
    votes: bool = False

    def __post_init__(self) -> None:
        if self.ties not in ("drop", "half"):
            raise ConfigError("ties is wrong", expected="'drop' or 'half'", got=self.ties)
        check_smoothing(self.label_smoothing)

    def counted(self, pairs: MemberPairs) -> Tensor:
        """Return which pairs count, `[pair]`, bool."""
        if self.ties == "half":
            return torch.ones_like(pairs.tied)
        return ~pairs.tied | self._voted(pairs)

    def target(self, pairs: MemberPairs) -> Tensor:
        """Return the smoothed probability that the first of each pair is better, `[pair]`."""
        decided = torch.where(pairs.tied, 0.5, torch.ones_like(pairs.share))
        target = torch.where(self._voted(pairs), pairs.share, decided)
        return target * (1 - self.label_smoothing) + self.label_smoothing / 2

    def _voted(self, pairs: MemberPairs) -> Tensor:
        known = ~pairs.share.isnan()
        return known if self.votes else torch.zeros_like(known)


class PreferenceLoss(ResponseLoss):
    """Base of the losses of comparisons: by default the mean over the pairs that count.

    A loss of pairs says `per_pair`, and `labels` if some do not count; one of whole rankings says
    `weights` and `per_comparison` in their place.

    Attributes:
        uses_ratings: Whether the loss reads what is known of each response on its own.
        labels: Which pairs count; by default all.
    """

    uses_ratings: ClassVar[bool] = False
    labels: PairLabels = PairLabels(ties="half")

    def weights(self, targets: PreferenceTargets) -> Tensor:
        """Return how much each comparison counts, `[comparison]`, from labels alone.

        By default 1 for each that has a pair that counts.
        """
        pairs = pairs_of(targets)
        counted = self.labels.counted(pairs).float()
        return targets.sum(counted, pairs.comparison).clamp(max=1.0)

    def per_comparison(
        self, columns: Tensor, readout: ResponseReadout, sign: int, targets: PreferenceTargets
    ) -> Tensor:
        """Return the loss of each comparison, `[comparison]`; one of weight 0 may hold any number.

        Args:
            columns: Head output, `[read, column]`.
            readout: What the columns mean.
            sign: 1 if a higher score is better, -1 if a lower one is.
            targets: Which reads were compared, and how that ended.

        Raises:
            ConfigError: The loss cannot train this readout, the number of columns does not fit it,
                or the sign is neither 1 nor -1.
        """
        check_sign(sign)
        self.check_columns(columns, readout)
        pairs, members = pairs_of(targets), columns.float()[targets.read]
        losses = self.per_pair(members[pairs.first], members[pairs.second], sign, pairs)
        counted = self.labels.counted(pairs)
        total = targets.sum(torch.where(counted, losses, 0.0), pairs.comparison)
        return total / targets.sum(counted.float(), pairs.comparison).clamp(min=1.0)

    def per_pair(self, first: Tensor, second: Tensor, sign: int, pairs: MemberPairs) -> Tensor:
        """Return the loss of each pair, `[pair]`, from the columns `[pair, column]` of its two."""
        raise NotImplementedError

    def sum(
        self, columns: Tensor, readout: ResponseReadout, sign: int, targets: PreferenceTargets
    ) -> Tensor:
        """Return `sum(weights * per_comparison)`, a scalar; 0 (with gradient 0) without any."""
        counted = self.counted_members(targets).to(torch.float32)
        reads = counted.new_zeros(len(columns)).index_add(0, targets.read, counted) > 0
        columns = torch.where(reads[:, None], columns.float(), 0.0)
        weights = self.weights(targets)
        losses = self.per_comparison(columns, readout, sign, targets)
        return torch.where(weights > 0, losses, 0.0).mul(weights).sum()

    def counted_members(self, targets: PreferenceTargets) -> Tensor:
        """Return which members the loss depends on, `[member]`, bool."""
        return self.weights(targets)[targets.comparison] > 0

    def check_ratings(self, values: Tensor) -> None:
        """Check that the ratings of a loss that uses them are of the kind that it is made for.

        Raises:
            DataError: One of them is not; it is named.
        """


def bradley_terry(difference: Tensor, target: Tensor) -> Tensor:
    """Return `-t log sigmoid(d) - (1 - t) log sigmoid(-d)`, `[pair]`.

    Args:
        difference: d, how much higher the utility of the first is, `[pair]`.
        target: t, the probability that it should be, in [0, 1], `[pair]`.

    Example:
        >>> bradley_terry(torch.tensor([1e4, -1e4]), torch.ones(2)).tolist()
        [0.0, 10000.0]
    """
    check_shapes(difference, target)
    return functional.binary_cross_entropy_with_logits(difference, target, reduction="none")


class BradleyTerry(PreferenceLoss):
    r"""Logistic loss of the difference of two utilities.

    `-t log sigmoid(d - m) - (1 - t) log sigmoid(m - d) + center * (s_1 + s_2)^2`, where
    `d = u_1 - u_2`, `t` is the probability that the first is better and `m` a margin.

    Args:
        ties: See `PairLabels`.
        label_smoothing: See `PairLabels`.
        votes: See `PairLabels`.
        strength: What a known strength does. `ignore`: nothing. `margin`: it is the margin m, in
            score units. `scale`: it is the weight of the comparison (1 if unknown).
        center: Coefficient of the squared sum of the two scores, 0 or more. It fixes the offset of
            the scores, which the difference leaves free, near 0.

    Example:
        >>> both = torch.arange(2)
        >>> unknown = torch.full((1,), torch.nan)
        >>> pair = PreferenceTargets(both, both * 0, both, unknown, unknown, both * torch.nan)
        >>> BradleyTerry().per_comparison(torch.tensor([[0.5], [0.5]]), "value", 1, pair)
        tensor([0.6931])

    Source: Bradley and Terry 1952; Touvron et al. 2023 (Llama 2), equation 2 (margin); Wang et al.
    2024 (HelpSteer2-Preference), arXiv 2410.01257 (scale); Eisenstein et al. 2023, arXiv
    2312.09244 (center).
    """

    def __init__(
        self,
        ties: Literal["drop", "half"] = "drop",
        label_smoothing: float = 0.0,
        votes: bool = False,
        strength: Literal["ignore", "margin", "scale"] = "ignore",
        center: float = 0.0,
    ) -> None:
        super().__init__()
        self.labels = PairLabels(ties, label_smoothing, votes)
        if strength not in ("ignore", "margin", "scale"):
            raise ConfigError(
                "strength is wrong", expected="'ignore', 'margin' or 'scale'", got=strength
            )
        if not 0 <= center < float("inf"):
            raise ConfigError("center is wrong", expected="a number of at least 0", got=center)
        self.strength = strength
        self.center = center

    def weights(self, targets: PreferenceTargets) -> Tensor:
        """Return 1, or with `scale` the strength, for each comparison that counts."""
        weights, strength = super().weights(targets), targets.strength.float()
        return weights * strength.nan_to_num(1.0) if self.strength == "scale" else weights

    def per_pair(self, first: Tensor, second: Tensor, sign: int, pairs: MemberPairs) -> Tensor:
        first, second = score(first, "value"), score(second, "value")
        difference = sign * (first - second)
        if self.strength == "margin":
            difference = difference - pairs.strength.nan_to_num(0.0)
        losses = bradley_terry(difference, self.labels.target(pairs))
        return losses + self.center * (first + second).square()
