"""The reward model: embeddings for new tokens, columns, log-odds."""

from __future__ import annotations

import torch
from tiny_models import (
    CHAINS,
    TWO_OBJECTIVES,
    columns_packed,
    tiny_backbone,
    tiny_model,
    tiny_tokenizer,
)

from prm.models.reward_model import RewardModel, grow_embeddings
from prm.spec import RewardSpec, StepFormat
from prm.trees.packing import pack


def test_a_marker_is_added_and_starts_as_the_mean_embedding() -> None:
    tokenizer = tiny_tokenizer()
    backbone = tiny_backbone("qwen2", tokenizer)
    old = backbone.get_input_embeddings().weight.detach().clone()
    model = RewardModel(backbone, tokenizer, RewardSpec())
    assert model.spec.tokenizer is not None
    assert model.spec.tokenizer.marker_id == len(old)
    weight = backbone.get_input_embeddings().weight
    assert weight.shape[0] == len(old) + 1
    torch.testing.assert_close(weight[-1], old.mean(0))
    assert weight[:-1].equal(old)


def test_embeddings_never_shrink() -> None:
    backbone = tiny_backbone()
    before = backbone.get_input_embeddings().weight.shape[0]
    grow_embeddings(backbone, before - 5)
    assert backbone.get_input_embeddings().weight.shape[0] == before


def test_an_existing_special_token_may_be_the_marker() -> None:
    spec = RewardSpec(step_format=StepFormat(marker="<|eos|>"))
    model = tiny_model(spec=spec)
    assert model.spec.tokenizer is not None
    assert model.spec.tokenizer.marker_id == model.tokenizer.eos_token_id
    assert len(columns_packed(model, CHAINS)) == len(CHAINS)


def test_the_pad_token_is_not_eos() -> None:
    model = tiny_model()
    assert model.backbone.model.config.pad_token_id == model.tokenizer.pad_token_id
    assert model.tokenizer.pad_token_id != model.tokenizer.eos_token_id


def test_log_odds_of_two_objectives() -> None:
    spec = RewardSpec(step_heads=TWO_OBJECTIVES, chain_reward="correctness")
    logits = tiny_model(spec=spec).step_logits(torch.tensor([[0.5, 1.0, 3.0]]))
    assert logits.tolist() == [[0.5, 2.0]]


def test_heads_see_read_positions_only() -> None:
    model = tiny_model()
    trees = pack([model.builder.build(chain).tree for chain in CHAINS])
    output = model(trees)
    assert output.columns.shape == (sum(len(chain.completions) for chain in CHAINS), 1)
    assert output.states.shape == (trees.num_tokens, 32)
    torch.testing.assert_close(output.columns, model.heads(output.states[trees.reads]))
