"""What a format is, and how formats read the fields of a raw row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from prm.errors import DataError
from prm.records import Chain

ADJUSTED = "adjusted"
"""Metadata key that says, in words, where a format's declared policy changed what the row says."""

PROBLEM = "problem"
"""Metadata key for the bare problem text, where the prompt holds more than the problem."""


class Format(ABC):
    """Turns one raw row of a source into checked chains.

    A new format is one file in this folder with one subclass; nothing registers it.
    """

    index_base: ClassVar[int | None] = None
    """Number that the source gives to a chain's first step; `None` if it names no step."""

    @abstractmethod
    def chains(self, row: Mapping[str, Any], origin: str) -> list[Chain]:
        """Return the chains of one raw row.

        Args:
            row: The row as the source published it.
            origin: Where the row was read (`file:line`), for error messages.

        Raises:
            DataError: A field is missing or wrong; the message names it.
        """


def text_field(row: Mapping[str, Any], name: str, origin: str) -> str:
    """Return `row[name]`, which must be text."""
    value = _required(row, name, "text", origin)
    if not isinstance(value, str):
        raise wrong_field(name, "text", value, origin)
    return value


def list_field(row: Mapping[str, Any], name: str, origin: str) -> list[Any]:
    """Return `row[name]`, which must be a list."""
    value = _required(row, name, "a list", origin)
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise wrong_field(name, "a list", value, origin)
    return list(value)


def mapping_field(row: Mapping[str, Any], name: str, origin: str) -> Mapping[str, Any]:
    """Return `row[name]`, which must be an object."""
    value = _required(row, name, "an object", origin)
    if not isinstance(value, Mapping):
        raise wrong_field(name, "an object", value, origin)
    return value


def index_field(row: Mapping[str, Any], name: str, origin: str) -> int:
    """Return `row[name]`, which must be an integer."""
    value = _required(row, name, "an integer", origin)
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong_field(name, "an integer", value, origin)
    return value


def wrong_field(name: str, expected: str, got: object, origin: str) -> DataError:
    """Return the error that a field holds something else than expected."""
    shown = "null" if got is None else got
    return DataError(f"field {name!r} is wrong", expected=expected, got=shown, where=origin)


def first_error_labels(num_steps: int, first_error: int | None) -> list[float | None]:
    """Return the labels that a first error implies: right before it, unlabeled after it.

    Args:
        num_steps: Number of steps of the chain.
        first_error: 0-based index of the first wrong step; `None` if every step is right.

    Example:
        >>> first_error_labels(4, 1)
        [1.0, 0.0, None, None]
    """
    if first_error is None:
        return [1.0] * num_steps
    return [1.0] * first_error + [0.0] + [None] * (num_steps - first_error - 1)


def _required(row: Mapping[str, Any], name: str, expected: str, origin: str) -> Any:
    if name in row:
        return row[name]
    raise DataError(
        f"field {name!r} is missing",
        expected=expected,
        got=f"fields {sorted(map(str, row))}",
        where=origin,
        fix="Is this the right format for the file?",
    )
