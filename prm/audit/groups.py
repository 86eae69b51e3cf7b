"""Candidates of the same prompt: who wins, which pairs change order, who is dominated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from prm.arrays import Array, Indices, Mask


@dataclass(frozen=True, slots=True, eq=False)
class PromptGroups:
    """Rows that compete: all groups with two or more usable rows, sorted by group.

    Args:
        rows: Row of the table of each candidate, shape `[candidate]`.
        groups: Number of its group, counted from 0 without gaps.
        starts: First candidate of each group, shape `[group]`.
        sizes: Number of candidates of each group.
    """

    rows: Indices
    groups: Indices
    starts: Indices
    sizes: Indices

    @classmethod
    def of(cls, groups: Indices, usable: Mask) -> PromptGroups:
        """Collect the candidates among rows.

        Args:
            groups: Number of the group of each row, 0 and up.
            usable: Which rows can compete; groups with fewer than two are left out.

        Example:
            >>> mask = np.array([True, True, False, True, True])
            >>> PromptGroups.of(np.array([1, 0, 0, 1, 1]), mask).rows.tolist()
            [0, 3, 4]
        """
        counts = np.bincount(groups[usable], minlength=1)
        rows = np.flatnonzero(usable)
        rows = rows[counts[groups[rows]] >= 2]
        rows = rows[np.argsort(groups[rows], kind="stable")]
        starts = np.flatnonzero(np.diff(groups[rows], prepend=-1))
        sizes = np.diff(np.append(starts, len(rows)))
        return cls(rows, np.repeat(np.arange(len(starts)), sizes), starts, sizes)

    @property
    def num_groups(self) -> int:
        """Number of groups."""
        return len(self.starts)

    def winners(self, rewards: Array) -> Indices:
        """Return the candidate with the highest reward of each group; of equal ones, the first.

        Args:
            rewards: Finite rewards, shape `[candidate]`.
        """
        best = self.is_best(rewards)
        place = np.where(best, np.arange(len(rewards)), len(rewards))
        winners: Indices = np.minimum.reduceat(place, self.starts)
        return winners

    def is_best(self, rewards: Array) -> Mask:
        """Return which candidates have the highest reward of their group."""
        highest = np.maximum.reduceat(rewards, self.starts)
        best: Mask = rewards == highest[self.groups]
        return best

    def pairs(self, limit: int, seed: int = 0) -> tuple[Indices, Indices]:
        """Return pairs of candidates of the same group: all, or `limit` random ones if fewer."""
        counts = self.sizes * (self.sizes - 1) // 2
        if counts.sum() <= limit:
            blocks = [self._all_pairs(size) for size in np.unique(self.sizes)]
            first, second = np.concatenate(blocks, axis=1)
            return first, second
        generator = np.random.default_rng(seed)
        group = generator.choice(self.num_groups, size=limit, p=counts / counts.sum())
        size = self.sizes[group]
        first = generator.integers(size)
        second = (first + 1 + generator.integers(size - 1)) % size
        return self.starts[group] + first, self.starts[group] + second

    def _all_pairs(self, size: int) -> Indices:
        upper = np.array(np.triu_indices(size, 1))
        starts = self.starts[self.sizes == size]
        pairs: Indices = (upper[:, None, :] + starts[None, :, None]).reshape(2, -1)
        return pairs

    def dominated(self, utilities: Array, max_compared: int = 1 << 22) -> Mask:
        """Return which candidates another of their group beats: nowhere worse, somewhere better.

        Args:
            utilities: Shape `[candidate, objective]`, finite.
            max_compared: Comparisons that are held in memory at once.
        """
        result = np.zeros(len(utilities), dtype=bool)
        for members in self._blocks(max_compared):
            values = utilities[members]
            mine, other = values[:, :, None, :], values[:, None, :, :]
            beaten = (other >= mine).all(axis=-1) & (other > mine).any(axis=-1)
            result[members] = beaten.any(axis=-1)
        return result

    def _blocks(self, max_compared: int) -> Iterator[Indices]:
        """Yield groups of equal size together, shape `[group, member]`."""
        for size in np.unique(self.sizes):
            starts = self.starts[self.sizes == size]
            step = max(1, max_compared // int(size) ** 2)
            for first in range(0, len(starts), step):
                yield starts[first : first + step, None] + np.arange(size)

    def group_means(self, values: Array) -> Array:
        """Return the mean of each group, for each candidate; shape as `values`."""
        sums = np.add.reduceat(values, self.starts, axis=0)
        means: Array = (sums.T / self.sizes).T[self.groups]
        return means


def share_flipped(pairs: tuple[Indices, Indices], before: Array, after: Array) -> float:
    """Return the share of pairs whose order is the opposite; a tie on either side is no flip."""
    first, second = pairs
    signs = np.sign(before[first] - before[second]) * np.sign(after[first] - after[second])
    return float((signs < 0).mean()) if len(first) else 0.0
