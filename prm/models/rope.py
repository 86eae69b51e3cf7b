"""Rotary positions that do not depend on the longest sequence of a batch.

`longrope` takes other frequencies, and `dynamic` scales them, once the longest position of a batch
passes what the model was first trained on: a score would depend on what is packed beside it, and an
early step's on later steps. So the choice is made once, from the most tokens a model may read, and
written into its configuration, where every reader of the model's folder finds it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS


def fix_rope(model: nn.Module, max_length: int) -> None:
    """Choose the frequencies of rotary positions for paths of up to `max_length` tokens, in place.

    Long factors of `longrope` if `max_length` is over the original length, else the short ones;
    `dynamic` positions become plain ones with the base that `max_length` tokens ask for. What was
    chosen before, with another `max_length`, stays.

    Args:
        model: A model of transformers.
        max_length: Most tokens of a path.
    """
    rotary = list(_rotary_modules(model))
    dynamic = [
        (module, layer_type, _dynamic_base(module, layer_type, max_length))
        for module, layer_type, kind in rotary
        if kind == "dynamic"
    ]
    for module, layer_type, kind in rotary:
        if kind == "longrope":
            _fix_longrope(module, layer_type, max_length)
    for module, layer_type, base in dynamic:  # several modules may have one configuration
        if base is not None:
            _make_plain(module, layer_type, base)


def _rotary_modules(model: nn.Module) -> Iterator[tuple[Any, str | None, str]]:
    """Yield modules that hold rotary positions, with each layer type and kind of theirs."""
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        if isinstance(kinds, str | dict) and hasattr(module, "config"):
            by_layer: dict[Any, str] = kinds if isinstance(kinds, dict) else {None: kinds}
            for layer_type, kind in list(by_layer.items()):
                yield module, layer_type, kind


def _fix_longrope(module: Any, layer_type: str | None, max_length: int) -> None:
    options = _options(module, layer_type)
    is_long = max_length > options["original_max_position_embeddings"]
    chosen, other = ("long", "short") if is_long else ("short", "long")
    same = {
        f"{other}_{what}": options[f"{chosen}_{what}"]
        for what in ("factor", "mscale")
        if f"{chosen}_{what}" in options
    }
    _set_options(module, layer_type, {**options, **same})
    _set_frequencies(module, layer_type, "longrope")


def _dynamic_base(module: Any, layer_type: str | None, max_length: int) -> float | None:
    """Set the frequencies for `max_length` tokens, and return their base; `None` if not needed."""
    options, config = _options(module, layer_type), module.config
    original: int = config.max_position_embeddings
    if max_length <= original:
        return None
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    dim = int(size * options.get("partial_rotary_factor", 1.0))
    stretch = options["factor"] * max_length / original - (options["factor"] - 1)
    _set_frequencies(module, layer_type, "dynamic", seq_len=max_length)
    base: float = options["rope_theta"] * stretch ** (dim / (dim - 2))
    return base


def _make_plain(module: Any, layer_type: str | None, base: float) -> None:
    options = _options(module, layer_type)
    plain = {name: value for name, value in options.items() if name != "factor"}
    _set_options(module, layer_type, {**plain, "rope_type": "default", "rope_theta": base})
    if layer_type is None:
        module.rope_type = "default"
    else:
        module.rope_type[layer_type] = "default"


def _options(module: Any, layer_type: str | None) -> dict[str, Any]:
    options: dict[str, Any] = module.config.rope_parameters
    return options if layer_type is None else options[layer_type]


def _set_options(module: Any, layer_type: str | None, options: dict[str, Any]) -> None:
    config = module.config
    if layer_type is not None:
        options = {**config.rope_parameters, layer_type: options}
    config.rope_parameters = options


def _set_frequencies(module: Any, layer_type: str | None, kind: str, **options: Any) -> None:
    """Recompute the frequencies that a module keeps; some modules keep none."""
    prefix = "" if layer_type is None else f"{layer_type}_"
    kept = getattr(module, f"{prefix}inv_freq", None)
    if kept is None:
        return
    values, _ = ROPE_INIT_FUNCTIONS[kind](
        module.config, kept.device, layer_type=layer_type, **options
    )
    for name in ("inv_freq", "original_inv_freq", "long_inv_freq"):
        if getattr(module, f"{prefix}{name}", None) is not None:
            setattr(module, f"{prefix}{name}", values.clone().to(kept.dtype))
