"""Logits of a language head are those of the stock language model."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_backbone, tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, PreTrainedModel

from prm.errors import ModelError
from prm.models import checkpoint
from prm.models.language_head import NEVER, LanguageHead, is_tied
from prm.models.sources import FromRewardModel, FromScratch, Pretrained
from tests.families import randomize, tiny_config

pytestmark = pytest.mark.filterwarnings("ignore")

IDS = torch.arange(80, 120)[None]
FIELDS: dict[str, dict[str, Any]] = {
    "bloom": {},
    "codegen": {},
    "cohere": {"logit_scale": 0.25},
    "ctrl": {},
    "falcon_h1": {"lm_head_multiplier": 0.5},
    "gemma2": {"final_logit_softcapping": 3.0},
    "gemma3_text": {"final_logit_softcapping": 3.0},
    "gpt2": {},
    "gptj": {},
    "granite": {"logits_scaling": 8.0},
    "llama": {"tie_word_embeddings": True},
    "minicpm3": {"dim_model_base": 8},
    "mixtral": {"output_router_logits": True},
    "modernbert-decoder": {},
    "opt": {"word_embed_proj_dim": 16},
    "phi": {},
    "qwen2": {"tie_word_embeddings": False},
}
"""Families with factors, caps, biases, projections or layers in their heads."""


def language_model(family: str) -> PreTrainedModel:
    """Return a stock language model all of whose weights matter."""
    return randomize(AutoModelForCausalLM.from_config(tiny_config(family, **FIELDS[family])))


def backbone_of(model: PreTrainedModel) -> Any:
    """Return the part of a language model that has no head."""
    return next(part for part in model.children() if isinstance(part, PreTrainedModel))


@pytest.mark.parametrize("family", FIELDS)
def test_logits_are_those_of_the_stock_model(family: str) -> None:
    model = language_model(family)
    expected = model(input_ids=IDS, use_cache=False).logits[0]
    states = backbone_of(model)(input_ids=IDS, use_cache=False).last_hidden_state[0]
    embeddings = model.get_input_embeddings().weight
    grown = torch.cat([embeddings, torch.zeros(2, embeddings.shape[1])])  # a marker was added
    head = LanguageHead(model, is_tied(model))
    torch.testing.assert_close(head(states, grown), expected)
    torch.testing.assert_close(head(states, grown), expected)
    assert not any(one.requires_grad for one in head.parameters())
    assert len(head.state_dict()) < 8, "the backbone is not in it"


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_gradient_of_tied_embeddings_is_that_of_the_head(family: str) -> None:
    model = language_model(family)
    states = torch.randn(5, 32, requires_grad=True)
    head = LanguageHead(model, tie=True)
    embeddings = torch.randn(head.num_tokens + 1, 32, requires_grad=True)
    head(states, embeddings).square().sum().backward()
    assert states.grad is not None
    assert embeddings.grad is not None
    assert embeddings.grad[:-1].abs().sum(-1).min() > 0
    assert not embeddings.grad[-1].any()


def test_what_is_no_part_of_the_language_is_never_next() -> None:
    model = language_model("cohere")
    head = LanguageHead(model, is_tied(model))
    head.never = (7, 10_000)
    logits = head(torch.randn(3, 32), torch.randn(head.num_tokens, 32))
    assert (logits == NEVER).nonzero()[:, 1].tolist() == [7, 7, 7]
    assert logits.softmax(-1)[:, 7].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("family", ["qwen2", "llama", "phi"])
def test_a_pretrained_head_is_read_from_its_folder(family: str, tmp_path: Path) -> None:
    model = language_model(family)
    model.save_pretrained(tmp_path)
    source = Pretrained(str(tmp_path))
    head = source.language_head(tiny_tokenizer())
    states = torch.randn(4, 32)
    embeddings = model.get_input_embeddings().weight
    expected = LanguageHead(copy.deepcopy(model), is_tied(model))(states, embeddings)
    torch.testing.assert_close(head(states, embeddings), expected)
    assert (len(list(head.parameters())) == 0) == (family == "llama")


def test_a_folder_without_a_head_is_refused(tmp_path: Path) -> None:
    """transformers would make one of random numbers."""
    checkpoint.save(tiny_model("qwen2", tie_word_embeddings=False), tmp_path / "model")
    with pytest.raises(ModelError, match="no head of a language model"):
        FromRewardModel(str(tmp_path / "model")).language_head(tiny_tokenizer())
    checkpoint.save(tiny_model("qwen2", tie_word_embeddings=True), tmp_path / "tied")
    assert FromRewardModel(str(tmp_path / "tied")).language_head(tiny_tokenizer())


def test_from_scratch_predicts_with_the_input_embeddings() -> None:
    config = {"model_type": "gpt_neox", "hidden_size": 32, "num_hidden_layers": 1}
    config |= {"num_attention_heads": 2, "intermediate_size": 32}
    head = FromScratch(config).language_head(tiny_tokenizer())
    states, embeddings = torch.randn(3, 32), torch.randn(300, 32)
    torch.testing.assert_close(head(states, embeddings), states @ embeddings[: head.num_tokens].T)


def test_a_model_that_is_no_backbone_with_a_head_is_refused() -> None:
    with pytest.raises(ModelError, match="Qwen2Model has no output embeddings"):
        LanguageHead(tiny_backbone(), tie=True)
