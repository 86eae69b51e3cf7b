"""What a spec stores by a short name and parameters: the aggregations and the normalizers."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from prm.errors import ConfigError


class Named:
    """Base of what is stored by name; the attributes are the parameters, and decide equality.

    Attributes:
        name: The short name used in specs, in configurations and on the command line.
    """

    name: ClassVar[str]

    def parameters(self) -> dict[str, Any]:
        """Return the constructor arguments, as the spec stores them."""
        return copy.deepcopy(vars(self))

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), json.dumps(vars(self), sort_keys=True)))

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in vars(self).items())
        return f"{type(self).__name__}({arguments})"


AnyNamed = TypeVar("AnyNamed", bound=Named)


def class_of(known: Mapping[str, type[AnyNamed]], what: str, name: str) -> type[AnyNamed]:
    """Return the class with a short name, or with a class name, with or without its module.

    Args:
        known: The classes by short name.
        what: What they are, for messages.
        name: The name.

    Raises:
        ConfigError: No class has the name.
    """
    by_class = {cls.__name__: cls for cls in known.values()}
    found = known.get(name) or by_class.get(name.rpartition(".")[2])
    if found is None:
        raise ConfigError(f"unknown {what}", expected=" | ".join(known), got=name)
    return found


def build(
    known: Mapping[str, type[AnyNamed]], what: str, name: str, parameters: Mapping[str, Any]
) -> AnyNamed:
    """Return what `class_of` finds, made with parameters.

    Raises:
        ConfigError: No class has the name, or it does not take these parameters.
    """
    cls = class_of(known, what, name)
    try:
        inspect.signature(cls).bind(**parameters)
    except TypeError:
        problem = f"{what} {cls.name!r} does not take these parameters"
        raise ConfigError(problem, got=sorted(parameters)) from None
    try:
        return cls(**parameters)
    except TypeError:
        problem = f"the parameters of {what} {cls.name!r} are wrong"
        raise ConfigError(problem, got=dict(parameters)) from None


def to_dict(item: Named) -> dict[str, Any]:
    """Return an item as JSON: its name and parameters."""
    return {"name": item.name, **item.parameters()}
