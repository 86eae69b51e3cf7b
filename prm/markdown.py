"""Pieces of Markdown that reports are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table: names to the left, numbers to the right.

    Example:
        >>> print(table(["scorer", "AUROC"], [["model", "0.921"]]))
        | scorer | AUROC |
        | --- | ---: |
        | model | 0.921 |
    """
    rule = ["---"] + ["---:"] * (len(head) - 1)
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [cells[0], rule, *cells[1:]])


def bullets(facts: Mapping[str, Any]) -> str:
    """Return one line per fact.

    Example:
        >>> print(bullets({"seed": 0}))
        - seed: 0
    """
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())
