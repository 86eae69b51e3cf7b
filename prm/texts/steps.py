"""A response as one text to the steps of a chain, as the spec says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prm.spec import StepFormat


@dataclass(frozen=True, slots=True)
class StepSpan:
    """A step and where it stands: `response[start:end] == text`.

    Args:
        text: The step, without white space around it; never empty.
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
    spans, start = [], 0
    for piece in response.split(step_format.separator):
        text = piece.strip()
        if text:
            first = start + len(piece) - len(piece.lstrip())
            spans.append(StepSpan(text, first, first + len(text)))
        start += len(piece) + len(step_format.separator)
    return tuple(spans)
