"""Packing: every path survives, shared roots are paid once, reads and labels stay in order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prm.trees.packing import PackedTrees, pack
from prm.trees.tree import Segment, TokenTree

SHARED_ROOTS = ((1, 2, 3), (1, 2))


@st.composite
def trees(draw: st.DrawFn) -> TokenTree:
    """A random tree, its segments in any order in which parents come first, some roots equal."""
    segments = [
        Segment(draw(st.sampled_from(SHARED_ROOTS)), reads=draw(st.sampled_from([(), (0,)])))
    ]
    for index in range(draw(st.integers(0, 5))):
        ids = tuple(draw(st.lists(st.integers(4, 30), min_size=1, max_size=4)))
        reads = tuple(sorted(draw(st.sets(st.integers(0, len(ids) - 1), max_size=2))))
        segments.append(Segment(ids, draw(st.integers(0, index)), reads))
    return TokenTree(tuple(segments))


batches = st.lists(trees(), min_size=1, max_size=4)


def read_paths(tree: TokenTree) -> list[tuple[int, ...]]:
    """Return for each read, by segment and offset, the tokens from the root to it."""
    return [
        (
            *(t for step in tree.path(index)[:-1] for t in tree.segments[step].input_ids),
            *segment.input_ids[: offset + 1],
        )
        for index, segment in enumerate(tree.segments)
        for offset in segment.reads
    ]


def packed_path(packed: PackedTrees, token: int) -> tuple[int, ...]:
    """Return the tokens from the root to `token`, found by following `previous`."""
    ids: list[int] = []
    while token >= 0:
        ids.append(int(packed.input_ids[token]))
        token = int(packed.previous[token])
    return tuple(reversed(ids))


@given(batches)
def test_reads_come_tree_by_tree_each_with_its_own_path(batch: list[TokenTree]) -> None:
    packed = pack(batch)
    expected = [(i, path) for i, tree in enumerate(batch) for path in read_paths(tree)]
    actual = [
        (int(tree), packed_path(packed, int(read)))
        for tree, read in zip(packed.read_tree, packed.reads, strict=True)
    ]
    assert actual == expected


@given(batches)
def test_positions_count_the_tokens_above(batch: list[TokenTree]) -> None:
    packed = pack(batch)
    for token in range(packed.num_tokens):
        assert int(packed.position_ids[token]) == len(packed_path(packed, token)) - 1
    assert packed.longest_path == int(packed.position_ids.max()) + 1


@given(batches)
def test_a_token_sees_its_path_and_nothing_else(batch: list[TokenTree]) -> None:
    """`start <= q < subtree_end` holds exactly for the segments on the path of q."""
    packed = pack(batch)
    ends = [
        end
        for start, stop, end in zip(packed.starts, packed.stops, packed.subtree_ends, strict=True)
        for _ in range(start, stop)
    ]
    for query in range(packed.num_tokens):
        seen = [k for k in range(packed.num_tokens) if k <= query < ends[k]]
        assert tuple(packed.input_ids[seen].tolist()) == packed_path(packed, query)


@given(batches)
def test_segments_lie_side_by_side(batch: list[TokenTree]) -> None:
    packed = pack(batch)
    assert packed.starts == [0, *packed.stops[:-1]]
    assert packed.stops[-1] == packed.num_tokens
    bounds = zip(packed.starts, packed.stops, packed.subtree_ends, strict=True)
    assert all(start < stop <= end for start, stop, end in bounds)


@given(batches)
def test_equal_roots_are_laid_out_once(batch: list[TokenTree]) -> None:
    packed = pack(batch)
    sharing = [t.segments[0] for t in batch if not t.segments[0].reads and len(t.segments) > 1]
    saved = sum(len(root.input_ids) for root in sharing) - sum(
        map(len, {r.input_ids for r in sharing})
    )
    assert packed.num_tokens == sum(tree.num_tokens for tree in batch) - saved


@given(batches)
def test_each_step_token_names_the_read_that_ends_its_step(batch: list[TokenTree]) -> None:
    packed = pack(batch)
    for index, read in enumerate(packed.reads.tolist()):
        step = (packed.token_read == index).nonzero().flatten().tolist()
        assert step == list(range(step[0], read + 1))
        assert all(int(packed.previous[token]) == token - 1 for token in step[1:])
    counted = sum(
        max(segment.reads) + 1 for tree in batch for segment in tree.segments if segment.reads
    )
    assert int((packed.token_read >= 0).sum()) == counted


@given(batches)
def test_paths_are_those_of_the_leaves(batch: list[TokenTree]) -> None:
    packed = pack(batch)
    leaves = sorted(
        tuple(t for step in tree.path(index) for t in tree.segments[step].input_ids)
        for tree in batch
        for index in range(len(tree.segments))
        if all(segment.parent != index for segment in tree.segments)
    )
    assert sorted(tuple(packed.input_ids[path].tolist()) for path in packed.paths()) == leaves
    covered = {token for path in packed.paths() for token in path.tolist()}
    assert covered == set(range(packed.num_tokens))


@given(batches, st.randoms())
def test_order_in_the_batch_changes_no_path(batch: list[TokenTree], random: object) -> None:
    order = list(range(len(batch)))
    random.shuffle(order)  # type: ignore[attr-defined]
    packed, shuffled = pack(batch), pack([batch[index] for index in order])
    assert packed.num_tokens == shuffled.num_tokens
    paths = {
        index: [packed_path(packed, int(r)) for r in packed.reads[packed.read_tree == index]]
        for index in range(len(batch))
    }
    for place, index in enumerate(order):
        reads = shuffled.reads[shuffled.read_tree == place]
        assert [packed_path(shuffled, int(read)) for read in reads] == paths[index]


def test_a_chain_is_one_run_of_tokens() -> None:
    packed = pack([TokenTree((Segment((1, 2)), Segment((3, 4, 5), 0, (0, 2))))])
    assert (packed.starts, packed.stops, packed.subtree_ends) == ([0], [5], [5])
    assert packed.token_read.tolist() == [-1, -1, 0, 1, 1]
    assert packed.previous.tolist() == [-1, 0, 1, 2, 3]


def test_golden_layout_of_two_chains_with_one_prompt() -> None:
    chains = [
        TokenTree((Segment((7, 8)), Segment(ids, 0, (len(ids) - 1,)))) for ids in ((1,), (2, 3))
    ]
    other = TokenTree((Segment((9,)), Segment((4, 5), 0, (1,))))
    packed = pack([chains[0], other, chains[1]])
    assert packed.input_ids.tolist() == [7, 8, 1, 2, 3, 9, 4, 5]
    assert packed.position_ids.tolist() == [0, 1, 2, 2, 3, 0, 1, 2]
    assert packed.previous.tolist() == [-1, 0, 1, 1, 3, -1, 5, 6]
    assert packed.reads.tolist() == [2, 7, 4]
    assert packed.read_tree.tolist() == [0, 1, 2]
    assert (packed.starts, packed.stops) == ([0, 2, 3, 5], [2, 3, 5, 8])
    assert packed.subtree_ends == [5, 3, 5, 8]


def test_moving_keeps_everything() -> None:
    packed = pack([TokenTree((Segment((7, 8)), Segment((1,), 0, (0,))))])
    moved = packed.to("cpu")
    assert moved.starts == packed.starts
    assert moved.reads.equal(packed.reads)
