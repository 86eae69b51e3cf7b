"""Token trees: what the model reads.

A tree has segments of tokens. A segment's tokens see the tokens before them in the segment and all
tokens of its ancestors, nothing else. A chain is a prompt with one branch of steps; best-of-N is a
prompt with N branches; search grows branches under branches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of tokens without a fork.

    Args:
        input_ids: Token ids, at least one.
        parent: Index of the parent segment in its tree, -1 for the root.
        reads: Offsets within the segment at which heads are read, ascending.
    """

    input_ids: tuple[int, ...]
    parent: int = -1
    reads: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenTree:
    """Segments in an order in which parents come before their children.

    Args:
        segments: The segments; the first one is the root.

    Example:
        >>> tree = TokenTree((Segment((1, 2, 3)), Segment((4, 5), parent=0, reads=(1,))))
        >>> tree.num_tokens, tree.num_reads, tree.depths()
        (5, 1, (0, 3))
    """

    segments: tuple[Segment, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens of all segments, each counted once."""
        return sum(len(segment.input_ids) for segment in self.segments)

    @property
    def num_reads(self) -> int:
        """Read positions of all segments."""
        return sum(len(segment.reads) for segment in self.segments)

    def depths(self) -> tuple[int, ...]:
        """Return for each segment how many tokens lie above it on its path."""
        depths: list[int] = []
        for segment in self.segments:
            parent = segment.parent
            above = 0 if parent < 0 else depths[parent] + len(self.segments[parent].input_ids)
            depths.append(above)
        return tuple(depths)

    def path(self, index: int) -> tuple[int, ...]:
        """Return the segment indices from the root to segment `index`, both included."""
        steps = [index]
        while self.segments[steps[-1]].parent >= 0:
            steps.append(self.segments[steps[-1]].parent)
        return tuple(reversed(steps))


def flat_path(tree: TokenTree) -> tuple[list[int], list[int]]:
    """Return the token ids of a tree that does not fork, and the positions of its reads.

    Example:
        >>> flat_path(TokenTree((Segment((7, 8)), Segment((1, 3), 0, (1,)))))
        ([7, 8, 1, 3], [3])
    """
    ids: list[int] = []
    reads: list[int] = []
    for segment in tree.segments:
        reads.extend(len(ids) + offset for offset in segment.reads)
        ids.extend(segment.input_ids)
    return ids, reads


def graft(trees: Sequence[TokenTree]) -> TokenTree:
    """Join trees with the same root tokens under one root; reads keep their order, tree by tree.

    Example:
        >>> one = TokenTree((Segment((7, 8)), Segment((1,), 0, (0,))))
        >>> two = TokenTree((Segment((7, 8)), Segment((2, 3), 0, (1,))))
        >>> graft([one, two]).num_tokens
        5
    """
    segments = [trees[0].segments[0]]
    for tree in trees:
        offset = len(segments) - 1
        segments.extend(
            Segment(child.input_ids, child.parent + offset if child.parent > 0 else 0, child.reads)
            for child in tree.segments[1:]
        )
    return TokenTree(tuple(segments))
