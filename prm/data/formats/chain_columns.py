"""Anybody's own file: which column holds what."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from prm.data.formats.base import ChainFormat, first_error_labels, wrong_field
from prm.errors import ConfigError, DataError
from prm.records import CORRECTNESS, Chain
from prm.texts.steps import split_text

_NO_ERROR = (None, "", "N/A", -1, "-1")


class ChainColumns(ChainFormat):
    """Rows of any file, by column names.

    A text cell that holds a JSON list is read as that list, so CSV files work too.

    Args:
        prompt: Column of the problem: text, or a list of messages.
        completions: Column of the steps: a list, or text that `separator` splits.
        labels: Column of the step labels: a list with true, false, a probability or null.
        first_error: Column of the first wrong step, instead of `labels`. Null, empty, "N/A" or -1
            say that there is none. Steps after it are unlabeled.
        index_base: Number of the first step in the `first_error` column: 0 or 1.
        separator: What stands between two steps where `completions` is text. White space around a
            step is not part of it, and empty pieces are no steps; `first_error` counts them.
        objectives: Name of a further objective to the column of its step labels.
        id: Column of the row's name, unique within the file.
        group: Column that says which rows are about the same problem.

    Example:
        >>> format = ChainColumns(
        ...     prompt="q", completions="a", separator="|", first_error="bad", index_base=1
        ... )
        >>> row = {"q": "1 + 1 + 1", "a": "1 + 1 = 2|2 + 1 = 4", "bad": 2}
        >>> format.records(row, "a.csv:2")[0].labels
        {'correctness': (1.0, 0.0)}
    """

    def __init__(
        self,
        *,
        prompt: str = "prompt",
        completions: str = "completions",
        labels: str | None = None,
        first_error: str | None = None,
        index_base: Literal[0, 1] | None = None,
        separator: str | None = None,
        objectives: dict[str, str] | None = None,
        id: str | None = None,
        group: str | None = None,
    ) -> None:
        if labels and first_error:
            raise ConfigError("give `labels` or `first_error`, not both")
        if (first_error is None) != (index_base is None) or index_base not in (None, 0, 1):
            raise ConfigError(
                "`first_error` and `index_base` go together",
                expected="0 or 1 as the number of the first step",
                got=index_base,
            )
        self.prompt = prompt
        self.completions = completions
        self.labels = labels
        self.first_error = first_error
        self.separator = None if separator is None else _unescaped(separator)
        self.objectives = dict(objectives or {})
        self.id = id
        self.group = group
        self._base = index_base or 0

    def records(self, row: Mapping[str, Any], origin: str) -> list[Chain]:
        """Return the row's one chain."""
        written = self._steps(row, origin)
        labels = self._labels(row, written, origin)
        if self.separator is not None and isinstance(row[self.completions], str):
            labels = {
                name: _of_steps(values, written, name, origin) for name, values in labels.items()
            }
            written = [step for step in written if step]
        chain = Chain(
            as_prompt(read_cell(row, self.prompt, origin)),
            written,
            labels,
            id=read_name(row, self.id, origin),
            group=read_name(row, self.group, origin),
            origin=origin,
        )
        return [chain]

    def _steps(self, row: Mapping[str, Any], origin: str) -> Any:
        cell = read_cell(row, self.completions, origin)
        if not isinstance(cell, str):
            return cell
        if self.separator is not None:
            return [span.text for span in split_text(cell, self.separator)]
        if isinstance(listed := as_list(cell), list):
            return listed
        raise wrong_field(
            self.completions, "a list of steps (or text, with option `separator`)", cell, origin
        )

    def _labels(self, row: Mapping[str, Any], steps: Any, origin: str) -> dict[str, Any]:
        columns = dict(self.objectives)
        if self.labels:
            columns[CORRECTNESS] = self.labels
        cells = {name: as_list(read_cell(row, column, origin)) for name, column in columns.items()}
        labels = {name: cell for name, cell in cells.items() if cell is not None}
        if self.first_error:
            index = self._error_index(row, self.first_error, len(steps), origin)
            if index is not None and isinstance(steps[index], str) and not steps[index].strip():
                raise wrong_field(
                    self.first_error, "a step that is not empty", row[self.first_error], origin
                )
            labels[CORRECTNESS] = first_error_labels(len(steps), index)
        return labels

    def _error_index(
        self, row: Mapping[str, Any], column: str, num_steps: int, origin: str
    ) -> int | None:
        cell = read_cell(row, column, origin)
        if not isinstance(cell, list | dict | bool) and cell in _NO_ERROR:
            return None
        number = _integer(cell)
        if number is None or not 0 <= number - self._base < num_steps:
            last = num_steps - 1 + self._base
            raise wrong_field(column, f"a step from {self._base} to {last}, or null", cell, origin)
        return number - self._base


def _of_steps(labels: Any, pieces: list[str], objective: str, origin: str) -> Any:
    """Return the labels of the pieces that are steps; a list that skips empty ones is theirs."""
    if isinstance(labels, str) or not isinstance(labels, Sequence) or len(labels) != len(pieces):
        return labels
    for index, (label, piece) in enumerate(zip(labels, pieces, strict=True)):
        if not piece and label is not None and label != 1:
            raise DataError(
                f"piece {index} of the text is empty and has a label of {objective!r}",
                expected="null, or 1",
                got=label,
                where=origin,
            )
    return [label for label, piece in zip(labels, pieces, strict=True) if piece]


def _unescaped(separator: str) -> str:
    r"""Return the characters that an option like `\n\n`, typed in a shell, stands for.

    Example:
        >>> _unescaped(r"\n\n") == "\n\n"
        True
    """
    if re.fullmatch(r"(\\[nrt])+", separator) is None:
        return separator
    return separator.replace("\\n", "\n").replace("\\r", "\r").replace("\\t", "\t")


def read_cell(row: Mapping[str, Any], column: str, origin: str) -> Any:
    """Return `row[column]`; the error for a missing column names those there are."""
    if column in row:
        return row[column]
    raise DataError(
        f"there is no column {column!r}",
        expected=f"one of {', '.join(map(str, row))}",
        where=origin,
        fix="Name the file's columns in the format's options",
    )


def read_name(row: Mapping[str, Any], column: str | None, origin: str) -> str:
    """Return `row[column]` as text; "" where no column is named or the cell is empty."""
    value = read_cell(row, column, origin) if column else None
    return "" if value is None else str(value)


def as_prompt(value: Any) -> Any:
    """Return a prompt; a conversation may come as JSON text."""
    listed = as_list(value)
    is_conversation = isinstance(listed, list) and listed and isinstance(listed[0], dict)
    return listed if is_conversation else value


def as_list(cell: Any) -> Any:
    """Return the list that a text cell holds as JSON, `None` for an empty cell, else the cell."""
    if not isinstance(cell, str):
        return cell
    if not cell.strip():
        return None
    if not cell.lstrip().startswith("["):
        return cell
    try:
        return json.loads(cell)
    except json.JSONDecodeError:
        return cell


def _integer(cell: object) -> int | None:
    if isinstance(cell, bool) or not isinstance(cell, int | float | str):
        return None
    try:
        return int(cell) if float(cell) == int(float(cell)) else None
    except (ValueError, OverflowError):
        return None
