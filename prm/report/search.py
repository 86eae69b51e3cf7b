"""Drawing what a search found for a prompt."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from prm.records import Chain, prompt_text
from prm.report.cells import MISSING, count, number, short
from prm.report.document import Column, Table
from prm.report.terminal import draw_chain, plain, rich_table
from prm.scores.chains import ChainScore
from prm.search.candidates import Candidate, SearchResult

MAX_ROWS = 20
"""Candidates that are drawn, the best first."""


def draw_search(console: Console, result: SearchResult) -> None:
    """Draw the candidates that were not grown further, the votes, and the chosen one.

    Args:
        console: Where to draw.
        result: What was found.

    Example:
        >>> from prm.scores.chains import ChainScore
        >>> score = ChainScore("", {"correctness": (2.2,)}, {"correctness": 0.9}, 0.9,
        ...     "correctness", "min")
        >>> found = Candidate("1 + 1 = 2", ("1 + 1 = 2",), "end", score, "2")
        >>> draw_search(Console(width=60, no_color=True), SearchResult("1 + 1?", (found,), 0, "2"))
        1 + 1?
           reward  steps  answer  response
        ───────────────────────────────────
        >   0.900      1  2       1 + 1 = 2
        <BLANKLINE>
        1 + 1?
        <BLANKLINE>
          1  █████████·  0.90     1 + 1 = 2
        <BLANKLINE>
        Reward 0.900 (min)
        Answer 2
    """
    _draw_table(console, result)
    for answer, weight in list((result.votes or {}).items())[:MAX_ROWS]:
        _line(console, f"{weight:8.3f} votes for {answer}")
    if result.chosen is not None:
        console.print()
        _draw_chosen(console, result, result.chosen)
    if result.reason:
        _line(console, f"Nothing chosen: {result.reason}")


def _draw_table(console: Console, result: SearchResult) -> None:
    parents = {one.parent for one in result.candidates}
    leaves = [index for index in range(len(result.candidates)) if index not in parents]
    leaves.sort(key=lambda index: result.candidates[index].rank_key, reverse=True)
    rows = [
        [">" if index == result.best else " ", *_cells(result.candidates[index])]
        for index in leaves[:MAX_ROWS]
    ]
    texts = [Column("answer", "left"), Column("response", "left")]
    columns = [Column("", "left"), Column("reward"), Column("steps"), *texts]
    title = short(prompt_text(result.prompt))
    console.print(rich_table(title, Table(columns, rows)))
    if len(leaves) > MAX_ROWS:
        _line(console, f"... and {count(len(leaves) - MAX_ROWS)} others")


def _cells(one: Candidate) -> list[str]:
    unfinished = "" if one.is_complete else "(unfinished) "
    text = one.reason or " | ".join(one.steps)
    answer = one.answer or MISSING
    return [number(one.reward), str(len(one.steps)), answer, unfinished + short(text)]


def _draw_chosen(console: Console, result: SearchResult, chosen: Candidate) -> None:
    if isinstance(chosen.score, ChainScore) and chosen.score.probabilities:
        draw_chain(console, Chain(result.prompt, chosen.steps), chosen.score)
    else:
        _line(console, chosen.response)
    if result.answer is not None:
        _line(console, f"Answer {result.answer}")


def _line(console: Console, text: str) -> None:
    console.print(Text(plain(text)))
