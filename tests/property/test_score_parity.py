"""A score is the same wherever and beside whatever it is asked for."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import CHAINS, TREE_FAMILIES, columns_alone, columns_packed, tiny_model
from torch import Tensor
from transformers import AutoModelForTokenClassification

from prm.models import checkpoint
from prm.models.reward_model import RewardModel
from prm.records import Chain
from prm.scoring.scorer import RewardScorer
from prm.trees.packing import pack
from prm.trees.tree import Segment, TokenTree, graft

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}

model_of = functools.cache(tiny_model)


@pytest.fixture(params=TREE_FAMILIES, scope="module")
def model(request: pytest.FixtureRequest) -> RewardModel:
    return tiny_model(request.param)


@pytest.fixture(scope="module")
def alone(model: RewardModel) -> list[Tensor]:
    return [columns_alone(model, chain) for chain in CHAINS]


@pytest.fixture(scope="module")
def folder(model: RewardModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint.save(model, tmp_path_factory.mktemp("parity") / "model")


def close(actual: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, **TOLERANCE)


def test_the_chains_do_differ(alone: list[Tensor]) -> None:
    """Parity of constant scores would prove nothing."""
    assert torch.cat(alone).std() > 0.01
    assert not torch.allclose(alone[0][1], alone[4][1], atol=1e-3)


def test_alone_equals_packed(model: RewardModel, alone: list[Tensor]) -> None:
    close(columns_packed(model, CHAINS), alone)
    assert model.backbone.mode == "tree"


@pytest.mark.parametrize("order", [(4, 3, 2, 1, 0), (2, 0, 4, 1, 3), (0, 0, 2)])
def test_packed_in_any_order(
    model: RewardModel, alone: list[Tensor], order: tuple[int, ...]
) -> None:
    columns = columns_packed(model, [CHAINS[index] for index in order])
    close(columns, [alone[index] for index in order])


def test_unrolled_paths(model: RewardModel, alone: list[Tensor]) -> None:
    columns_packed(model, CHAINS)
    model.backbone.mode = "unrolled"
    model.backbone.set_attention("sdpa")
    try:
        close(columns_packed(model, CHAINS), alone)
    finally:
        model.backbone.mode = "unchecked"


def test_reloaded_from_the_folder(folder: Path, alone: list[Tensor]) -> None:
    close(columns_packed(checkpoint.load(folder), CHAINS), alone)


def test_the_scorer(model: RewardModel, alone: list[Tensor]) -> None:
    scores = RewardScorer(model, max_tokens=100).score(CHAINS)
    for score, columns in zip(scores, alone, strict=True):
        expected = columns[:, 0].tolist()
        assert score.step_logits["correctness"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("amount", [0, 7])
def test_stock_transformers_whatever_the_padding(
    model: RewardModel, folder: Path, alone: list[Tensor], side: str, amount: int
) -> None:
    """Stock token classification gives the columns at the reads, on either side of pads."""
    stock = AutoModelForTokenClassification.from_pretrained(folder, attn_implementation="eager")
    trees = [model.builder.build(chain).tree for chain in CHAINS]
    packed = [pack([tree]) for tree in trees]
    width = max(part.num_tokens for part in packed) + amount
    for pad_id in (model.tokenizer.pad_token_id, model.tokenizer.eos_token_id):
        rows = torch.full((len(packed), width), pad_id)
        mask = torch.zeros_like(rows)
        starts = [width - part.num_tokens if side == "left" else 0 for part in packed]
        for row, (start, part) in enumerate(zip(starts, packed, strict=True)):
            rows[row, start : start + part.num_tokens] = part.input_ids
            mask[row, start : start + part.num_tokens] = 1
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        with torch.no_grad():
            logits = stock(input_ids=rows, attention_mask=mask, position_ids=positions).logits
        actual = [
            logits[row, start + part.reads]
            for row, (start, part) in enumerate(zip(starts, packed, strict=True))
        ]
        close(actual, alone)


def test_one_pass_equals_a_pass_per_prefix(model: RewardModel, alone: list[Tensor]) -> None:
    for chain, columns in zip(CHAINS, alone, strict=True):
        prefixes = [
            Chain(chain.prompt, chain.completions[:end])
            for end in range(1, len(chain.completions) + 1)
        ]
        last = [columns_alone(model, prefix)[-1] for prefix in prefixes]
        torch.testing.assert_close(torch.stack(last), columns, **TOLERANCE)


def test_branches_under_branches(model: RewardModel, alone: list[Tensor]) -> None:
    """Search grows steps under steps; a chain of segments scores as the chain in one segment."""
    trees = [model.builder.build(chain).tree for chain in (CHAINS[0], CHAINS[4])]
    with torch.no_grad():
        columns = model(pack([graft([_step_by_step(tree) for tree in trees])])).columns
    close([columns[:3], columns[3:]], [alone[0], alone[4]])


def _step_by_step(tree: TokenTree) -> TokenTree:
    """Return the same tree with a segment per step."""
    root, branch = tree.segments
    segments, start = [root], 0
    for index, read in enumerate(branch.reads):
        ids = branch.input_ids[start : read + 1]
        segments.append(Segment(ids, index, (len(ids) - 1,)))
        start = read + 1
    return TokenTree(tuple(segments))


@st.composite
def random_trees(draw: st.DrawFn) -> TokenTree:
    """A tree of random tokens, up to four segments deep, read at the end of each segment."""
    ids = st.lists(st.integers(3, 200), min_size=1, max_size=5).map(tuple)
    segments, depths = [Segment(draw(ids))], [0]
    for _ in range(draw(st.integers(1, 6))):
        parent = draw(st.sampled_from([i for i, depth in enumerate(depths) if depth < 4]))
        tokens = draw(ids)
        segments.append(Segment(tokens, parent, (len(tokens) - 1,)))
        depths.append(depths[parent] + 1)
    return TokenTree(tuple(segments))


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
@given(st.lists(random_trees(), min_size=1, max_size=3))
@settings(max_examples=12)
def test_every_read_of_any_tree_equals_its_path_alone(family: str, trees: list[TokenTree]) -> None:
    model = model_of(family)
    with torch.no_grad():
        together = model(pack(trees)).columns
        for tree, part in zip(trees, together.split([t.num_reads for t in trees]), strict=True):
            paths = [
                tuple(t for step in tree.path(index) for t in tree.segments[step].input_ids)
                for index in range(1, len(tree.segments))
            ]
            roots = [TokenTree((Segment(path, reads=(len(path) - 1,)),)) for path in paths]
            single = [model(pack([root])).columns[0] for root in roots]
            torch.testing.assert_close(part, torch.stack(single), **TOLERANCE)
