"""Tiny tokenizers, backbones, models and chains that tests are made of."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from prm.models.heads import HeadKind
from prm.models.reward_model import RewardModel
from prm.models.sources import FromScratch, train_tokenizer
from prm.models.tree_attention import Kernel
from prm.records import Chain
from prm.spec import RewardSpec, StepHead
from prm.trees.packing import pack

TREE_FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gpt_neox", "gemma", "deepseek_v3")
"""Decoders that must share prompts exactly."""

UNROLLED_FAMILIES = {
    "gemma2": {"head_dim": 8},
    "mistral": {"sliding_window": 8},
    "gpt_oss": {
        "head_dim": 8,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    },
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
    "deepseek_v3": {
        "num_key_value_heads": 4,
        "kv_lora_rank": 8,
        "q_lora_rank": 8,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8,
        "v_head_dim": 8,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "moe_intermediate_size": 16,
        "n_shared_experts": 1,
    },
}
_WITHOUT_GROUPS = ("gpt_neox", "gpt2", "bert")

TWO_OBJECTIVES = (StepHead(), StepHead("redundancy", "softmax"))

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


CHARACTERS = "\n abcdefghijklmnopqrstuvwxyz[]<|>_0123456789"
"""Tokens 4, 5, 6, ... of the character tokenizer; 0 to 3 are pad, BOS, EOS and unknown."""


def character_tokenizer(chat_template: str | None = None) -> PreTrainedTokenizerBase:
    """Return a tokenizer with one token per character, which adds a BOS of its own by default."""
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    vocabulary = {token: index for index, token in enumerate([*special, *CHARACTERS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    names = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=chat_template, **names)


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
) -> RewardModel:
    """Return a random reward model in evaluation mode whose scores differ clearly between steps."""
    tokenizer = tiny_tokenizer()
    backbone = tiny_backbone(family, tokenizer, **fields)
    model = RewardModel(backbone, tokenizer, spec or RewardSpec(max_length=256), head, kernel)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.heads.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


@torch.no_grad()
def columns_packed(model: RewardModel, chains: Sequence[Chain]) -> list[Tensor]:
    """Return the head columns `[step, column]` of each chain, all run in one packed batch."""
    trees = [model.builder.build(chain).tree for chain in chains]
    columns = model(pack(trees)).columns
    return list(columns.split([tree.num_reads for tree in trees]))


def columns_alone(model: RewardModel, chain: Chain) -> Tensor:
    """Return the head columns `[step, column]` of a chain run by itself."""
    return columns_packed(model, [chain])[0]
