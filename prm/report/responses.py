"""Drawing scored responses in the terminal: a column per objective, the best reward first."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from prm.records import Prompt, prompt_text
from prm.report.cells import number
from prm.report.document import Cell, Column, Marked, Table, Tone
from prm.report.terminal import plain, rich_table
from prm.scores.responses import ResponseScore


def draw_responses(
    console: Console, prompt: Prompt, scored: Sequence[tuple[str, ResponseScore]]
) -> None:
    """Draw the responses to one prompt with the score of each objective, best reward first.

    Args:
        console: Where to draw.
        prompt: The prompt.
        scored: Each response with its score.

    Example:
        >>> score = ResponseScore("a", "g", 0, {"safety": 1.5}, None, {"safety": 1.5}, 1.5, "min")
        >>> draw_responses(Console(width=60, no_color=True), "A prime?", [("Seven.", score)])
        A prime?
        <BLANKLINE>
        reward  safety  response
        ────────────────────────
         1.500    1.50  Seven.
        <BLANKLINE>
        Reward by min
    """
    console.print(plain(prompt_text(prompt)), style="bold", highlight=False, markup=False)
    console.print()
    order = sorted(scored, key=_place)
    console.print(rich_table("", _table(order)))
    console.print()
    console.print(f"Reward by {scored[0][1].aggregation}", highlight=False, markup=False)
    for _, score in order:
        if score.reason:
            console.print(f"Not scored: {score.reason}", highlight=False, markup=False)
    num_cut = sum(score.num_truncated > 0 for _, score in order)
    if num_cut:
        console.print(f"Last, as cut off at the model's max_length: {num_cut}", highlight=False)


def _place(scored: tuple[str, ResponseScore]) -> tuple[bool, bool, float]:
    """Return what sorts the best first, what was cut off after the rest, and no reward last."""
    score = scored[1]
    return score.reward is None, score.num_truncated > 0, -(score.reward or 0.0)


def _table(scored: Sequence[tuple[str, ResponseScore]]) -> Table:
    numbers = ["reward", *scored[0][1].scores]
    columns = [*map(Column, numbers), Column("response", "left", wrap=True)]
    rows: list[list[Cell]] = []
    for index, (response, score) in enumerate(scored):
        values = [number(value, 2) for value in score.scores.values()]
        tone: Tone = "strong" if index == 0 and len(scored) > 1 else ""
        rows.append([Marked(text, tone) for text in (number(score.reward), *values, response)])
    return Table(columns, rows)
