"""Dropout and jitter, which models that score trees must do without."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

_NO_NOISE = {"phimoe": {"router_jitter_noise"}}
"""By model type, numbers that are called jitter, and decide in evaluation as well."""


def turn_off_dropout(model: nn.Module) -> None:
    """Turn off dropout and jitter, in place: branches share their prompt, and would share its mask.

    Every number whose name contains `drop` or `jitter`, in modules and configurations, becomes 0.
    Models call dropout with numbers of their own as well as through modules.
    """
    config: Any = getattr(model, "config", None)
    kept = _NO_NOISE.get(getattr(config, "model_type", ""), set())
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        _zero(module, kept)
        for part in _configs(getattr(module, "config", None)):
            _zero(part, kept)


def _zero(owner: Any, kept: set[str]) -> None:
    for name, value in vars(owner).items():
        lower = name.lower()
        is_noise = ("drop" in lower or "jitter" in lower) and name not in kept
        if is_noise and type(value) in (float, int):
            setattr(owner, name, type(value)(0))


def _configs(config: Any) -> Iterator[Any]:
    """Yield a configuration and those in it."""
    if not hasattr(config, "sub_configs"):
        return
    yield config
    for name in config.sub_configs:
        yield from _configs(getattr(config, name, None))
