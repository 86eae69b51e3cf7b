"""How `prm data` shows what it found: tables on the terminal, and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prm.data.checks.linter import CheckReport, Finding
from prm.data.checks.overlap import Decontamination
from prm.report.cells import MISSING, count, share
from prm.report.document import Cell, Code, Column, Document, Marked, Section, Table, Text, Tone
from prm.report.files import encode_json, write_files

if TYPE_CHECKING:
    from rich.console import Console

TITLES = {
    "label_balance": "Labels by position",
    "comparison_coverage": "Comparisons by objective",
    "rating_coverage": "Ratings by objective",
    "rater_agreement": "Agreement of raters",
}
"""Findings whose tables are shown; the others say their numbers in their message."""

_TONES: Mapping[str, Tone] = {"error": "bad", "warning": "warning", "info": "note"}


def console(*, stderr: bool = False) -> Console:
    """Return the terminal."""
    from rich.console import Console

    return Console(stderr=stderr)


def say(message: str) -> None:
    """Print one line as it is."""
    console().print(message, highlight=False, markup=False, soft_wrap=True)


def print_report(report: CheckReport, path: str) -> None:
    """Print findings, their first examples, and the tables of statistics."""
    from prm.report import terminal

    terminal.draw(console(), document(report, path))


def document(report: CheckReport, path: str) -> Document:
    """Return the page of a check.

    Args:
        report: What was found.
        path: The data that were checked.
    """
    counts = ", ".join(f"{count(number)} {name}" for name, number in report.counts.items())
    sections = [Section("Findings", [Text(f"{path}: {counts}", brief=True), _findings(report)])]
    sections += [
        Section(finding.kind, [_examples(finding)])
        for finding in report.findings
        if finding.severity != "info" and finding.examples
    ]
    sections += [
        Section(TITLES[finding.kind], [_statistics(finding)])
        for finding in report.findings
        if finding.kind in TITLES
    ]
    return Document("Check of labeled data", "", sections)


def print_removed(removed: Decontamination, unit: str, output: str) -> None:
    """Print how many records were removed, and which evaluation sets they are in."""
    say(
        f"removed {removed.num_removed:,} {unit} about {len(removed.problems):,} problems, "
        f"wrote {removed.num_kept:,} to {output}"
    )
    for name, number in sorted(removed.removed_by_set.items()):
        say(f"  {name}: {number:,} {unit}")


def write_json(path: str, value: dict[str, Any]) -> None:
    """Write a report as a JSON file, whole or not at all."""
    where = Path(path)
    write_files({where.name: encode_json(value)}, where.parent)


def _findings(report: CheckReport) -> Table:
    columns = [
        Column("", "left"),
        Column("finding", "left"),
        Column("count"),
        Column("what", "left", wrap=True),
    ]
    rows: list[list[Cell]] = [
        [
            Marked(finding.severity, _TONES[finding.severity]),
            finding.kind,
            count(finding.count),
            finding.message,
        ]
        for finding in report.findings
    ]
    return Table(columns, rows)


def _examples(finding: Finding) -> Code:
    rows = (f" (row {example.id})" if example.id else "" for example in finding.examples)
    lines = (
        f"  {x.origin}{row}: {x.detail}" for x, row in zip(finding.examples, rows, strict=True)
    )
    return Code("\n".join(lines))


def _statistics(finding: Finding) -> Table:
    """Return the rows of a statistic, without the columns that are empty."""
    first = finding.table[0]
    names = [name for name in first if any(row[name] is not None for row in finding.table)]
    columns = [
        Column(name.replace("_", " "), "left" if isinstance(first[name], str) else "right")
        for name in names
    ]
    return Table(columns, [[_cell(name, row[name]) for name in names] for row in finding.table])


def _cell(name: str, value: object) -> str:
    """Return a table cell: shares as percentages."""
    if isinstance(value, float):
        return share(value) if name.startswith("share_") else f"{value:.3g}"
    if isinstance(value, int):
        return count(value)
    return MISSING if value is None else str(value)
