"""Tiny outcome models, decoders and encoders, and the responses that they score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prm.aggregation.objectives import WeightedSum
from prm.models import checkpoint
from prm.models.heads import HeadKind
from prm.models.reward_model import RewardModel
from prm.models.sources import FromScratch
from prm.records import Rating
from prm.spec import ResponseFormat, ResponseHead, RewardSpec, StepHead
from prm.trees.packing import pack
from prm.trees.units import ResponseSet
from tests.tiny_models import tiny_tokenizer

_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
_GROUPED = {"num_key_value_heads": 2}

BACKBONES: dict[str, dict[str, Any]] = {
    "llama": _SIZES | _GROUPED,
    "qwen2": _SIZES | _GROUPED,
    "qwen3": _SIZES | _GROUPED | {"head_dim": 8},
    "mistral": _SIZES | _GROUPED | {"sliding_window": 8},
    "gpt_neox": _SIZES,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "bert": _SIZES,
    "roberta": _SIZES,
    "distilbert": {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4},
    "modernbert": _SIZES | {"cls_token_id": 1, "sep_token_id": 2, "local_attention": 8},
}
"""Configuration of a backbone by model type; a window of 8 is shorter than the responses."""

OBJECTIVES = (ResponseHead("helpfulness"), ResponseHead("toxicity", direction="minimize"))

SPREAD_OBJECTIVES = (
    ResponseHead("helpfulness", "gaussian", 2),
    ResponseHead("safety", "quantile", 3),
    ResponseHead("length"),
)

RESPONSES = (
    Rating("What is 2 + 3 * 4?", "3 * 4 = 12, so it is 14."),
    Rating("What is 2 + 3 * 4?", "20"),
    Rating("1 + 1 = ?", "Two."),
    Rating("What is 7 - 5 + 1?", "7 - 5 = 2, and 2 + 1 = 3. The answer is 3."),
    Rating("What is 2 + 3 * 4?", "It is 15."),
)
"""Responses of different lengths; the first, second and last share their prompt."""


def outcome_spec(**changes: Any) -> RewardSpec:
    """Return a spec of two objectives without steps."""
    fields: dict[str, Any] = {
        "step_heads": (),
        "response_heads": OBJECTIVES,
        "objective_aggregation": WeightedSum(),
        "max_length": 128,
    }
    return RewardSpec(**fields | changes)


def outcome_model(
    family: str = "llama",
    read_at: str = "last",
    head: HeadKind = "linear",
    **changes: Any,
) -> RewardModel:
    """Return a random model in evaluation mode whose scores differ clearly between responses."""
    tokenizer = tiny_tokenizer()
    backbone = FromScratch({"model_type": family, **BACKBONES[family]}).model(tokenizer)
    spec = outcome_spec(response_format=ResponseFormat(read_at=read_at), **changes)  # type: ignore[arg-type]
    model = RewardModel(backbone, tokenizer, spec, head)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.heads.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return model.eval()


@torch.no_grad()
def columns_of(model: RewardModel, ratings: Sequence[Rating]) -> Tensor:
    """Return the head columns `[response, column]` of responses packed together, set by set."""
    trees = [model.builder.build(ResponseSet.of([rating])).tree for rating in ratings]
    return model(pack(trees)).columns


@torch.no_grad()
def columns_alone(model: RewardModel, ratings: Sequence[Rating]) -> Tensor:
    """Return the head columns `[response, column]`, each response in a pass of its own."""
    return torch.cat([columns_of(model, [rating]) for rating in ratings])


@torch.no_grad()
def columns_shared(model: RewardModel, ratings: Sequence[Rating]) -> Tensor:
    """Return the head columns of the distinct responses to one prompt, which is run once."""
    return model(pack([model.builder.build(ResponseSet.of(ratings)).tree])).columns


def save_outcome_model(folder: Path, **changes: Any) -> Path:
    """Save a random model of three objectives, two of them with spreads, and return its folder."""
    fields: dict[str, Any] = {"response_heads": SPREAD_OBJECTIVES, "max_length": 64}
    return checkpoint.save(outcome_model(**fields | changes), folder)


def save_joint_model(folder: Path) -> Path:
    """Save a random model of steps and of two objectives of responses, and return its folder."""
    tokenizer = tiny_tokenizer()
    backbone = FromScratch({"model_type": "llama", **BACKBONES["llama"]}).model(tokenizer)
    spec = outcome_spec(step_heads=(StepHead(),))
    return checkpoint.save(RewardModel(backbone, tokenizer, spec), folder)
