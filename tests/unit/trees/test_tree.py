"""Token trees: counting, depths, paths, grafting."""

from __future__ import annotations

from prm.trees.tree import Segment, TokenTree, graft

FORKED = TokenTree(
    (
        Segment((1, 2)),
        Segment((3, 4, 5), 0, reads=(2,)),
        Segment((6,), 0, reads=(0,)),
        Segment((7, 8), 1, reads=(0, 1)),
        Segment((9,), 3),
    )
)


def test_counts_each_token_once() -> None:
    assert FORKED.num_tokens == 9
    assert FORKED.num_reads == 4


def test_depths_count_the_tokens_above() -> None:
    assert FORKED.depths() == (0, 2, 2, 5, 7)


def test_paths_run_from_the_root() -> None:
    assert [FORKED.path(index) for index in range(5)] == [
        (0,),
        (0, 1),
        (0, 2),
        (0, 1, 3),
        (0, 1, 3, 4),
    ]


def test_grafting_keeps_every_path_and_pays_the_root_once() -> None:
    other = TokenTree((Segment((1, 2)), Segment((6, 6), 0, (1,)), Segment((5,), 1, (0,))))
    joined = graft([FORKED, other, FORKED])
    assert joined.num_tokens == FORKED.num_tokens * 2 + other.num_tokens - 2 * 2
    assert joined.num_reads == 2 * FORKED.num_reads + other.num_reads
    assert _token_paths(joined) == sorted(
        _token_paths(FORKED) + _token_paths(other)[1:] + _token_paths(FORKED)[1:]
    )


def test_grafting_one_tree_changes_nothing() -> None:
    assert graft([FORKED]) == FORKED


def _token_paths(tree: TokenTree) -> list[tuple[int, ...]]:
    return sorted(
        tuple(token for step in tree.path(index) for token in tree.segments[step].input_ids)
        for index in range(len(tree.segments))
    )
