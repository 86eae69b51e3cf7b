"""Pieces of Markdown that reports, model cards and tables of samples are made of."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any


def table(head: Sequence[str], rows: Sequence[Sequence[str]], names: Collection[int] = (0,)) -> str:
    """Return a table: names to the left, numbers to the right.

    Args:
        head: Headings.
        rows: One cell per heading; a line break becomes a space.
        names: Which columns are names, by index.

    Example:
        >>> print(table(["scorer", "AUROC"], [["model", "0.921"]]))
        | scorer | AUROC |
        | --- | ---: |
        | model | 0.921 |
    """
    rule = ["---" if index in names else "---:" for index in range(len(head))]
    cells = [[_cell(text) for text in row] for row in (head, *rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [cells[0], rule, *cells[1:]])


def _cell(text: str) -> str:
    return " ".join(text.splitlines()).replace("|", "\\|")


def bullets(facts: Mapping[str, Any]) -> str:
    """Return one line per fact.

    Example:
        >>> print(bullets({"seed": 0}))
        - seed: 0
    """
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())
