"""LoRA on the backbone; heads stay outside of it and are always trained and saved."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from prm.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from prm.models.reward_model import RewardModel


class LoRA:
    """Low-rank adapters on the backbone's linear layers.

    The step marker's embedding is trained too, since a new token starts without a meaning.

    Args:
        rank: Rank of the adapters.
        alpha: Scale of the adapters; their output is multiplied by `alpha / rank`.
        target_modules: Names of the layers that get an adapter, or `all-linear`.
        use_rslora: Scale by `alpha / sqrt(rank)` instead.

    Raises:
        ConfigError: The rank is below 1, or the scale not above 0.

    Source: Hu et al. 2021, arXiv 2106.09685.
    """

    def __init__(
        self,
        rank: int = 16,
        alpha: float = 32.0,
        target_modules: Sequence[str] | Literal["all-linear"] = "all-linear",
        use_rslora: bool = False,
    ) -> None:
        if rank < 1:
            raise ConfigError("rank of LoRA is wrong", expected="at least 1", got=rank)
        if not 0 < alpha < float("inf"):
            raise ConfigError("alpha of LoRA is wrong", expected="a number above 0", got=alpha)
        self.rank = rank
        self.alpha = alpha
        self.target_modules = target_modules
        self.use_rslora = use_rslora

    def apply(self, model: RewardModel) -> None:
        """Freeze the backbone and put adapters on it.

        Raises:
            MissingDependencyError: peft is not installed.
            ConfigError: No layer has one of the target names.
        """
        try:
            from peft import LoraConfig, get_peft_model
        except ImportError as error:
            raise MissingDependencyError(
                "LoRA needs the package peft", fix="pip install 'prm[peft]'"
            ) from error
        marker = model.spec.tokenizer.marker_id if model.spec.tokenizer else None
        targets: Any = self.target_modules
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]  # peft divides, any number works
            target_modules=targets if isinstance(targets, str) else list(targets),
            use_rslora=self.use_rslora,
            trainable_token_indices=None if marker is None else [marker],
        )
        try:
            adapted: Any = get_peft_model(model.backbone.model, config)
        except ValueError as error:
            raise ConfigError(f"LoRA cannot be applied: {error}") from error
        model.backbone.model = adapted


def merged(model: RewardModel) -> RewardModel:
    """Return the model with its adapters merged into a copy; the model itself if it has none."""
    if not hasattr(model.backbone.model, "merge_and_unload"):
        return model
    plain = copy.deepcopy(model)
    adapted: Any = plain.backbone.model
    plain.backbone.model = adapted.merge_and_unload()
    return plain
