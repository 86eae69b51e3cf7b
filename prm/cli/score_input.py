"""Chains and responses that are typed or piped into `prm score`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from prm.data.formats.base import Format
from prm.data.sources.files import Row, checked_row
from prm.data.sources.source import OnError, Skipped
from prm.errors import ConfigError, DataError
from prm.records import Chain, Rating, Record
from prm.texts.steps import split_steps

if TYPE_CHECKING:
    from prm.spec import StepFormat

STDIN = "standard input"


def typed_steps(text: str, step_format: StepFormat) -> list[str]:
    r"""Return the steps of a JSON list of texts, or of a text that the model's separator splits.

    Raises:
        ConfigError: The text looks like a JSON list and is not one of texts.

    Example:
        >>> from prm.spec import StepFormat
        >>> typed_steps('["1 + 1 = 2", "so 2"]', StepFormat())
        ['1 + 1 = 2', 'so 2']
        >>> typed_steps("1 + 1 = 2\nso 2", StepFormat())
        ['1 + 1 = 2', 'so 2']
    """
    if _is_list(text):
        return _text_list(text, "--steps")
    return [step.text for step in split_steps(text, step_format)]


def _is_list(text: str) -> bool:
    return re.match(r'\s*\[\s*["\]]', text) is not None


def _text_list(text: str, option: str) -> list[str]:
    try:
        texts = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{option} is not JSON", got=str(error)) from None
    if not texts or not all(isinstance(item, str) for item in texts):
        raise ConfigError(f"{option} is wrong", expected="a JSON list of texts", got=text)
    return list(texts)


def typed_responses(prompt: str, text: str, option: str) -> list[Rating]:
    """Return the responses to a prompt: those of a JSON list of texts, or the text as the only one.

    Raises:
        ConfigError: The text looks like a JSON list and is not one of texts.

    Example:
        >>> [rating.response for rating in typed_responses("5 + 2?", '["7", "8"]', "--response")]
        ['7', '8']
    """
    responses = _text_list(text, option) if _is_list(text) else [text]
    return [Rating(prompt, response, origin=option) for response in responses]


def read_stdin(
    format: Format, step_format: StepFormat, on_error: OnError, skipped: Skipped
) -> list[Record]:
    """Read records from standard input: rows of JSON, or one record as plain text.

    Args:
        format: What rows are in.
        step_format: How the model's steps are separated in a text.
        on_error: Whether a wrong row stops the reading.
        skipped: Counts the wrong rows that are left out.

    Raises:
        DataError: There is nothing, it is not UTF-8, or a row is wrong; the message names its line.
    """
    if sys.stdin.isatty():
        print("Prompt, then its steps or a response; Ctrl-D ends:", file=sys.stderr)
    try:
        text = sys.stdin.buffer.read().decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise DataError("this is not UTF-8 text", got=str(error), where=STDIN) from None
    if not text.strip():
        raise DataError("there is nothing to score", where=STDIN, fix="See `prm score --help`")
    if re.match(r'\s*(\{\s*"|\[\s*\{)', text):
        return _records(_json_rows(text), format, on_error, skipped)
    prompt, rest = _paragraphs(text)
    if format.kind == "steps":
        steps = [step.text for step in split_steps(rest, step_format)]
        return [Chain(prompt, steps, origin=STDIN)]
    return [Rating(prompt, rest.strip(), origin=STDIN)]


def _records(
    rows: Iterable[Row | DataError], format: Format, on_error: OnError, skipped: Skipped
) -> list[Record]:
    found: list[Record] = []
    for row in sorted(rows, key=lambda row: not isinstance(row, DataError)):
        try:
            if isinstance(row, DataError):
                raise row
            found += format.records(*row)
        except DataError as error:
            if on_error == "raise":
                raise
            skipped.add(error)
    if not found:
        raise DataError("there is nothing to score", where=STDIN)
    return found


def _paragraphs(text: str) -> tuple[str, str]:
    """Split off the prompt: the first paragraph, or the first line if there is only one."""
    prompt, _, rest = text.strip().partition("\n")
    paragraphs = re.split(r"\n\s*\n", text.strip(), maxsplit=1)
    if len(paragraphs) == 2:
        prompt, rest = paragraphs
    return prompt.rstrip(), rest


def _json_rows(text: str) -> Iterator[Row | DataError]:
    """Yield (row, origin) of one object, an array of objects, or one object per line."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield _line_row(line, f"{STDIN}:{number}")
        return
    for index, value in enumerate(whole if isinstance(whole, list) else [whole]):
        yield _row(value, f"{STDIN}[{index}]")


def _line_row(line: str, where: str) -> Row | DataError:
    try:
        return _row(json.loads(line), where)
    except (ValueError, RecursionError) as error:
        return DataError("this is not JSON", got=str(error), where=where)


def _row(value: Any, where: str) -> Row | DataError:
    try:
        return checked_row(value, where), where
    except DataError as error:
        return error
