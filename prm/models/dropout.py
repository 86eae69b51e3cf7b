"""Dropout and jitter, which models that score trees must do without."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.modules.dropout import _DropoutNd


def turn_off_dropout(model: nn.Module) -> None:
    """Turn off dropout and jitter, in place: branches share their prompt, and would share its mask.

    Every float whose name contains `drop` or `jitter`, in modules and configurations, becomes 0.
    Models call dropout with numbers of their own as well as through modules.
    """
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        _zero(module)
        for config in _configs(getattr(module, "config", None)):
            _zero(config)


def _zero(owner: Any) -> None:
    for name, value in vars(owner).items():
        lower = name.lower()
        if isinstance(value, float) and ("drop" in lower or "jitter" in lower):
            setattr(owner, name, 0.0)


def _configs(config: Any) -> Iterator[Any]:
    """Yield a configuration and those in it."""
    if not hasattr(config, "sub_configs"):
        return
    yield config
    for name in config.sub_configs:
        yield from _configs(getattr(config, name, None))
