"""Packing: token trees to flat batches without padding, each shared prompt once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prm.arrays import OnDevice
from prm.trees.tree import Segment, TokenTree, graft


@dataclass(slots=True)
class PackedTrees(OnDevice):
    """Trees laid out one after the other, each in depth-first order.

    The tokens of a segment's descendants follow it without a gap; a segment with a single child is
    joined with it.

    Args:
        input_ids: Token ids, shape `[token]`, int64.
        position_ids: Tokens above each token on its path, shape `[token]`, int64.
        previous: Index of each token's predecessor on its path, -1 at a root, shape `[token]`.
        token_read: Index of the read that a token's step ends in, -1 outside steps, `[token]`.
        reads: Token index of each read, tree by tree in the given order, shape `[read]`, int64.
        read_tree: Index of the tree of each read, shape `[read]`, int64.
        starts: First token of each segment.
        stops: One past the last token of each segment.
        subtree_ends: One past the last token of each segment's descendants.
        longest_path: Tokens on the longest path.
    """

    input_ids: Tensor
    position_ids: Tensor
    previous: Tensor
    token_read: Tensor
    reads: Tensor
    read_tree: Tensor
    starts: list[int]
    stops: list[int]
    subtree_ends: list[int]
    longest_path: int

    @property
    def num_tokens(self) -> int:
        """Tokens that the model computes."""
        return self.input_ids.shape[0]

    def before_reads(self) -> Tensor:
        """Return the token before the step of each read, a prompt's last before its responses.

        Returns:
            Token indices, shape `[read]`, int64.

        Example:
            >>> from prm.trees.tree import Segment
            >>> tree = TokenTree(
            ...     (Segment((7, 8)), Segment((1, 3), 0, (1,)), Segment((2, 3), 0, (1,)))
            ... )
            >>> pack([tree]).before_reads()
            tensor([1, 1])
        """
        inside = (self.token_read >= 0).nonzero().squeeze(-1)
        first = self.reads.clone().scatter_reduce_(0, self.token_read[inside], inside, "amin")
        return self.previous[first]

    def paths(self) -> list[Tensor]:
        """Return for each leaf the token indices of its path from the root, ascending."""
        paths, above = [], [(0, 0, self.num_tokens)]
        for span in zip(self.starts, self.stops, self.subtree_ends, strict=True):
            start, stop, end = span
            while above[-1][2] <= start:
                above.pop()
            above.append(span)
            if stop == end:
                paths.append(torch.cat([torch.arange(first, last) for first, last, _ in above]))
        return paths


@dataclass(slots=True)
class CachedReads(OnDevice):
    """What the heads see of some trees, in place of the trees' tokens.

    Args:
        states: Hidden state of each read, in the order of `PackedTrees.reads`, `[read, hidden]`.
        num_tokens: Tokens that a pass over the packed trees would compute.
    """

    states: Tensor
    num_tokens: int


ModelInput = PackedTrees | CachedReads
"""What a reward model takes."""

Pack = Callable[[Sequence[TokenTree]], ModelInput]
"""Makes the input of a model from trees."""


def pack(trees: Sequence[TokenTree]) -> PackedTrees:
    """Lay out trees; those with the same root tokens share that root.

    Args:
        trees: At least one tree.

    Returns:
        The packed batch. Reads are ordered by tree, then by segment, then by offset.

    Example:
        >>> from prm.trees.tree import Segment
        >>> trees = [TokenTree((Segment((7, 8)), Segment((i, 3), 0, (1,)))) for i in (1, 2)]
        >>> packed = pack(trees)
        >>> packed.input_ids.tolist(), packed.position_ids.tolist(), packed.reads.tolist()
        ([7, 8, 1, 3, 2, 3], [0, 1, 2, 3, 2, 3], [3, 5])
    """
    layout = _Layout()
    for group in _same_root(trees):
        layout.add([trees[index] for index in group], group)
    return layout.packed()


def num_packed_tokens(trees: Sequence[TokenTree]) -> int:
    """Return how many tokens `pack` would lay out, without doing it.

    Example:
        >>> trees = [TokenTree((Segment((7, 8)), Segment((i, 3), 0, (1,)))) for i in (1, 2)]
        >>> num_packed_tokens(trees), pack(trees).num_tokens
        (6, 6)
    """
    shared = sum(
        (len(group) - 1) * len(trees[group[0]].segments[0].input_ids) for group in _same_root(trees)
    )
    return sum(tree.num_tokens for tree in trees) - shared


def plan_packs(trees: Sequence[TokenTree | None], max_tokens: int) -> list[list[int]]:
    """Group trees into forward passes: equal prompts together, at most `max_tokens` each.

    A tree that is longer than `max_tokens` gets a pass of its own.
    """
    families: dict[tuple[int, ...], list[int]] = {}
    for index, tree in enumerate(trees):
        if tree is not None:
            families.setdefault(tree.segments[0].input_ids, []).append(index)
    packs: list[list[int]] = []
    room = 0
    for prompt, members in sorted(families.items(), key=lambda item: -len(item[0])):
        paid = False
        for index in members:
            tree = trees[index]
            assert tree is not None
            branch = tree.num_tokens - len(prompt)
            cost = branch + (0 if paid else len(prompt))
            if not packs or cost > room:
                packs.append([])
                room, cost = max_tokens, branch + len(prompt)
            packs[-1].append(index)
            room -= cost
            paid = True
    return packs


def _same_root(trees: Sequence[TokenTree]) -> list[list[int]]:
    groups: dict[object, list[int]] = {}
    for index, tree in enumerate(trees):
        root = tree.segments[0]
        key: object = root.input_ids if not root.reads and len(tree.segments) > 1 else index
        groups.setdefault(key, []).append(index)
    return list(groups.values())


class _Layout:
    """Collects the tokens, reads and spans of trees, one group of equal roots after the other."""

    def __init__(self) -> None:
        self.input_ids: list[int] = []
        self.position_ids: list[int] = []
        self.previous: list[int] = []
        self.reads: dict[int, list[tuple[int, int, int]]] = {}
        self.starts: list[int] = []
        self.stops: list[int] = []
        self.subtree_ends: list[int] = []

    def add(self, trees: Sequence[TokenTree], names: Sequence[int]) -> None:
        """Lay out trees that share a root; `names` are their indices in the batch."""
        tree = graft(trees) if len(trees) > 1 else trees[0]
        owners = [names[0]]
        for name, one in zip(names, trees, strict=True):
            self.reads.setdefault(name, [])
            owners.extend([name] * (len(one.segments) - 1))
        children = _children(tree)
        order = _depth_first(children)
        last, span = {-1: -1}, {-1: -1}  # of each segment: its last token, and the span it is in
        for index in order:
            segment = tree.segments[index]
            start, last[index] = self._append(segment, last[segment.parent])
            self._add_reads(segment, index, start, owners[index])
            if segment.parent >= 0 and len(children[segment.parent]) == 1:
                self.stops[-1] = self.subtree_ends[-1] = last[index] + 1
            else:
                self.starts.append(start)
                self.stops.append(last[index] + 1)
                self.subtree_ends.append(last[index] + 1)
            span[index] = len(self.starts) - 1
        for index in reversed(order[1:]):
            above, below = span[tree.segments[index].parent], span[index]
            self.subtree_ends[above] = max(self.subtree_ends[above], self.subtree_ends[below])

    def _append(self, segment: Segment, above: int) -> tuple[int, int]:
        start, size = len(self.input_ids), len(segment.input_ids)
        depth = self.position_ids[above] + 1 if above >= 0 else 0
        self.input_ids.extend(segment.input_ids)
        self.position_ids.extend(range(depth, depth + size))
        self.previous.extend([above, *range(start, start + size - 1)])
        return start, start + size - 1

    def _add_reads(self, segment: Segment, index: int, start: int, owner: int) -> None:
        first = start
        for offset in segment.reads:
            self.reads[owner].append((index, first, start + offset))
            first = start + offset + 1

    def packed(self) -> PackedTrees:
        """Return what was collected as tensors."""
        reads = sorted((tree, *read) for tree in self.reads for read in self.reads[tree])
        token_read = torch.full((len(self.input_ids),), -1)
        for index, (_, _, first, last) in enumerate(reads):
            token_read[first : last + 1] = index
        return PackedTrees(
            input_ids=torch.tensor(self.input_ids),
            position_ids=torch.tensor(self.position_ids),
            previous=torch.tensor(self.previous),
            token_read=token_read,
            reads=torch.tensor([last for *_, last in reads], dtype=torch.int64),
            read_tree=torch.tensor([tree for tree, *_ in reads], dtype=torch.int64),
            starts=self.starts,
            stops=self.stops,
            subtree_ends=self.subtree_ends,
            longest_path=max(self.position_ids) + 1,
        )


def _children(tree: TokenTree) -> list[list[int]]:
    children: list[list[int]] = [[] for _ in tree.segments]
    for index, segment in enumerate(tree.segments):
        if segment.parent >= 0:
            children[segment.parent].append(index)
    return children


def _depth_first(children: Sequence[Sequence[int]]) -> list[int]:
    order, stack = [], [0]
    while stack:
        order.append(stack.pop())
        stack.extend(reversed(children[order[-1]]))
    return order
