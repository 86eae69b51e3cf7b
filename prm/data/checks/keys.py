"""What checks keep of many records in few bytes: keys that stand for texts, and columns."""

from __future__ import annotations

from array import array
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prm.messages import key_of
from prm.records import Outcome, Prompt


@lru_cache(maxsize=64)  # several checks ask for the same record's texts
def text_key(text: str) -> int:
    """Return a signed 64-bit number that is the same for the same text, on any machine."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def prompt_key(prompt: Prompt) -> int:
    """Return the key of a prompt; roles and calls count, so it differs from its bare text."""
    if isinstance(prompt, str):
        return text_key(prompt)
    return text_key("\x1e".join(map(key_of, prompt)))


def response_keys(record: Outcome) -> list[int]:
    """Return the key of each response, which stands for its prompt too."""
    prompt = prompt_key(record.prompt)
    return [hash((prompt, text_key(response))) for response in record.responses]


class Columns:
    """Numbers that are collected row by row.

    Args:
        types: The type of each column, as the standard `array` names it.

    Example:
        >>> columns = Columns("qd")
        >>> columns.add(3, 0.5)
        >>> [column.tolist() for column in columns.arrays()]
        [[3], [0.5]]
    """

    def __init__(self, types: str) -> None:
        self._columns: list[array[Any]] = [array(kind) for kind in types]

    def add(self, *row: float) -> None:
        """Add a row, one number for each column."""
        for column, number in zip(self._columns, row, strict=True):
            column.append(number)

    def arrays(self) -> list[NDArray[Any]]:
        """Return the columns."""
        return [np.array(column) for column in self._columns]
