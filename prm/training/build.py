"""`Recipe`: how the model of a training run is made."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from prm.errors import ConfigError, ModelError
from prm.losses.language import LanguageModelLoss
from prm.models.heads import HeadKind
from prm.models.language_head import LanguageHead
from prm.models.lora import LoRA
from prm.models.reward_model import RewardModel
from prm.models.sources import BackboneSource
from prm.models.structure import compile_layers
from prm.spec import RewardSpec
from prm.spec.parts import STEP_MARKER
from prm.trees.identity import special_tokens

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """Where a model comes from, and what of it is trained.

    Args:
        source: Where backbone and tokenizer come from.
        head: Kind of the heads.
        lora: Train low-rank adapters instead of the backbone's weights.
        freeze_backbone: Train the heads only; steps are read at their own last token, unless the
            tokenizer has the step marker already.
        gradient_checkpointing: Recompute activations in the backward pass.
        compile_layers: Compile the decoder layers.
        state_cache: Folder for the states of a frozen backbone, if they are kept.
        language_model: Next-token regularizer, if there is one.

    Raises:
        ConfigError: Options exclude each other.
    """

    source: BackboneSource
    head: HeadKind
    lora: LoRA | None
    freeze_backbone: bool
    gradient_checkpointing: bool
    compile_layers: bool
    state_cache: Path | None
    language_model: LanguageModelLoss | None

    def __post_init__(self) -> None:
        if self.lora is not None and self.freeze_backbone:
            raise ConfigError("lora and freeze_backbone exclude each other")
        if self.language_model is not None and self.freeze_backbone:
            raise ConfigError("language_model has no effect on a frozen backbone")
        if self.state_cache is not None and not self.freeze_backbone:
            raise ConfigError(
                "state_cache needs a backbone that does not change",
                fix="Set model.freeze_backbone true, or take state_cache out",
            )

    def model(self, tokenizer: PreTrainedTokenizerBase, spec: RewardSpec) -> RewardModel:
        """Return the model around a tokenizer, in training mode.

        Raises:
            ConfigError: The spec's `max_length` is over the backbone's position limit.
        """
        spec = self._read_without_marker(tokenizer, spec)
        stock = self.source.model(tokenizer)
        limit = _position_limit(stock)
        if limit is not None and spec.max_length > limit:
            raise ConfigError(
                "max_length is over the backbone's position limit",
                expected=f"at most {limit}",
                got=spec.max_length,
                fix="Lower model.max_length",
            )
        if self.gradient_checkpointing:
            checkpoint_activations(stock)
        if self.compile_layers:
            compile_layers(stock)
        model = RewardModel(stock, tokenizer, spec, self.head).train()
        if self.freeze_backbone:
            model.backbone.requires_grad_(False)
        if self.lora is not None:
            self.lora.apply(model)
        return model

    def _read_without_marker(
        self, tokenizer: PreTrainedTokenizerBase, spec: RewardSpec
    ) -> RewardSpec:
        """Return the spec without a marker if it would stay a token that means nothing.

        A frozen backbone never learns a new token, so steps are read at their own last token. A
        marker of another name is what the user chose.
        """
        if not self.freeze_backbone or spec.marker is None:
            return spec
        if spec.marker in special_tokens(tokenizer):
            return spec
        if spec.marker != STEP_MARKER:
            logger.warning(
                "the frozen backbone never learns what %r means; step_format.marker null reads "
                "steps at their own last token",
                spec.marker,
            )
            return spec
        logger.info("steps are read at their own last token: the backbone is frozen")
        return spec.with_(step_format=replace(spec.step_format, marker=None))

    def language_head(self, model: RewardModel) -> LanguageHead | None:
        """Return the head of the language model, frozen and on the CPU.

        Nothing without a next-token regularizer, which is what needs it.

        Raises:
            ModelError: The backbone is no language model, or has no logits for some tokens.
        """
        if self.language_model is None:
            return None
        with torch.device("cpu"):
            head = self.source.language_head(model.tokenizer)
        assert model.spec.tokenizer is not None
        marker, pad = model.spec.tokenizer.marker_id, model.tokenizer.pad_token_id
        head.never = () if marker is None else (marker,)
        last = max(set(model.tokenizer.get_vocab().values()) - {marker, pad})
        if last >= head.num_tokens:
            raise ModelError(
                "the language model has no logits for some tokens of the tokenizer",
                expected=f"tokens up to {head.num_tokens - 1}",
                got=last,
                fix="Take language_model out",
            )
        return head


def _position_limit(stock: Any) -> int | None:
    """Return the most tokens that have a position; RoBERTa leaves out its first ones."""
    limit: int | None = getattr(stock.config.get_text_config(), "max_position_embeddings", None)
    table = getattr(getattr(stock, "embeddings", None), "position_embeddings", None)
    pad = getattr(table, "padding_idx", None)
    return limit if limit is None or pad is None else limit - pad - 1


def checkpoint_activations(stock: Any) -> None:
    """Turn it on by its present name or by the one it had before transformers 5.20."""
    name = "activation_checkpointing_enable"
    enable = getattr(stock, name, None) or stock.gradient_checkpointing_enable
    enable({"use_reentrant": False})
