"""How `prm data` shows what it found: tables on the terminal, and JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prm.atomic import atomic_file
from prm.data.checks.linter import CheckReport, Finding
from prm.data.checks.overlap import Decontamination
from prm.errors import DataError

if TYPE_CHECKING:
    from rich.console import Console

TITLES = {
    "label_balance": "Labels by position",
    "comparison_coverage": "Comparisons by objective",
    "rating_coverage": "Ratings by objective",
    "rater_agreement": "Agreement of raters",
}
"""Findings whose tables are shown; the others say their numbers in their message."""

_COLORS = {"error": "red", "warning": "yellow", "info": "cyan"}


def console(*, stderr: bool = False) -> Console:
    """Return the terminal."""
    from rich.console import Console

    return Console(stderr=stderr)


def say(message: str) -> None:
    """Print one line as it is."""
    console().print(message, highlight=False, markup=False, soft_wrap=True)


def print_report(report: CheckReport, path: str) -> None:
    """Print findings, their first examples, and the tables of statistics."""
    from rich.table import Table
    from rich.text import Text

    say(f"{path}: " + ", ".join(f"{count:,} {name}" for name, count in report.counts.items()))
    table = Table("", "finding", "count", "what")
    for finding in report.findings:
        table.add_row(
            Text(finding.severity, style=_COLORS[finding.severity]),
            Text(finding.kind, no_wrap=True),
            f"{finding.count:,}",
            Text(finding.message),
        )
    console().print(table)
    for finding in report.findings:
        _print_examples(finding)
    for finding in report.findings:
        if finding.kind in TITLES:
            _print_table(finding)


def print_removed(removed: Decontamination, unit: str, output: str) -> None:
    """Print how many records were removed, and which evaluation sets they are in."""
    say(
        f"removed {removed.num_removed:,} {unit} about {len(removed.problems):,} problems, "
        f"wrote {removed.num_kept:,} to {output}"
    )
    for name, count in sorted(removed.removed_by_set.items()):
        say(f"  {name}: {count:,} {unit}")


def write_json(path: str, value: dict[str, Any]) -> None:
    """Write a report as a JSON file, whole or not at all."""
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise DataError("the report cannot be written as JSON", got=str(error)) from error
    with atomic_file(Path(path)) as stream:
        stream.write(text.encode("utf-8") + b"\n")


def _print_examples(finding: Finding) -> None:
    if finding.severity == "info" or not finding.examples:
        return
    console().print(f"{finding.kind}:", style=_COLORS[finding.severity])
    for example in finding.examples:
        row = f" (row {example.id})" if example.id else ""
        say(f"  {example.origin}{row}: {example.detail}")


def _print_table(finding: Finding) -> None:
    """Print the rows of a statistic."""
    from rich.table import Table
    from rich.text import Text

    names = [
        name for name in finding.table[0] if any(row[name] is not None for row in finding.table)
    ]
    table = Table(title=TITLES[finding.kind])
    for name in names:
        is_text = isinstance(finding.table[0][name], str)
        table.add_column(name.replace("_", " "), justify="left" if is_text else "right")
    for row in finding.table:
        table.add_row(*(Text(_cell(name, row[name])) for name in names))
    console().print(table)


def _cell(name: str, value: object) -> str:
    """Return a table cell: shares as percentages, `-` where there is no value."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.1%}" if name.startswith("share_") else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
