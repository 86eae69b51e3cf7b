"""What a format is, and how formats read the fields of a raw row."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeVar

from prm.errors import DataError
from prm.records import NAMES, Chain, Comparison, Message, Outcome, Record

Meaning = TypeVar("Meaning")

ADJUSTED = "adjusted"
"""Metadata key that says, in words, where a format's declared policy changed what the row says."""

VERDICTS = "verdicts"
"""Metadata key for what each rater of a pair said: 1 the better response, 0 tied, -1 the other."""

GRADES = "grades"
"""Metadata key for what each rater gave a response: objective to numbers, where several did."""

PROBLEM = "problem"
"""Metadata key for the bare problem text, where the prompt holds more than the problem."""

SUBSET = "subset"
"""Metadata key for the part of a source that a row belongs to; results are shown for each."""

MESSAGE_KEYS = (("role", "content"), ("from", "value"))
"""Who speaks in a message, and what is said: as chat templates have it, and as ShareGPT does."""


class Format(ABC):
    """Turns one raw row of a source into checked records."""

    kind: ClassVar[Literal["steps", "responses"]]
    """What the records are about: steps (chains), or whole responses (comparisons, ratings)."""

    @abstractmethod
    def records(self, row: Mapping[str, Any], origin: str) -> Sequence[Record]:
        """Return the records of one raw row.

        Args:
            row: The row as the source published it.
            origin: Where the row was read (`file:line`), which every record keeps.

        Raises:
            DataError: A field is missing or wrong; the message names it.
        """


class ChainFormat(Format):
    """Turns one raw row of a source into checked chains.

    A new format is one file in this folder with one subclass; nothing registers it.
    """

    kind = "steps"

    index_base: ClassVar[int | None] = None
    """Number that the source gives to a chain's first step; `None` if it names no step."""

    @abstractmethod
    def records(self, row: Mapping[str, Any], origin: str) -> list[Chain]:
        """Return the chains of one raw row."""


class OutcomeFormat(Format):
    """Turns one raw row of a source into checked comparisons and ratings of whole responses.

    A new format is one file in this folder with one subclass; nothing registers it. Whatever the
    source calls its labels, more is better for the objective as it is named: rank 0 of a comparison
    for safety is the safest response, and a rating of 1 for safety means safe.
    """

    kind = "responses"

    objectives: Mapping[str, str]
    """What the format supervises: each objective's name, with what more of it means."""

    @abstractmethod
    def records(self, row: Mapping[str, Any], origin: str) -> list[Outcome]:
        """Return the comparisons and ratings of one raw row."""


def required_field(row: Mapping[str, Any], name: str, expected: str, origin: str) -> Any:
    """Return `row[name]`, whatever it is; `expected` says in the error what it should be."""
    if name in row:
        return row[name]
    raise DataError(
        f"field {name!r} is missing",
        expected=expected,
        got=f"fields {sorted(map(str, row))}",
        where=origin,
        fix="Is this the right format for the file?",
    )


def text_field(row: Mapping[str, Any], name: str, origin: str) -> str:
    """Return `row[name]`, which must be text."""
    value = required_field(row, name, "text", origin)
    if not isinstance(value, str):
        raise wrong_field(name, "text", value, origin)
    return value


def list_field(row: Mapping[str, Any], name: str, origin: str) -> list[Any]:
    """Return `row[name]`, which must be a list."""
    value = required_field(row, name, "a list", origin)
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise wrong_field(name, "a list", value, origin)
    return list(value)


def mapping_field(row: Mapping[str, Any], name: str, origin: str) -> Mapping[str, Any]:
    """Return `row[name]`, which must be an object."""
    value = required_field(row, name, "an object", origin)
    if not isinstance(value, Mapping):
        raise wrong_field(name, "an object", value, origin)
    return value


def index_field(row: Mapping[str, Any], name: str, origin: str) -> int:
    """Return `row[name]`, which must be an integer."""
    value = required_field(row, name, "an integer", origin)
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong_field(name, "an integer", value, origin)
    return value


def meaning_field(
    row: Mapping[str, Any], name: str, meanings: Mapping[Any, Meaning], origin: str
) -> Meaning:
    """Return what `row[name]` means; a value that `meanings` does not list is an error."""
    expected = f"one of {', '.join(map(repr, meanings))}"
    value = required_field(row, name, expected, origin)
    for known, meaning in meanings.items():
        if type(known) is type(value) and known == value:
            return meaning
    raise wrong_field(name, expected, value, origin)


def name_field(row: Mapping[str, Any], name: str, origin: str) -> str:
    """Return `row[name]`, text or an integer, as text; "" where the row has none."""
    value = row.get(name)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise wrong_field(name, "text or an integer", value, origin)
    return str(value)


def record_fields(row: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Return what a row in a layout of this project says of its record beside texts and labels."""
    names = {name: name_field(row, name, origin) for name in NAMES}
    return {**names, "metadata": _metadata(row, origin), "origin": origin}


def _metadata(row: Mapping[str, Any], origin: str) -> Mapping[str, Any]:
    """Return `row["metadata"]`, an object or its JSON text; empty where the row has none."""
    value = row.get("metadata")
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            raise wrong_field("metadata", "an object or its JSON text", value, origin) from None
    if value is not None and not isinstance(value, Mapping):
        raise wrong_field("metadata", "an object", value, origin)
    return value or {}


def wrong_field(name: str, expected: str, got: object, origin: str) -> DataError:
    """Return the error that a field holds something else than expected."""
    shown = "null" if got is None else got
    return DataError(f"field {name!r} is wrong", expected=expected, got=shown, where=origin)


def judged_pair(
    prompt: str | Sequence[Message],
    responses: tuple[str, str],
    better: int | None,
    *,
    votes: tuple[float, float] | None = None,
    **fields: Any,
) -> Comparison:
    """Return the comparison of two responses, the better one first.

    Args:
        prompt: The prompt.
        responses: The two responses in the source's order.
        better: Index of the better response; `None` for a tie.
        votes: Raters that preferred each response, in the source's order.
        **fields: Further arguments of `Comparison`.

    Example:
        >>> judged_pair("Name a prime.", ("8", "7"), 1, objective="factuality").responses
        ('7', '8')
    """
    if better == 1:
        responses, votes = (responses[1], responses[0]), votes and (votes[1], votes[0])
    ranks = (0, 0) if better is None else (0, 1)
    return Comparison(prompt, responses, ranks, votes=votes, **fields)


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
