"""`DecoderShape`: the sizes of a decoder that decide what it costs, and those of public models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prm.errors import ConfigError

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Values of `model_type` whose parameters and activations are counted exactly."""


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """Sizes of a decoder without its output embeddings, which a reward model does not have.

    Args:
        hidden_size: Width of the residual stream.
        intermediate_size: Width inside the gated MLP.
        num_layers: Decoder layers.
        num_heads: Query heads.
        num_kv_heads: Key and value heads.
        head_dim: Width of a head.
        vocab_size: Rows of the input embeddings.
        qkv_bias: Whether the projections to queries, keys and values have biases.
        qk_norm: Whether each head's queries and keys are normalized.
    """

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    qkv_bias: bool = False
    qk_norm: bool = False

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> DecoderShape:
        """Read the fields of a transformers configuration.

        Raises:
            ConfigError: The model is of another family, or a field is missing.

        Example:
            >>> DecoderShape.from_config(PRESETS["Qwen2.5-7B"]).num_parameters
            7070619136
        """
        family = config.get("model_type")
        if family not in FAMILIES:
            raise ConfigError(
                "the sizes of this kind of model are not known",
                expected=f"model_type {', '.join(FAMILIES)}",
                got=family,
            )
        try:
            return cls(
                hidden_size=config["hidden_size"],
                intermediate_size=config["intermediate_size"],
                num_layers=config["num_hidden_layers"],
                num_heads=config["num_attention_heads"],
                num_kv_heads=config.get("num_key_value_heads") or config["num_attention_heads"],
                head_dim=_head_dim(config),
                vocab_size=config["vocab_size"],
                qkv_bias=family == "qwen2",
                qk_norm=family == "qwen3",
            )
        except KeyError as error:
            raise ConfigError("the configuration is incomplete", expected=str(error)) from None

    @property
    def query_size(self) -> int:
        """Width of all query heads."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all key heads, and of all value heads."""
        return self.num_kv_heads * self.head_dim

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """Inputs and outputs of each linear map of a layer."""
        hidden, inner = self.hidden_size, self.intermediate_size
        query, kv = self.query_size, self.kv_size
        attention = [(hidden, query), (hidden, kv), (hidden, kv), (query, hidden)]
        return [*attention, (hidden, inner), (hidden, inner), (inner, hidden)]

    @property
    def linear_per_layer(self) -> int:
        """Weights of a layer's linear maps."""
        return sum(inputs * outputs for inputs, outputs in self.matrices)

    @property
    def parameters_per_layer(self) -> int:
        """All parameters of a layer."""
        norms = 2 * self.hidden_size + 2 * self.head_dim * self.qk_norm
        return self.linear_per_layer + norms + (self.query_size + 2 * self.kv_size) * self.qkv_bias

    @property
    def num_embeddings(self) -> int:
        """Parameters of the input embeddings and the last norm: what lies outside the layers."""
        return (self.vocab_size + 1) * self.hidden_size

    @property
    def num_linear(self) -> int:
        """Weights that every token is multiplied with."""
        return self.num_layers * self.linear_per_layer

    @property
    def num_parameters(self) -> int:
        """All parameters."""
        return self.num_layers * self.parameters_per_layer + self.num_embeddings

    def num_adapter_parameters(self, rank: int) -> int:
        """Parameters of LoRA adapters of a rank on all linear maps, and the marker's embedding."""
        per_layer = sum(rank * (inputs + outputs) for inputs, outputs in self.matrices)
        return self.num_layers * per_layer + self.hidden_size


def _head_dim(config: Mapping[str, Any]) -> int:
    if config["model_type"] == "qwen3":
        return int(config["head_dim"])
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def load_shape(model: str | Path) -> DecoderShape:
    """Return the sizes of a public model by its name, or of a model folder.

    Args:
        model: A name in `PRESETS`, in any case; a folder with a `config.json`; or that file.

    Raises:
        ConfigError: There is neither.

    Example:
        >>> load_shape("qwen3-8b").num_layers
        36
    """
    names = {name.lower(): name for name in PRESETS}
    if str(model).lower() in names:
        return DecoderShape.from_config(PRESETS[names[str(model).lower()]])
    path = Path(model)
    file = path / "config.json" if path.is_dir() else path
    try:
        return DecoderShape.from_config(json.loads(file.read_text(encoding="utf-8")))
    except ConfigError as error:
        raise error.at(str(file)) from None
    except (OSError, ValueError, AttributeError):
        raise ConfigError(
            "there is no such model",
            expected=f"a folder with config.json, or one of {', '.join(PRESETS)}",
            got=str(model),
        ) from None


def _preset(family: str, *sizes: int) -> dict[str, Any]:
    hidden, inner, layers, heads, kv_heads, head_dim, vocabulary = sizes
    return {
        "model_type": family,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "vocab_size": vocabulary,
    }


PRESETS: dict[str, dict[str, Any]] = {
    "Qwen2.5-0.5B": _preset("qwen2", 896, 4864, 24, 14, 2, 64, 151936),
    "Qwen2.5-1.5B": _preset("qwen2", 1536, 8960, 28, 12, 2, 128, 151936),
    "Qwen2.5-3B": _preset("qwen2", 2048, 11008, 36, 16, 2, 128, 151936),
    "Qwen2.5-7B": _preset("qwen2", 3584, 18944, 28, 28, 4, 128, 152064),
    "Qwen2.5-14B": _preset("qwen2", 5120, 13824, 48, 40, 8, 128, 152064),
    "Qwen2.5-32B": _preset("qwen2", 5120, 27648, 64, 40, 8, 128, 152064),
    "Qwen2.5-72B": _preset("qwen2", 8192, 29568, 80, 64, 8, 128, 152064),
    "Qwen3-0.6B": _preset("qwen3", 1024, 3072, 28, 16, 8, 128, 151936),
    "Qwen3-1.7B": _preset("qwen3", 2048, 6144, 28, 16, 8, 128, 151936),
    "Qwen3-4B": _preset("qwen3", 2560, 9728, 36, 32, 8, 128, 151936),
    "Qwen3-8B": _preset("qwen3", 4096, 12288, 36, 32, 8, 128, 151936),
    "Qwen3-14B": _preset("qwen3", 5120, 17408, 40, 40, 8, 128, 151936),
    "Qwen3-32B": _preset("qwen3", 5120, 25600, 64, 64, 8, 128, 151936),
    "Llama-3.2-1B": _preset("llama", 2048, 8192, 16, 32, 8, 64, 128256),
    "Llama-3.2-3B": _preset("llama", 3072, 8192, 28, 24, 8, 128, 128256),
    "Llama-3.1-8B": _preset("llama", 4096, 14336, 32, 32, 8, 128, 128256),
    "Llama-3.1-70B": _preset("llama", 8192, 28672, 80, 64, 8, 128, 128256),
}
"""Sizes of public models, as their configuration files have them; no weights are needed."""
