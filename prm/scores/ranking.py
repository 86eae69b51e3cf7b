"""Best of N: the candidates of each prompt in order of their reward, and how sure that order is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from prm.arrays import Array, Indices, Mask
from prm.scores.columns import plain


@dataclass(frozen=True, slots=True, eq=False)
class RankedRows:
    """Rows in order: group by group as they appear, and within a group the best first.

    Candidates of equal reward stay in the order they came in, with margin 0 between them. Those
    that the model did not read to their end come after the complete ones, and those without a
    reward last, without a rank.

    Args:
        order: The row of each place, shape `[row]`; so are the others.
        groups: Number of its group.
        rank: 0 for the best of its group; -1 without a reward.
        margin: Its reward minus that of the next in its group; NaN if there is none, or if the
            next one alone was cut off.
        win_probability: Probability that it is really better than the next; NaN where unknown.
    """

    order: Indices
    groups: Indices
    rank: Indices
    margin: Array
    win_probability: Array

    def top(self, count: int) -> RankedRows:
        """Return the `count` best places of each group; those without a rank are left out."""
        kept = (self.rank >= 0) & (self.rank < count)
        return RankedRows(
            self.order[kept],
            self.groups[kept],
            self.rank[kept],
            self.margin[kept],
            self.win_probability[kept],
        )

    def columns(self) -> dict[str, list[Any]]:
        """Return what the ranking says about each place: `RankColumns`, as JSON values."""
        return {
            "rank": [None if rank < 0 else rank for rank in self.rank.tolist()],
            "margin": plain(self.margin),
            "win_probability": plain(self.win_probability),
        }


def rank_candidates(
    groups: Indices,
    rewards: Array,
    deviations: Array | None = None,
    cut_off: Mask | None = None,
) -> RankedRows:
    r"""Rank the candidates of each group.

    With independent normal errors, the better of two neighbors is really better with probability
    `Phi((R_1 - R_2) / sqrt(s_1^2 + s_2^2))`.

    Args:
        groups: Number of the group of each row, shape `[row]`.
        rewards: Reward of each row, shape `[row]`; NaN is none.
        deviations: Standard deviation of each reward, if they are known; NaN is unknown.
        cut_off: Which rows come after the others of their group whatever their reward, as their
            end was not read, `[row]`; default none.

    Example:
        >>> ranking = rank_candidates(np.array([0, 0, 1]), np.array([0.5, 2.0, 1.0]))
        >>> ranking.order.tolist(), ranking.rank.tolist(), ranking.margin.tolist()
        ([1, 0, 2], [0, 1, 0], [1.5, nan, nan])
    """
    missing = np.isnan(rewards)
    cut = np.zeros(len(groups), dtype=bool) if cut_off is None else cut_off & ~missing
    keys = (np.where(missing, 0.0, -rewards), cut, missing, groups)
    order = np.lexsort(keys).astype(np.int64)
    group, reward = groups[order], rewards[order]
    starts = np.flatnonzero(np.diff(group, prepend=-2))
    sizes = np.diff(np.append(starts, len(group)))
    place = np.arange(len(group)) - np.repeat(starts, sizes)
    kind = 2 * group + cut[order]
    margin = _to_next(kind, reward, np.subtract)
    probability = np.full(len(group), np.nan)
    if deviations is not None:
        probability = _phi(margin / _to_next(kind, deviations[order], np.hypot))
    return RankedRows(order, group, np.where(np.isnan(reward), -1, place), margin, probability)


def _to_next(kind: Indices, values: Array, combine: np.ufunc) -> Array:
    """Return `combine(value, next value)` where both are of a kind; else NaN."""
    result = np.full(len(values), np.nan)
    same = kind[1:] == kind[:-1]
    result[:-1][same] = combine(values[:-1], values[1:])[same]
    return result


def _phi(z: Array) -> Array:
    from scipy.special import ndtr

    probability: Array = ndtr(z)
    return probability
