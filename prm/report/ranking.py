"""Drawing the ranked responses to a prompt in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from prm.report.terminal import results_table

WIDTH = 76
"""Characters of a prompt or response that are drawn."""


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
        0      1.000       –          –   2.000    Seven.
    """
    head = ["rank", "reward", "margin", "P(better)", *rows[0]["scores"], "response"]
    table = results_table(_short(prompt), head, [_cells(row) for row in rows])
    table.columns[-1].justify = "left"
    console.print(table)


def _cells(row: Mapping[str, Any]) -> list[str]:
    numbers = [row["reward"], row["margin"], row["win_probability"], *row["scores"].values()]
    rank = "–" if row["rank"] is None else str(row["rank"])
    return [rank, *map(_number, numbers), _short(_text(row))]


def _text(row: Mapping[str, Any]) -> str:
    if row.get("response_text") is not None:
        return str(row["response_text"])
    if row.get("completions"):
        return " ".join(row["completions"])
    return f"{row['id']}, response {row['response'] or 0}" if "response" in row else str(row["id"])


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"
