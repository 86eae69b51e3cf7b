"""`ProcessRewardModel`: a backbone, heads, and the spec that says what they mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prm.data.packing import PackedTrees
from prm.data.tokenize import TreeBuilder, add_marker, identity
from prm.losses.process import log_odds
from prm.models.backbone import Backbone
from prm.models.heads import HeadKind, Heads
from prm.models.tree_attention import Kernel
from prm.spec import RewardSpec


@dataclass(slots=True)
class ModelOutput:
    """What one forward pass gives.

    Args:
        columns: Head columns at the reads, shape `[read, column]`, float32.
        states: Hidden state of every token, shape `[token, hidden]`.
    """

    columns: Tensor
    states: Tensor


class ProcessRewardModel(nn.Module):
    """Scores every step of a chain of thought, for one or several objectives.

    Args:
        model: A stock transformers decoder without head.
        tokenizer: Its tokenizer; the spec's step marker is added if it is missing.
        spec: The reward spec; the tokenizer's identity is filled in.
        head: Kind of the heads.
        kernel: Attention kernel; `auto` picks by device.

    Example:
        >>> from prm.models.sources import FromScratch
        >>> source = FromScratch({"model_type": "qwen2", "hidden_size": 16, "num_hidden_layers": 1,
        ...     "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 16}, 300)
        >>> tokenizer = source.tokenizer(["1 + 1 = 2"])
        >>> model = ProcessRewardModel(source.model(tokenizer), tokenizer, RewardSpec())
        >>> from prm import Chain
        >>> from prm.data.packing import pack
        >>> chain = Chain("1 + 1 + 1 = ?", ["1 + 1 = 2", "2 + 1 = 3"])
        >>> model(pack([model.builder.build(chain).tree])).columns.shape
        torch.Size([2, 1])
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        spec: RewardSpec,
        head: HeadKind = "linear",
        kernel: Kernel = "auto",
    ) -> None:
        super().__init__()
        if add_marker(tokenizer, spec) or len(tokenizer) > _num_embeddings(model):
            grow_embeddings(model, len(tokenizer))
        model.config.pad_token_id = tokenizer.pad_token_id
        self.spec = spec.with_(tokenizer=identity(tokenizer, spec))
        self.tokenizer = tokenizer
        self.builder = TreeBuilder(tokenizer, self.spec)
        self.backbone = Backbone(model, spec.max_length, kernel)
        self.heads = Heads(self.backbone.hidden_size, spec.num_columns, head)

    def forward(self, trees: PackedTrees) -> ModelOutput:
        """Run packed trees; heads see the read positions only."""
        states = self.backbone(trees)
        return ModelOutput(self.heads(states[trees.reads]), states)

    def step_logits(self, columns: Tensor) -> Tensor:
        """Return log-odds per objective, shape `[read, objective]`, from `[read, column]`."""
        return torch.stack(
            [
                log_odds(columns[:, self.spec.columns[objective.name]], objective.readout)
                for objective in self.spec.objectives
            ],
            dim=-1,
        )


def grow_embeddings(model: PreTrainedModel, num_tokens: int) -> None:
    """Add embeddings for new tokens, each the mean of the old ones; never shrink."""
    old = _num_embeddings(model)
    if num_tokens <= old:
        return
    model.resize_token_embeddings(num_tokens, mean_resizing=False)
    with torch.no_grad():
        weight: Any = model.get_input_embeddings().weight
        weight[old:] = weight[:old].float().mean(dim=0).to(weight.dtype)


def _num_embeddings(model: PreTrainedModel) -> int:
    weight: Any = model.get_input_embeddings().weight
    return int(weight.shape[0])
