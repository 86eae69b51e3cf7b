"""The prefix tree: shared beginnings are kept once, within a limit, and memory is given back."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prm.models.prefix_tree import PrefixTree, Run

Path = tuple[int, ...]

LAYERS, HEADS, DIM, HIDDEN = 2, 1, 3, 4


def states_of(run: Run) -> tuple[Tensor, Tensor]:
    """Return what a model would give: every number tells the token and its position."""
    values = torch.tensor([100 * (run.depth + i) + t for i, t in enumerate(run.tokens)]).float()
    keys_values = values[:, None].expand(LAYERS, 2, HEADS, len(values), DIM).clone()
    return keys_values, values[:, None].expand(-1, HIDDEN).clone()


def use(tree: PrefixTree, paths: Sequence[Path]) -> list[list[Run]]:
    """Compute what is new of some paths, and return their routes as they were before joining."""
    routes = tree.routes(paths)
    new = list(dict.fromkeys(run for route in routes for run in route if run.is_new))
    tree.make_room(sum(len(run.tokens) for run in new))
    for run in new:
        tree.fill(run, *states_of(run))
    for path, route in zip(paths, routes, strict=True):
        spelled = tuple(token for run in route for token in run.tokens)
        assert spelled[: len(path)] == path
        for run in route:
            expected = states_of(run)
            assert torch.equal(run.keys_values, expected[0])
            assert torch.equal(run.states, expected[1])
    tree.settle(new)
    return routes


def runs(tree: PrefixTree) -> set[Path]:
    return {run.tokens for run in tree._oldest_first}


def test_a_growing_path_is_one_run() -> None:
    tree = PrefixTree(100)
    for size in (3, 5, 6, 10):
        use(tree, [tuple(range(size))])
    assert runs(tree) == {tuple(range(10))}
    assert tree.num_computed == 10
    assert tree.num_tokens <= 15


def test_branches_share_what_they_have_in_common() -> None:
    tree = PrefixTree(100)
    use(tree, [(1, 2, 3, 4, 5)])
    use(tree, [(1, 2, 3, 9), (1, 2, 3, 9, 8), (7,)])
    assert runs(tree) == {(1, 2, 3), (4, 5), (9, 8), (7,)}
    assert tree.num_computed == 8


def test_what_was_used_least_recently_goes_first_and_ends_before_beginnings() -> None:
    tree = PrefixTree(8)
    use(tree, [(1, 2, 3)])
    use(tree, [(1, 2, 4)])
    use(tree, [(1, 2, 3)])
    use(tree, [(5, 6, 7, 8)])
    assert runs(tree) == {(1, 2), (3,), (4,), (5, 6, 7, 8)}
    use(tree, [(9,)])
    assert runs(tree) == {(1, 2), (3,), (5, 6, 7, 8), (9,)}
    use(tree, [(9, 9)])
    assert runs(tree) == {(1, 2), (5, 6, 7, 8), (9, 9)}


def test_what_is_in_use_is_not_evicted() -> None:
    tree = PrefixTree(4)
    use(tree, [(1, 2, 3)])
    routes = use(tree, [(1, 2, 3, 4, 5), (1, 6, 7)])
    assert all(run.capacity for route in routes for run in route)
    assert tree.num_tokens <= 4


def test_no_more_is_held_than_is_counted() -> None:
    """Tensors keep no larger ones alive, and evicted ones are freed."""
    tree = PrefixTree(20)
    use(tree, [tuple(range(12)), (*range(6), 40, 41)])
    per_token = 4 * (LAYERS * 2 * HEADS * DIM + HIDDEN)
    assert tree.num_bytes == tree.num_tokens * per_token == 14 * per_token
    held = [weakref.ref(run._keys_values) for run in tree._oldest_first]
    use(tree, [tuple(range(50, 70))])
    gc.collect()
    assert tree.num_evicted == 14
    assert all(reference() is None for reference in held)
    assert tree.num_bytes == 20 * per_token


def test_clear_frees_everything_and_counts_go_on() -> None:
    tree = PrefixTree(20)
    use(tree, [(1, 2, 3)])
    tree.clear()
    assert (tree.num_tokens, tree.num_bytes, len(tree), tree.num_computed) == (0, 0, 0, 3)
    use(tree, [(1, 2, 3)])
    assert tree.num_computed == 6


paths = st.lists(st.integers(0, 2), min_size=1, max_size=8).map(tuple)


@given(st.lists(st.lists(paths, min_size=1, max_size=4), max_size=12), st.integers(1, 40))
def test_any_use_gives_the_states_of_the_path(uses: list[list[Path]], max_tokens: int) -> None:
    tree = PrefixTree(max_tokens)
    for batch in uses:
        use(tree, batch)
        kept = list(tree._oldest_first)
        assert tree.num_tokens == sum(run.capacity for run in kept) <= max_tokens
        for run in kept:
            assert run.parent is not None
            assert run.parent.children[run.tokens[0]] is run
            assert run.depth == sum(len(above.tokens) for above in run.above())
            assert set(run.above()) <= set(kept)
