"""The reward model: embeddings for new tokens, columns, log-odds."""

from __future__ import annotations

import pytest
import torch
from tiny_models import (
    CHAINS,
    TWO_OBJECTIVES,
    columns_packed,
    tiny_backbone,
    tiny_model,
    tiny_tokenizer,
)
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from prm.models.reward_model import RewardModel, embed_new_tokens
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
    is_text = torch.arange(len(old)) != tokenizer.pad_token_id
    torch.testing.assert_close(weight[-1], old[is_text].mean(0))
    assert weight[:-1].equal(old)


def test_embeddings_never_shrink() -> None:
    backbone = tiny_backbone()
    before = backbone.get_input_embeddings().weight.detach().clone()
    embed_new_tokens(backbone, set(range(len(before) - 5)), set())
    assert backbone.get_input_embeddings().weight.equal(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pad", [False, True], ids=["", "pad-added"])
def test_a_row_that_no_token_had_means_nothing(dtype: torch.dtype, pad: bool) -> None:
    """Qwen2.5 has 151,936 rows for 151,665 tokens: a new marker's row is there already."""
    tokenizer = tiny_tokenizer()
    backbone = tiny_backbone("qwen2", tokenizer)
    num_tokens = len(tokenizer)
    backbone.resize_token_embeddings(num_tokens + 20, mean_resizing=False)
    backbone.to(dtype)
    with torch.no_grad():
        backbone.get_input_embeddings().weight[num_tokens:] = 1e6
    old = backbone.get_input_embeddings().weight.detach().clone()
    is_text = torch.arange(len(old)) < num_tokens
    if pad:  # as when a tokenizer without one is loaded
        tokenizer.add_special_tokens({"pad_token": "<|a new pad|>"})
    is_text[tokenizer.pad_token_id] = False
    model = RewardModel(backbone, tokenizer, RewardSpec())
    assert model.spec.tokenizer is not None
    marker = model.spec.tokenizer.marker_id
    assert marker == num_tokens + pad
    weight = backbone.get_input_embeddings().weight
    torch.testing.assert_close(weight[marker], old[is_text].float().mean(0).to(dtype))
    others = torch.arange(len(old)) != marker
    assert weight[others].equal(old[others])
    again = RewardModel(backbone, tokenizer, RewardSpec())
    assert again.backbone.model.get_input_embeddings().weight.equal(weight)


def test_ids_with_holes_have_rows_up_to_the_last() -> None:
    vocabulary = {"<pad>": 0, "a": 1, "b": 2, "c": 9}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>")
    backbone = tiny_backbone("qwen2")
    backbone.resize_token_embeddings(10, mean_resizing=False)
    old = backbone.get_input_embeddings().weight.detach().clone()
    model = RewardModel(backbone, tokenizer, RewardSpec())
    assert model.spec.tokenizer is not None
    marker = model.spec.tokenizer.marker_id
    weight = backbone.get_input_embeddings().weight
    assert marker is not None
    assert len(weight) > marker
    torch.testing.assert_close(weight[marker], old[[1, 2, 9]].mean(0))


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
