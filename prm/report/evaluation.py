"""The page of an evaluation: what is quoted of it, tables, plots, and what was left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from prm.evaluation.benchmarks import Benchmark
from prm.evaluation.parts import MODEL, Part
from prm.evaluation.predictions import Predictions
from prm.evaluation.report import Report
from prm.metrics.intervals import Interval
from prm.metrics.metric import Metric
from prm.report import terminal
from prm.report.cells import MISSING, number
from prm.report.comparison import quote
from prm.report.document import Column, Document, Facts, Plot, Section, Table
from prm.report.files import write_files, write_report
from prm.report.plots.responses import response_plots
from prm.report.plots.steps import step_plots
from prm.report.response_results import bars, left_out_of_responses, response_sections
from prm.report.step_results import left_out_of_steps, mean_f1_line, step_sections


def write(report: Report, folder: Path) -> list[Path]:
    """Write predictions, plots, `report.md` and, last, `report.json`; see `write_report`."""
    files = report.predictions.files()
    return write_report(document(report), report.to_dict(), folder, files=files)


def write_predictions(predictions: Predictions, folder: Path) -> list[Path]:
    """Write the rows of each kind of predictions, each file whole or not at all.

    Raises:
        OutputError: A file cannot be written.
    """
    return write_files(predictions.files(), folder)


def draw(console: Console, report: Report) -> None:
    """Draw the brief tables of a report, and last what is quoted of it."""
    terminal.draw(console, document(report))


def document(report: Report) -> Document:
    """Return the page of a report."""
    sections: list[Section] = []
    left_out: dict[str, Any] = {}
    if report.steps is not None:
        sections += step_sections(report.steps)
        left_out |= left_out_of_steps(report.steps)
    if report.responses is not None:
        sections += response_sections(report.responses)
        left_out |= left_out_of_responses(report.responses)
    if report.benchmark is not None:
        sections.append(_published(report, report.benchmark))
    measured = {"partial": report.partial, **report.settings, "data_sha256": report.data_sha256}
    sections += [
        Section("What was left out", [Facts(left_out or {"records": 0})]),
        Section("How it was measured", [Facts(measured), Facts(report.conventions())]),
        *([Section("Context", [Facts(report.context)])] if report.context else []),
    ]
    title = f"{report.kind.capitalize()} evaluation"
    return Document(title, headline(report), sections, _plots(report))


def headline(report: Report) -> str:
    """Return the lines to quote, each with n, interval, and what a baseline alone reaches."""
    lines = [_benchmark_line(report, report.benchmark)] if report.benchmark else []
    if report.steps is not None:
        steps = report.steps.overall
        lines += [mean_f1_line(report.steps)]
        lines += [quote("steps", steps, metric) for metric in steps.headlines[:1]]
    lines += [
        quote(name, result.overall, metric)
        for name, result in report.objectives.items()
        for metric in result.overall.headlines
    ]
    if report.responses is not None and report.responses.unscored:
        reasons = ", ".join(f"{reason} {n}" for reason, n in report.responses.unscored.items())
        lines.append(f"Partial: records were left out ({reasons})")
    return "\n".join(lines) or "No labeled record was scored"


def _benchmark_line(report: Report, benchmark: Benchmark) -> str:
    """Return the benchmark's own figure, of a whole run only."""
    if report.missing:
        missing = ", ".join(f"{subset} {count}" for subset, count in report.missing.items())
        return f"This run is partial, not the {benchmark.title} score (missing records: {missing})"
    value = _find(report, benchmark.headline)
    return f"{benchmark.title} {benchmark.headline.heading} {value or MISSING}"


def _find(report: Report, metric: Metric) -> Interval | None:
    """Return the model's value of a metric on all records."""
    parts: list[Part] = [*([report.steps.means] if report.steps else []), *report.parts()]
    found = (part.scores[MODEL][metric.name] for part in parts if metric in part.metrics)
    return next(found, None)


def _published(report: Report, benchmark: Benchmark) -> Section:
    """Return the model's figures on whole subsets beside those that others report."""
    sources = {name: part for parts in report.sources() for name, part in parts.items()}
    values = [
        number(sources[source].scores[MODEL][benchmark.metric.name].value)
        if source in sources and subset not in report.missing
        else MISSING
        for source, subset in benchmark.sources.items()
    ]
    whole = None if report.missing else _find(report, benchmark.headline)
    rows = [[MODEL, *values, number(whole.value if whole else None), "this report"]]
    for row in benchmark.published:
        cells = [number(row.values.get(subset)) for subset in benchmark.sizes]
        rows.append([row.system, *cells, number(row.headline), row.by])
    heads = [f"{subset} {benchmark.metric.heading}" for subset in benchmark.sizes]
    columns = [Column("system", "left"), *map(Column, [*heads, benchmark.headline.heading])]
    table = Table([*columns, Column("reported by", "left")], rows, brief=False)
    return Section(f"{benchmark.title}, as others report it", [table])


def _plots(report: Report) -> list[Plot]:
    plots: list[Plot] = []
    if report.steps is not None:
        plots += step_plots(report.predictions.steps, report.steps.first_error_offsets)
    if report.responses is not None:
        found = report.responses
        plots += response_plots(
            bars(found),
            {name: result.margins for name, result in found.objectives.items()},
            {"scores": found.head_correlations, "labels": found.label_correlations},
        )
    return plots
