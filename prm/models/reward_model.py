"""Reward models: a backbone, heads, and the spec that says what they mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prm.errors import ModelError
from prm.models.backbone import Backbone
from prm.models.gate import Gate
from prm.models.heads import HeadKind, Heads
from prm.models.readouts import response_scores, step_logits
from prm.models.stock import head_has_bias
from prm.models.structure import token_embeddings
from prm.models.tree_attention import Kernel
from prm.spec import RewardSpec
from prm.trees.chat import fix_template
from prm.trees.identity import add_marker, add_pad, identity
from prm.trees.packing import CachedReads, ModelInput, PackedTrees
from prm.trees.tokenize import TreeBuilder


@dataclass  # without slots: the hooks of DeepSpeed look into the attributes of what modules return
class ModelOutput:
    """What one forward pass gives.

    Args:
        columns: Head columns at the reads, shape `[read, column]`, float32.
        states: Hidden state of every token, shape `[token, hidden]`; `None` for an encoder.
        gates: Weights of the response objectives that the prompt of each read chooses, shape
            `[read, objective]`, float32; `None` for a model without a gate.
        reads: Hidden state at each read, shape `[read, hidden]`.
    """

    columns: Tensor
    states: Tensor | None
    gates: Tensor | None = None
    reads: Tensor | None = None

    def at_reads(self, sizes: Sequence[int]) -> list[ModelOutput]:
        """Return the parts of trees with so many reads each, on the CPU, without states."""
        columns = self.columns.cpu().split(list(sizes))
        gates = repeat(None) if self.gates is None else self.gates.cpu().split(list(sizes))
        return [ModelOutput(part, None, own) for part, own in zip(columns, gates, strict=False)]


class RewardModel(nn.Module):
    """Scores every step of a chain of thought, whole responses, or both: heads on one backbone.

    The spec says which heads there are. A causal decoder computes a prompt once for all that
    follows it; a bidirectional encoder can score whole responses only, each run apart.

    Args:
        model: A stock transformers model without head.
        tokenizer: Its tokenizer; the spec's step marker, and a pad token where responses need one,
            are added if they are missing.
        spec: The reward spec; the tokenizer's identity is filled in, and what the chat template
            reads beside messages is fixed in the tokenizer.
        head: Kind of the heads.
        kernel: Attention kernel; `auto` picks by device.

    Raises:
        ModelError: The model is an encoder and the spec has steps.
        SpecError: The tokenizer lacks what the spec needs.

    Example:
        >>> from prm.models.sources import FromScratch
        >>> source = FromScratch({"model_type": "qwen2", "hidden_size": 16, "num_hidden_layers": 1,
        ...     "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 16}, 300)
        >>> tokenizer = source.tokenizer(["1 + 1 = 2"])
        >>> model = RewardModel(source.model(tokenizer), tokenizer, RewardSpec())
        >>> from prm import Chain
        >>> from prm.trees.packing import pack
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
        spec = fix_template(tokenizer, spec)
        known = set(tokenizer.get_vocab().values())
        add_marker(tokenizer, spec)
        add_pad(tokenizer, spec)
        new = set(tokenizer.get_vocab().values()) - known
        embed_new_tokens(model, known - {tokenizer.pad_token_id}, new)
        model.config.pad_token_id = tokenizer.pad_token_id
        self.spec = spec.with_(tokenizer=identity(tokenizer, spec))
        self.tokenizer = tokenizer
        self.backbone = Backbone(
            model,
            spec.max_length,
            kernel,
            spec.response_format.read_at if spec.kind == "outcome" else "last",
            encoders=spec.kind == "outcome",
        )
        bias = head_has_bias(model, spec)
        self.heads = Heads(self.backbone.hidden_size, spec.num_columns, head, bias)
        self.gate: Gate | None = None

    @cached_property
    def builder(self) -> TreeBuilder:
        """What turns chains and response sets into token trees."""
        return TreeBuilder(self.tokenizer, self.spec)

    @property
    def device(self) -> torch.device:
        """Where the heads are."""
        return next(self.heads.parameters()).device

    def forward(self, trees: ModelInput) -> ModelOutput:
        """Run packed trees, or the heads alone on cached reads; heads see the reads only."""
        if isinstance(trees, CachedReads):
            return ModelOutput(self.heads(trees.states), None)
        reads, states = self.backbone(trees)
        gates = None if self.gate is None else self.gate(self.prompt_states(trees, states))
        return ModelOutput(self.heads(reads), states, gates, reads)

    def prompt_states(self, trees: PackedTrees, states: Tensor | None) -> Tensor:
        """Return the state at the last token of the prompt of each read, `[read, hidden]`.

        Args:
            trees: Packed trees of prompts with responses.
            states: What the backbone gives for all their tokens.

        Raises:
            ModelError: The model is an encoder, which reads a prompt only with a response.
        """
        if states is None:
            raise ModelError(
                "an encoder has no state of a prompt without a response",
                expected="a decoder",
                fix="Gates need a decoder; fixed weights work with both",
            )
        return states[trees.before_reads()]

    def step_logits(self, columns: Tensor) -> Tensor:
        """Return log-odds per step objective, shape `[read, objective]`, from `[read, column]`."""
        return step_logits(columns, self.spec)

    def response_scores(self, columns: Tensor) -> Tensor:
        """Return scores per response objective, `[read, objective]`, from `[read, column]`."""
        return response_scores(columns, self.spec)


def embed_new_tokens(model: PreTrainedModel, known: set[int], new: set[int]) -> None:
    """Give new tokens the mean of the known tokens' embeddings; add rows for those that lack one.

    Many tables have more rows than the tokenizer has tokens, and what those rows hold means
    nothing.

    Args:
        model: The model, changed in place.
        known: Ids of tokens that the model was trained with.
        new: Ids of tokens that it was not.
    """
    num_rows = len(token_embeddings(model))
    needed = max(known | new) + 1
    if needed > num_rows:
        model.resize_token_embeddings(needed, mean_resizing=False)
    weight = token_embeddings(model)
    fill = sorted(new | set(range(num_rows, needed)))
    rows = [row for row in sorted(known) if row < num_rows]
    if fill:
        old, filled = (torch.tensor(ids, device=weight.device) for ids in (rows, fill))
        with torch.no_grad():
            weight[filled] = weight[old].mean(dim=0, dtype=torch.float32).to(weight.dtype)
