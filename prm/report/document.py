"""What a report says, apart from how it is shown: a title, a headline, and sections of blocks.

Whatever is a report builds a `Document`; the terminal draws the brief parts of it, Markdown renders
all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Tone = Literal["", "good", "bad", "warning", "note", "strong"]
"""What a cell or paragraph means, for renderers that have color."""


class Marked(NamedTuple):
    """Text with a tone."""

    text: str
    tone: Tone


Cell = str | Marked


@dataclass(frozen=True, slots=True)
class Column:
    """The head of a column.

    Args:
        heading: What it says; a no-break space keeps words together where it is folded.
        align: Where its cells stand: names to the left, numbers to the right.
        rank: Where there is no room for all columns, those of the highest rank are left out first,
            and those of rank 0 never.
        wrap: Whether a cell that is too long goes on in the next line.
    """

    heading: str
    align: Literal["left", "right"] = "right"
    rank: int = 0
    wrap: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells.

    Args:
        columns: The heads.
        rows: One cell per column.
        brief: Whether short versions of the document have it.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    brief: bool = True


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph."""

    text: str
    tone: Tone = ""
    brief: bool = False


@dataclass(frozen=True, slots=True)
class Code:
    """A command or program, shown as it is."""

    text: str
    brief: bool = True


@dataclass(frozen=True, slots=True)
class Facts:
    """Names with values, one to a line."""

    values: Mapping[str, Any]
    brief: bool = False


@dataclass(frozen=True, slots=True)
class Plot:
    """A picture, drawn where matplotlib is installed.

    Args:
        name: Name of its file without the ending.
        draw: What fills a figure.
        size: Width and height in inches.
    """

    name: str
    draw: Callable[[Figure], None]
    size: tuple[float, float] = (6.0, 4.2)

    @property
    def caption(self) -> str:
        """Its name in words."""
        return self.name.replace("_", " ")


Block = Table | Text | Code | Facts


@dataclass(frozen=True, slots=True)
class Section:
    """Blocks under a title."""

    title: str
    blocks: Sequence[Block]

    @property
    def brief(self) -> Sequence[Block]:
        """The blocks of short versions."""
        return [block for block in self.blocks if block.brief]


@dataclass(frozen=True, slots=True)
class Document:
    """A report.

    Args:
        title: What it is about.
        headline: What to remember, one line each.
        sections: Its parts, the most important first.
        plots: Its pictures.
    """

    title: str
    headline: str
    sections: Sequence[Section]
    plots: Sequence[Plot] = ()


def named_table(
    head: Sequence[str], rows: Sequence[Sequence[Cell]], *, brief: bool = True
) -> Table:
    """Return a table whose first column is names and whose others are numbers."""
    columns = [Column(name, "right" if index else "left") for index, name in enumerate(head)]
    return Table(columns, rows, brief)


def marked(cell: Cell) -> Marked:
    """Return a cell with its tone."""
    return cell if isinstance(cell, Marked) else Marked(cell, "")
