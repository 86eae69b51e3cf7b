"""One reward function per process, made from what a trainer's configuration can hold.

verl and OpenRLHF call a function for one completion at a time, from several threads and processes.
Each process loads the model once, whatever asks for it.
"""

from __future__ import annotations

import functools
import inspect
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from prm.aggregation.objectives import from_config
from prm.aggregation.steps import named_aggregation
from prm.errors import ConfigError
from prm.rl.reward_function import RewardFunction

_LOCK = threading.Lock()


def shared_reward_function(model: str | Path, **options: Any) -> RewardFunction:
    """Return this process's reward function for a model and options.

    Args:
        model: Folder of the model, or the address of a `prm serve`.
        options: Of `RewardFunction`, as plain values: aggregations are names or mappings with
            their parameters, `dtype` is the name of a type.

    Raises:
        ConfigError: There is no such option, or as `RewardFunction`.
    """
    known = [name for name in inspect.signature(RewardFunction).parameters if name != "model"]
    if unknown := sorted(set(options) - set(known)):
        raise ConfigError(
            "unknown options of the reward", expected=", ".join(known), got=", ".join(unknown)
        )
    place = str(model) if "://" in str(model) else str(Path(model).absolute())
    text = json.dumps({"model": place, **options}, sort_keys=True, default=_plain)
    with _LOCK:
        return _reward_function(text)


@functools.cache
def _reward_function(options: str) -> RewardFunction:
    arguments = json.loads(options)
    builders: dict[str, Callable[[Any], Any]] = {
        "step_aggregation": named_aggregation,
        "objective_aggregation": from_config,
        "dtype": lambda name: getattr(torch, name),
    }
    for name, build in builders.items():
        if arguments.get(name) is not None:
            arguments[name] = build(arguments[name])
    return RewardFunction(**arguments)


def _plain(value: object) -> Any:
    """Return containers of configuration libraries as those of JSON, and paths as texts."""
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, Sequence) else str(value)
