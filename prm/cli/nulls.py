"""Nulls for options that take none: jsonargparse lets them through, to fail where they arrive."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import is_dataclass
from importlib import import_module
from typing import Any, get_args, get_type_hints

from jsonargparse import Namespace

from prm.errors import ConfigError


def refuse_nulls(options: Namespace, owner: Any, name: str = "") -> None:
    """Refuse nulls among the options of a class, and of the classes that they name.

    Args:
        options: What was parsed.
        owner: What they are the arguments of.
        name: What comes before the names of these options.

    Raises:
        ConfigError: An option is null whose type does not allow it; the option is named.

    Example:
        >>> from prm.data.sampling import Sampling
        >>> refuse_nulls(Namespace(temperature=None, epoch_size=None), Sampling, "data.sampling.")
        Traceback (most recent call last):
        prm.errors.ConfigError: --data.sampling.temperature is null. Give it a value, or take it out
    """
    hints = _hints(owner)
    for key, value in vars(options).items():
        if value is None and not _takes_none(owner, key, hints):
            raise ConfigError(f"--{name}{key} is null", fix="Give it a value, or take it out")
        for place, part in _parts(value):
            named = part.get("class_path")
            chosen = _class(hints.get(key)) if named is None else _imported(named)
            below = part if named is None else part.get("init_args")
            if chosen is not None and isinstance(below, Namespace):
                refuse_nulls(below, chosen, f"{name}{key}{place}.")


def _parts(value: Any) -> Iterator[tuple[str, Namespace]]:
    """Yield options within an option, each with its place: those of it or of members of a list."""
    if isinstance(value, Namespace):
        yield "", value
    if isinstance(value, list):
        for index, member in enumerate(value):
            if isinstance(member, Namespace):
                yield f"[{index}]", member


def _hints(owner: Any) -> dict[str, Any]:
    """Return the types of arguments; none where they cannot be told."""
    called = owner if is_dataclass(owner) or not inspect.isclass(owner) else owner.__init__
    try:
        return get_type_hints(called)
    except (NameError, TypeError):
        return {}


def _takes_none(owner: Any, name: str, hints: dict[str, Any]) -> bool:
    if name not in hints:
        return True
    parameter = inspect.signature(owner).parameters.get(name)
    allowed = hints[name] in (Any, object, None, type(None)) or type(None) in get_args(hints[name])
    return allowed or (parameter is not None and parameter.default is None)


def _class(hint: Any) -> Any:
    """Return the dataclass that a type names, alone or as an alternative."""
    alternatives = get_args(hint) or (hint,)
    return next((one for one in alternatives if is_dataclass(one)), None)


def _imported(class_path: str) -> Any:
    module, _, name = class_path.rpartition(".")
    return getattr(import_module(module), name, None)
