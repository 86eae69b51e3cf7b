"""Cached states are those of a full pass, whatever trees came before and in whatever groups."""

from __future__ import annotations

from dataclasses import dataclass

import lightning as L
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prm.models.reward_model import RewardModel
from prm.training.cache.states import StateCache
from prm.trees.packing import pack
from prm.trees.tree import Segment, TokenTree
from tests.tiny_models import tiny_model

PROMPTS = ((5, 6, 7), (5, 6), (8, 5, 6, 7))


@dataclass(frozen=True)
class Item:
    """What a cache looks at."""

    tree: TokenTree


@st.composite
def trees(draw: st.DrawFn) -> TokenTree:
    """Draw one of a few prompts, and segments that branch from it and from each other."""
    segments = [Segment(draw(st.sampled_from(PROMPTS)))]
    for index in range(draw(st.integers(1, 4))):
        ids = tuple(draw(st.lists(st.integers(4, 9), min_size=1, max_size=3)))
        reads = tuple(sorted(draw(st.sets(st.integers(0, len(ids) - 1), min_size=1))))
        segments.append(Segment(ids, draw(st.integers(0, index)), reads))
    return TokenTree(tuple(segments))


@pytest.fixture(scope="module")
def model() -> RewardModel:
    return tiny_model()


@pytest.fixture(scope="module")
def cache(model: RewardModel, tmp_path_factory: pytest.TempPathFactory) -> StateCache:
    """One cache for all examples: each finds what those before it computed."""
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    return StateCache(tmp_path_factory.mktemp("states"), model, trainer, max_tokens=24)


@given(st.lists(trees(), min_size=1, max_size=4))
@settings(max_examples=30)
def test_cached_states_are_those_of_a_full_pass(
    model: RewardModel, cache: StateCache, drawn: list[TokenTree]
) -> None:
    found = cache.packer([Item(tree) for tree in drawn])(drawn)
    packed = pack(drawn)
    with torch.no_grad():
        expected = model(packed).reads
    torch.testing.assert_close(found.states, expected, rtol=1e-5, atol=1e-5)  # type: ignore[union-attr]
    assert found.num_tokens == packed.num_tokens
