"""Drawing scored responses in the terminal: a column per objective, the best reward first."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prm.records import Prompt, prompt_text
from prm.report.terminal import plain
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
    order = sorted(scored, key=lambda pair: (pair[1].reward is None, -(pair[1].reward or 0.0)))
    console.print(_table(order))
    console.print()
    console.print(f"Reward by {scored[0][1].aggregation}", highlight=False, markup=False)
    for _, score in order:
        if score.reason:
            console.print(f"Not scored: {score.reason}", highlight=False, markup=False)


def _table(scored: Sequence[tuple[str, ResponseScore]]) -> Table:
    objectives = list(scored[0][1].scores)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for name in ("reward", *objectives):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("response")
    for index, (response, score) in enumerate(scored):
        cells = [_number(score.reward, 3), *(_number(value, 2) for value in score.scores.values())]
        style = "bold" if index == 0 and len(scored) > 1 else ""
        table.add_row(*cells, Text(plain(response)), style=style)
    return table


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
