"""Tiny tokenizers, backbones, models and chains that tests are made of."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prm.data.packing import pack
from prm.models.backbone import FromScratch, train_tokenizer
from prm.models.heads import HeadKind
from prm.models.reward_model import ProcessRewardModel
from prm.models.tree_attention import Kernel
from prm.records import Chain
from prm.spec import Objective, RewardSpec

TREE_FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gpt_neox", "gemma")
"""Decoders that must share prompts exactly."""

UNROLLED_FAMILIES = {
    "gemma2": {"head_dim": 8},
    "mistral": {"sliding_window": 8},
    "gpt_oss": {"head_dim": 8, "num_local_experts": 2},
}
"""Decoders, with fields of their configuration, that a tree would not serve exactly."""

_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
_FIELDS: dict[str, dict[str, Any]] = {
    "qwen3": {"head_dim": 8},
    "gemma": {"head_dim": 8},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "mamba": {"state_size": 4},
}
_WITHOUT_GROUPS = ("gpt_neox", "gpt2", "bert")

TWO_OBJECTIVES = (Objective(), Objective("redundancy", "softmax"))

CHAINS = (
    Chain("What is 2 + 3 * 4?", ["3 * 4 = 12", "2 + 12 = 14", "The answer is 14."]),
    Chain("What is 2 + 3 * 4?", ["2 + 3 = 5", "5 * 4 = 20"]),
    Chain("1 + 1 = ?", ["2"]),
    Chain("What is 7 - 5 + 1?", ["7 - 5 = 3", "3 + 1 = 4", "So: 4"]),
    Chain("What is 2 + 3 * 4?", ["3 * 4 = 12", "2 + 12 = 15", "It is 15.", "Done."]),
)
"""Chains of different lengths; the first, second and last share their prompt."""


@functools.cache
def _texts() -> tuple[str, ...]:
    return tuple(text for chain in CHAINS for text in (str(chain.prompt), *chain.completions))


def tiny_tokenizer(vocab_size: int = 300) -> PreTrainedTokenizerBase:
    """Return a byte-level tokenizer of its own, so that a test may change it."""
    return train_tokenizer(_texts(), vocab_size)


def tiny_backbone(
    family: str = "qwen2", tokenizer: PreTrainedTokenizerBase | None = None, **fields: Any
) -> PreTrainedModel:
    """Return a random decoder of two layers."""
    sizes = {
        name: value
        for name, value in _SIZES.items()
        if not (name == "num_key_value_heads" and family in _WITHOUT_GROUPS)
    }
    config = {"model_type": family, **sizes, **_FIELDS.get(family, {}), **fields}
    return FromScratch(config).model(tokenizer or tiny_tokenizer())


def tiny_model(
    family: str = "qwen2",
    spec: RewardSpec | None = None,
    head: HeadKind = "linear",
    kernel: Kernel = "auto",
    **fields: Any,
) -> ProcessRewardModel:
    """Return a random reward model in evaluation mode whose scores differ clearly between steps."""
    tokenizer = tiny_tokenizer()
    backbone = tiny_backbone(family, tokenizer, **fields)
    model = ProcessRewardModel(
        backbone, tokenizer, spec or RewardSpec(max_length=256), head, kernel
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.heads.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


@torch.no_grad()
def columns_packed(model: ProcessRewardModel, chains: Sequence[Chain]) -> list[Tensor]:
    """Return the head columns `[step, column]` of each chain, all run in one packed batch."""
    trees = [model.builder.build(chain).tree for chain in chains]
    columns = model(pack(trees)).columns
    return list(columns.split([tree.num_reads for tree in trees]))


def columns_alone(model: ProcessRewardModel, chain: Chain) -> Tensor:
    """Return the head columns `[step, column]` of a chain run by itself."""
    return columns_packed(model, [chain])[0]
