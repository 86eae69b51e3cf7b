"""A response as one text to the steps of a chain, as the spec says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prm.spec import StepFormat


@dataclass(frozen=True, slots=True)
class StepSpan:
    """A step and where it stands: `response[start:end] == text`.

    Args:
        text: The step, without white space around it.
        start: Index of its first character in the response.
        end: Index after its last character.
    """

    text: str
    start: int
    end: int


def split_steps(response: str, step_format: StepFormat) -> tuple[StepSpan, ...]:
    r"""Split a response at the separator; pieces of white space alone are no steps.

    Example:
        >>> from prm.spec import StepFormat
        >>> for step in split_steps("1 + 1 = 2\n\n  So 2.\n", StepFormat(separator="\n")):
        ...     print(step)
        StepSpan(text='1 + 1 = 2', start=0, end=9)
        StepSpan(text='So 2.', start=13, end=18)
    """
    return tuple(span for span in split_text(response, step_format.separator) if span.text)


def split_text(text: str, separator: str) -> list[StepSpan]:
    r"""Return what stands between separators, without white space around it; it may be empty.

    Every entrance splits texts here, so that a text has the same steps in a file, on standard
    input, in a trainer and over HTTP. A line feed of the separator may have a carriage return
    before it, as in files from Windows.

    Example:
        >>> [span.text for span in split_text("a \r\n\r\n  b\r\n\r\n", "\n\n")]
        ['a', 'b', '']
    """
    between = re.compile(re.escape(separator).replace(re.escape("\n"), "\r?\n"))
    starts = [0, *(match.end() for match in between.finditer(text))]
    ends = [*(match.start() for match in between.finditer(text)), len(text)]
    spans = []
    for start, end in zip(starts, ends, strict=True):
        piece = text[start:end]
        first = start + len(piece) - len(piece.lstrip())
        stripped = piece.strip()
        spans.append(StepSpan(stripped, first, first + len(stripped)))
    return spans
