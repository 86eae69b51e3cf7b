"""Drawings for the terminal: documents, tables, and a scored chain.

Everything reads without color too: a step shows its number and a bar beside the color. `NO_COLOR`,
narrow terminals and terminals without Unicode are respected.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from prm.metrics.first_error import DEFAULT_THRESHOLD
from prm.records import CORRECTNESS, Chain, prompt_text
from prm.report.document import Block, Document, Facts, Section, Table, marked
from prm.report.document import Text as Paragraph
from prm.scores.chains import ChainScore

BAR_WIDTH = 10
NARROW = 60
"""Below this many columns, the step's text stands under its score instead of beside it."""


@dataclass(frozen=True, slots=True)
class _Symbols:
    full: str
    empty: str
    correct: str
    wrong: str
    arrow: str
    missing: str


_UNICODE = _Symbols("█", "·", "✓", "✗", "◀", "–")
_ASCII = _Symbols("#", ".", "ok", "x", "<-", "-")


def draw_chain(
    console: Console, chain: Chain, score: ChainScore, threshold: float = DEFAULT_THRESHOLD
) -> None:
    """Draw one scored chain: its problem, its steps colored by probability, and its reward.

    Args:
        console: Where to draw.
        chain: The chain; its labels are shown where they are known.
        score: What the model says of it.
        threshold: The first step strictly below it is marked as the predicted first error.

    Example:
        >>> chain = Chain("1 + 1 + 1?", ["1 + 1 = 2", "2 + 1 = 4"], [1, 0])
        >>> score = ChainScore("", {"correctness": (3.5, -2.0)}, {"correctness": 0.12}, 0.12,
        ...     "correctness", "min")
        >>> draw_chain(Console(width=80, no_color=True), chain, score)
        1 + 1 + 1?
        <BLANKLINE>
          1  ██████████  0.97  ✓  1 + 1 = 2
          2  █·········  0.12  ✗  2 + 1 = 4  ◀ first error
        <BLANKLINE>
        Reward 0.120 (min)
    """
    symbols = _ASCII if console.options.ascii_only else _UNICODE
    flagged, probabilities = score.first_error(threshold), score.probabilities
    labels = chain.labels.get(CORRECTNESS, (None,) * len(chain.completions))
    console.print(plain(prompt_text(chain.prompt)), style="bold", highlight=False)
    console.print()
    rows = zip(chain.completions, probabilities, labels, strict=True)
    for index, (step, probability, label) in enumerate(rows):
        head = _head(index, probability, label, symbols)
        body = _body(step, probability, f"{symbols.arrow} first error" * (index == flagged))
        _draw_step(console, head, body)
    console.print()
    known = score.reward is not None and not math.isnan(score.reward)
    value = f"{score.reward:.3f}" if known else symbols.missing
    console.print(Text.assemble("Reward ", (value, "bold"), f" ({score.aggregation})"))


def _draw_step(console: Console, head: Text, body: Text) -> None:
    if console.width < NARROW:
        console.print(head)
        console.print(Padding(body, (0, 0, 0, 5)))
        return
    row = RichTable.grid(padding=(0, 2, 0, 0))
    row.add_column(no_wrap=True)
    row.add_column(ratio=1)
    row.add_row(head, body)
    console.print(row)


def _head(index: int, probability: float | None, label: float | None, symbols: _Symbols) -> Text:
    filled = 0 if probability is None else round(probability * BAR_WIDTH)
    bar = symbols.full * filled + symbols.empty * (BAR_WIDTH - filled)
    number = f"{symbols.missing:>4}" if probability is None else f"{probability:.2f}"
    mark = "" if label is None else symbols.correct if label >= 0.5 else symbols.wrong
    return Text.assemble(
        (f"{index + 1:>3}  ", "dim"),
        (f"{bar}  {number}", _style(probability)),
        f"  {mark:<{len(symbols.correct)}}",
    )


def _body(step: str, probability: float | None, mark: str) -> Text:
    text = Text(plain(step), style=_style(probability))
    if mark:
        text.append(f"  {mark}", style="bold red")
    return text


def _style(probability: float | None) -> str:
    """Return red at 0, yellow at 0.5, green at 1, readable on dark and on light ground."""
    if probability is None:
        return "dim"
    red = round(200 * min(1.0, 2 * (1 - probability)))
    green = round(160 * min(1.0, 2 * probability))
    return f"rgb({red},{green},40)"


def plain(text: str) -> str:
    """Return the text with control characters replaced, so that no step can steer the terminal."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


TONES = {
    "": "",
    "good": "green",
    "bad": "red",
    "warning": "yellow",
    "note": "cyan",
    "strong": "bold",
}


def draw(console: Console, document: Document) -> None:
    """Draw the brief parts of a document, and last its headline, which then stands at the prompt.

    Example:
        >>> from prm.report.document import named_table
        >>> table = named_table(["scorer", "AUROC"], [["model", "0.921"]])
        >>> draw(Console(width=40), Document("Toy", "It works", [Section("All", [table])]))
        All
        scorer  AUROC
        ─────────────
        model   0.921
        <BLANKLINE>
        It works
    """
    for section in document.sections:
        draw_section(console, section)
    if document.headline:
        console.print(plain(document.headline), highlight=False, markup=False)


def draw_section(console: Console, section: Section) -> None:
    """Draw the brief blocks of a section under its title, an empty line after each."""
    if section.brief:
        console.print(Text(plain(section.title), style="bold"), soft_wrap=True)
    for block in section.brief:
        console.print(_drawn(console, block), soft_wrap=not isinstance(block, Table))
        console.print()


def _drawn(console: Console, block: Block) -> RichTable | Text:
    if isinstance(block, Table):
        return _fitting(console, block)
    if isinstance(block, Facts):
        return Text(plain("\n".join(f"{name}: {value}" for name, value in block.values.items())))
    return Text(plain(block.text), style=TONES[block.tone] if isinstance(block, Paragraph) else "")


def _fitting(console: Console, table: Table) -> RichTable:
    """Return a table with as many columns as the terminal has room for, by their rank."""
    columns = sorted(range(len(table.columns)), key=lambda index: table.columns[index].rank)
    endless = console.options.update(max_width=10_000)
    while True:
        drawn = rich_table("", table, sorted(columns))
        fits = console.measure(drawn, options=endless).maximum <= console.width
        if fits or table.columns[columns.pop()].rank == 0:
            return drawn


def rich_table(title: str, table: Table, shown: Sequence[int] | None = None) -> RichTable:
    """Return a table, or some of its columns; a heading wider than its cells is folded.

    Example:
        >>> from prm.report.document import named_table
        >>> table = rich_table("toy", named_table(["scorer", "AUROC"], [["model", "0.921"]]))
        >>> Console(width=40, no_color=True).print(table)
        toy
        scorer  AUROC
        ─────────────
        model   0.921
    """
    shown = range(len(table.columns)) if shown is None else shown
    drawn = RichTable(
        title=Text(plain(title), style="bold") if title else None,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )
    cells = [[marked(row[index]) for index in shown] for row in table.rows]
    for place, column in enumerate(table.columns[index] for index in shown):
        widest = max((len(row[place].text) for row in cells), default=0)
        heading = "\n".join(wrap(column.heading, max(widest, 1), break_long_words=False))
        drawn.add_column(heading, justify=column.align, no_wrap=not column.wrap)
    for row in cells:
        drawn.add_row(*(Text(plain(text), style=TONES[tone]) for text, tone in row))
    return drawn
