"""A document as Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from prm.markdown import bullets, table
from prm.report.document import Block, Code, Document, Facts, Table, marked

PLOTS_MISSING = "Plots were not drawn: matplotlib is not installed (`pip install 'prm[plots]'`)."


def render(document: Document, *, with_plots: bool = True) -> str:
    """Return the whole document as Markdown.

    Args:
        document: What to render.
        with_plots: Whether its pictures lie beside it; if not, it says why there are none.

    Example:
        >>> print(render(Document("Title", "What to remember", [])))
        # Title
        <BLANKLINE>
        What to remember
        <BLANKLINE>
    """
    parts = [f"# {document.title}", *document.headline.splitlines()]
    for section in document.sections:
        parts += [f"## {section.title}", *map(_block, section.blocks)]
    return "\n\n".join([*parts, *_plots(document, with_plots)]) + "\n"


def _plots(document: Document, with_plots: bool) -> Iterable[str]:
    if with_plots:
        return (f"![{plot.caption}]({plot.name}.png)" for plot in document.plots)
    return [PLOTS_MISSING] if document.plots else []


def _block(block: Block) -> str:
    if isinstance(block, Table):
        return render_table(block)
    if isinstance(block, Facts):
        return bullets(block.values)
    return f"```\n{block.text}\n```" if isinstance(block, Code) else block.text


def render_table(block: Table) -> str:
    """Return a table with all its columns."""
    names = [i for i, column in enumerate(block.columns) if column.align == "left"]
    head = [column.heading.replace("\N{NO-BREAK SPACE}", " ") for column in block.columns]
    rows = [[marked(cell).text for cell in row] for row in block.rows]
    return table(head, rows, names)
