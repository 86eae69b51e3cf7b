"""Drawing the ranked responses to a prompt in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from prm.report.cells import MISSING, number, short
from prm.report.document import Column, Table
from prm.report.terminal import rich_table


def draw_ranking(console: Console, prompt: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw responses with their rank, reward and objectives.

    Args:
        console: Where to draw.
        prompt: What they answer.
        rows: Score rows with `rank`, `margin` and `win_probability`, best first; at least one.

    Example:
        >>> row = {"id": "a", "scores": {"safety": 2.0}, "reward": 1.0, "rank": 0, "margin": None}
        >>> rows = [row | {"win_probability": None, "response_text": "Seven."}]
        >>> draw_ranking(Console(width=70, no_color=True), "A prime?", rows)
        A prime?
        rank  reward  margin  P(better)  safety  response
        ─────────────────────────────────────────────────
        0      1.000       —          —   2.000  Seven.
    """
    numbers = ["reward", "margin", "P(better)", *rows[0]["scores"]]
    columns = [Column("rank", "left"), *map(Column, numbers), Column("response", "left")]
    console.print(rich_table(short(prompt), Table(columns, [_cells(row) for row in rows])))


def _cells(row: Mapping[str, Any]) -> list[str]:
    numbers = [row["reward"], row["margin"], row["win_probability"], *row["scores"].values()]
    rank = MISSING if row["rank"] is None else str(row["rank"])
    return [rank, *map(number, numbers), short(_text(row))]


def _text(row: Mapping[str, Any]) -> str:
    if row.get("response_text") is not None:
        return str(row["response_text"])
    if row.get("completions"):
        return " ".join(row["completions"])
    return f"{row['id']}, response {row['response'] or 0}" if "response" in row else str(row["id"])
