"""Cells of anybody's table: paths into them, JSON text, conversations, and what words mean."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from prm.data.formats.base import wrong_field
from prm.data.formats.message_pairs import split_conversations
from prm.errors import ConfigError, DataError
from prm.messages import TOOLS, read_messages, with_tools

_NOTHING = (None, "")


def read_cell(row: Mapping[str, Any], column: str, origin: str) -> Any:
    """Return `row[column]`, or what a path with dots leads to inside the row's objects and lists.

    A column whose own name holds the dots comes first. A number of a path is an index of a list
    (-1 for the last item), `*` stands for every item, and what lies inside null is null. Objects
    and lists may come as JSON text.

    Raises:
        DataError: There is no such column; the message names what there is.

    Example:
        >>> row = {"turns": [{"text": "Hi"}, {"text": "Hello"}], "a.b": 1}
        >>> [read_cell(row, path, "f:1") for path in ("turns.-1.text", "turns.*.text", "a.b")]
        ['Hello', ['Hi', 'Hello'], 1]
    """
    return _inside(row, column.split("."), column, origin)


def _inside(value: Any, parts: list[str], column: str, origin: str) -> Any:
    if not parts:
        return value
    value = as_json(value)
    if isinstance(value, Mapping):
        for size in range(len(parts), 0, -1):
            if (key := ".".join(parts[:size])) in value:
                return _inside(value[key], parts[size:], column, origin)
    elif value is None:
        return None
    elif isinstance(value, Sequence) and not isinstance(value, str):
        if parts[0] == "*":
            return [_inside(item, parts[1:], column, origin) for item in value]
        if re.fullmatch(r"-?\d{1,9}", parts[0]) and -len(value) <= int(parts[0]) < len(value):
            return _inside(value[int(parts[0])], parts[1:], column, origin)
    raise _no_column(value, ".".join(parts), column, origin)


def _no_column(value: Any, missing: str, column: str, origin: str) -> DataError:
    """Return the error that says what was found in the place of a column, or of a part of it."""
    before = column.removesuffix(missing).removesuffix(".")
    if isinstance(value, Mapping):
        found = f"one of {', '.join(map(str, value))}"
    elif isinstance(value, str):
        found = "an object or a list, and not text"
    else:
        found = f"0 to {len(value) - 1}, or *" if isinstance(value, Sequence) else "an object"
    return DataError(
        f"there is no column {column!r}",
        expected=f"in {before!r}, {found}" if before else found,
        where=origin,
        fix="Name the file's columns in the format's options",
    )


def read_name(row: Mapping[str, Any], column: str | None, origin: str) -> str:
    """Return a cell as text; "" where no column is named or the cell is empty."""
    value = read_cell(row, column, origin) if column else None
    return "" if value is None else str(value)


def as_json(cell: Any) -> Any:
    """Return the object or list that a text holds as JSON, else the cell."""
    if not isinstance(cell, str) or cell.lstrip()[:1] not in ("{", "["):
        return cell
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        return cell


def as_list(cell: Any) -> Any:
    """Return the list that a text cell holds as JSON, `None` for an empty cell, else the cell."""
    if isinstance(cell, str) and not cell.strip():
        return None
    listed = as_json(cell)
    return listed if isinstance(listed, list) else cell


def read_list(row: Mapping[str, Any], column: str, origin: str) -> list[Any]:
    """Return a cell that must hold a list, or one as JSON text."""
    cell = as_list(read_cell(row, column, origin))
    if isinstance(cell, str) or not isinstance(cell, Sequence):
        raise wrong_field(column, "a list", cell, origin)
    return list(cell)


def read_prompt(row: Mapping[str, Any], column: str, origin: str) -> Any:
    """Return a prompt; a conversation may come as JSON text, or as ShareGPT writes it."""
    cell = read_cell(row, column, origin)
    listed = as_list(cell)
    return read_messages(listed, origin, column) if is_conversation(listed) else cell


def offer_tools(prompt: Any, row: Mapping[str, Any], column: str | None, origin: str) -> Any:
    """Return a prompt with the tools of the row's column, which `TOOLS` need not be there."""
    if column is None or (column == TOOLS and TOOLS not in row):
        return prompt
    try:
        return with_tools(prompt, read_cell(row, column, origin), origin)
    except DataError as error:
        error.fix = "Set the format's option `tools` to null if these are no tools of the assistant"
        raise


def as_text(cell: Any) -> Any:
    """Return a list of texts as the lines that they are, else the cell."""
    is_lines = isinstance(cell, list) and cell and all(isinstance(line, str) for line in cell)
    return "\n".join(cell) if is_lines else cell


def is_conversation(cell: Any) -> bool:
    """Tell a list of messages from other cells."""
    return isinstance(cell, Sequence) and bool(cell) and isinstance(cell[0], Mapping)


def split_replies(prompt: Any, cells: Mapping[str, Any], origin: str) -> tuple[Any, list[Any]]:
    """Return the prompt, and the response that each cell holds.

    A response is text, a list of its lines, or a conversation of which it is the last turn. Without
    a prompt, it is what stands before that turn, the same in every cell.

    Args:
        prompt: The prompt; `None` if it stands in the cells.
        cells: The cells of the responses, by what to call them.
        origin: Where the row was read.

    Raises:
        DataError: A conversation does not end with an assistant's turn, they differ before it, or
            the prompt stands in two places.

    Example:
        >>> ask, say = {"from": "human", "value": "A prime?"}, {"from": "gpt", "value": "7"}
        >>> split_replies(None, {"a": [ask, say]}, "f:1")
        ([{'role': 'user', 'content': 'A prime?'}], ['7'])
    """
    cells = {
        name: as_text(as_list(cell) if prompt is None else cell) for name, cell in cells.items()
    }
    if prompt is not None and not any(map(is_conversation, cells.values())):
        return prompt, list(cells.values())
    before = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt or []
    talks = {
        name: [*before, *_turns(cell, name, origin, alone=prompt is not None)]
        for name, cell in cells.items()
    }
    first = next(iter(talks))
    split = [split_conversations(talks, first, name, origin) for name in talks]
    shared = split[0][0] if prompt is None else prompt
    return shared, [replies[1] for _, replies in split]


def _turns(cell: Any, name: str, origin: str, *, alone: bool) -> list[Any]:
    if not is_conversation(cell):
        expected = "a conversation, as no column holds the prompt, or the others are ones"
        raise wrong_field(name, expected, cell, origin)
    if alone and len(cell) > 1:
        raise DataError(
            f"{name!r} holds a whole conversation, and a prompt is there as well",
            expected="one message",
            got=f"{len(cell)} messages",
            where=origin,
            fix="Set the format's option `prompt` to null to read the prompt from it",
        )
    return list(read_messages(cell, origin, name))


@dataclass(frozen=True)
class Meaning:
    """What the cells of an objective mean as numbers; true and false are 1 and 0.

    Args:
        values: Cell, as JSON writes it, to its number; `None` for no label.
        scale: The number in the cells that stands for 0, and the one for 1.

    Example:
        >>> stars = Meaning(scale=(1, 5))
        >>> [stars.number(cell, "stars", "f:1") for cell in (2, "5", "", None)]
        [0.25, 1.0, None, None]
    """

    values: Mapping[str, float | None] | None = None
    scale: tuple[float, float] | None = None

    def number(self, cell: Any, column: str, origin: str) -> float | None:
        """Return what a cell means; `None` if it is empty."""
        if self.values is not None:
            if (found := look_up(cell, self.values)) is not None:
                value = self.values[found]
                return None if value is None else float(value)
            if cell in _NOTHING:
                return None
            raise wrong_field(column, f"one of {', '.join(self.values)}", cell, origin)
        number = read_number(cell, column, origin)
        if number is None or self.scale is None:
            return number
        low, high = self.scale
        if not min(self.scale) <= number <= max(self.scale):
            raise wrong_field(column, f"a number from {low:g} to {high:g}", cell, origin)
        return (number - low) / (high - low)

    def numbers(self, cells: Sequence[Any], column: str, origin: str) -> list[float]:
        """Return what cells mean that are not empty."""
        found = (self.number(cell, column, origin) for cell in cells)
        return [number for number in found if number is not None]


def said_by_each(cell: Any, column: str, depth: int = 0) -> list[Any]:
    """Return what each rater says: the items of a cell that `*` leads to, else the cell alone.

    Args:
        cell: The cell.
        column: The path to it.
        depth: How many lists of the path are used up: 1 if the cell is one of a list.

    Example:
        >>> said_by_each([4, 5], "raters.*.score"), said_by_each(4, "score")
        ([4, 5], [4])
    """
    is_several = column.split(".").count("*") > depth and isinstance(cell, list)
    return list(cell) if is_several else [cell]


def mean_opinion(opinions: Collection[float]) -> float | None:
    """Return the mean of what raters say; `None` if none says anything."""
    return fmean(opinions) if opinions else None


def meanings(
    names: Collection[str],
    values: Mapping[str, Mapping[str, float | None]] | None,
    scales: Mapping[str, tuple[float, float]] | None,
) -> dict[str, Meaning]:
    """Return what the cells of each objective mean.

    Raises:
        ConfigError: An objective is none of `names`, has values and a scale, or an empty scale.
    """
    values, scales = values or {}, scales or {}
    for name in (*values, *scales):
        if name not in names or (name in values and name in scales):
            raise ConfigError(
                f"`values` or `scales` of {name!r} is wrong",
                expected=f"one of the two, for one of {', '.join(names) or 'no objective'}",
            )
    for name, (low, high) in scales.items():
        if low == high:
            raise ConfigError(f"the scale of {name!r} is empty", got=[low, high])
    return {name: Meaning(values.get(name), scales.get(name)) for name in names}


def look_up(cell: Any, known: Collection[str]) -> str | None:
    """Return the one of `known` that a cell is, as JSON writes it; case and outer space are free.

    Example:
        >>> [look_up(cell, ["true", "1"]) for cell in (True, "True ", 1, 1.0, "no")]
        ['true', 'true', '1', '1', None]
    """
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    text = cell if isinstance(cell, str) else json.dumps(cell, default=str)
    if text in known:
        return text
    folded = text.strip().casefold()
    return next((key for key in known if key.strip().casefold() == folded), None)


def read_number(cell: Any, column: str, origin: str) -> float | None:
    """Return the number in a cell, `None` if it is empty; true and false are 1 and 0."""
    if cell in _NOTHING:
        return None
    if isinstance(cell, str) and cell.strip().casefold() in ("true", "false"):
        return float(cell.strip().casefold() == "true")
    try:
        number = float(cell)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise wrong_field(column, "a number, or nothing", cell, origin)
    return number


def whole_number(cell: object) -> int | None:
    """Return a whole number, which may come as text or with a fraction of 0; else `None`."""
    if isinstance(cell, bool) or not isinstance(cell, int | float | str):
        return None
    try:
        return int(cell) if float(cell) == int(float(cell)) else None
    except (ValueError, OverflowError):
        return None
