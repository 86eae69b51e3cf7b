"""Anybody's own file of steps: which column holds what."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from prm.data.formats.base import ChainFormat, first_error_labels, wrong_field
from prm.data.formats.cells import (
    as_list,
    as_text,
    look_up,
    mean_opinion,
    meanings,
    offer_tools,
    read_cell,
    read_name,
    read_prompt,
    said_by_each,
    whole_number,
)
from prm.errors import ConfigError, DataError
from prm.messages import TOOLS
from prm.records import CORRECTNESS, Chain
from prm.texts.steps import split_text

_NO_ERROR = ["", "null", "N/A", "-1"]


class ChainColumns(ChainFormat):
    """Rows of any file, by column names.

    A column may be a path into objects and lists: `messages.0.content`, `steps.*.text` for that of
    every item. A text cell that holds a JSON list is read as that list, so CSV files work too.

    Args:
        prompt: Column of the problem: text, or a list of messages.
        completions: Column of the steps: a list, or text that `separator` splits. A step that is a
            list of texts is those lines.
        labels: Column of the step labels: a list with true, false, a probability or null, or what
            `values` and `scales` make one of. Of several raters of a step (`steps.*.raters.*`),
            the mean is taken.
        values: Objective to what the cells of its labels mean, as probabilities or null, such as
            `{"correctness": {"+": 1, "-": 0}}`; plain `labels` are of correctness.
        scales: Objective to the number that stands for 0 and the one for 1, such as `[1, 5]`.
        first_error: Column of the first wrong step, instead of `labels`. Steps after it are
            unlabeled.
        index_base: Number of the first step in the `first_error` column: 0 or 1.
        no_error: What the `first_error` column says where there is none; by default null, nothing,
            "N/A" or -1.
        separator: What stands between two steps where `completions` is text. White space around a
            step is not part of it, and empty pieces are no steps; `first_error` counts them.
        objectives: Name of a further objective to the column of its step labels.
        tools: Column of the tools that the assistant may call, which is read where there is one of
            this name; null leaves it out.
        id: Column of the row's name, unique within the file.
        group: Column that says which rows are about the same problem.

    Raises:
        ConfigError: The options contradict each other.

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
        values: dict[str, dict[str, float | None]] | None = None,
        scales: dict[str, tuple[float, float]] | None = None,
        first_error: str | None = None,
        index_base: Literal[0, 1] | None = None,
        no_error: list[str | int] | None = None,
        separator: str | None = None,
        objectives: dict[str, str] | None = None,
        tools: str | None = TOOLS,
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
        if no_error is not None and first_error is None:
            raise ConfigError("`no_error` goes with `first_error`")
        self.prompt = prompt
        self.completions = completions
        self.labels = labels
        self.columns = dict(objectives or {}) | ({CORRECTNESS: labels} if labels else {})
        self.meanings = meanings(self.columns, values, scales)
        self.first_error = first_error
        self.no_error = _NO_ERROR if no_error is None else [str(word) for word in no_error]
        self.separator = None if separator is None else _unescaped(separator)
        self.tools = tools
        self.id = id
        self.group = group
        self._base = index_base or 0

    def records(self, row: Mapping[str, Any], origin: str) -> list[Chain]:
        """Return the row's one chain."""
        cell = read_cell(row, self.completions, origin)
        written = self._steps(cell, origin)
        labels = self._labels(row, written, origin)
        if self.separator is not None and isinstance(cell, str):
            labels = {
                name: _of_steps(values, written, name, origin) for name, values in labels.items()
            }
            written = [step for step in written if step]
        chain = Chain(
            offer_tools(read_prompt(row, self.prompt, origin), row, self.tools, origin),
            written,
            labels,
            id=read_name(row, self.id, origin),
            group=read_name(row, self.group, origin),
            origin=origin,
        )
        return [chain]

    def _steps(self, cell: Any, origin: str) -> list[Any]:
        if isinstance(cell, str) and self.separator is not None:
            return [span.text for span in split_text(cell, self.separator)]
        listed = as_list(cell)
        if isinstance(listed, list | tuple):
            return [as_text(step) for step in listed]
        raise wrong_field(
            self.completions, "a list of steps (or text, with option `separator`)", cell, origin
        )

    def _labels(self, row: Mapping[str, Any], steps: list[Any], origin: str) -> dict[str, Any]:
        cells = {name: as_list(read_cell(row, at, origin)) for name, at in self.columns.items()}
        labels = {
            name: self._numbers(cell, name, origin)
            for name, cell in cells.items()
            if cell is not None
        }
        if self.first_error:
            index = self._error_index(row, self.first_error, len(steps), origin)
            if index is not None and isinstance(steps[index], str) and not steps[index].strip():
                got = read_cell(row, self.first_error, origin)
                raise wrong_field(self.first_error, "a step that is not empty", got, origin)
            labels[CORRECTNESS] = first_error_labels(len(steps), index)
        return labels

    def _numbers(self, labels: Any, objective: str, origin: str) -> Any:
        """Return what a list of labels means; the record refuses what is no list."""
        if isinstance(labels, str) or not isinstance(labels, Sequence):
            return labels
        column, meaning = self.columns[objective], self.meanings[objective]
        try:
            return [
                mean_opinion(meaning.numbers(said_by_each(label, column, 1), column, origin))
                for label in labels
            ]
        except DataError as error:
            if meaning.values is None:
                words = f'{{"{objective}": {{"+": 1, "-": 0}}}}'
                error.fix = f"Say what words mean with the format's option `values`, as in {words}"
            raise

    def _error_index(
        self, row: Mapping[str, Any], column: str, num_steps: int, origin: str
    ) -> int | None:
        cell = read_cell(row, column, origin)
        if not isinstance(cell, bool) and look_up(cell, self.no_error) is not None:
            return None
        number = whole_number(cell)
        if number is None or not 0 <= number - self._base < num_steps:
            last = num_steps - 1 + self._base
            none = ", ".join(filter(None, self.no_error))
            expected = f"a step from {self._base} to {last}, or one of {none}"
            raise wrong_field(column, expected, cell, origin)
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
