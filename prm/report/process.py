"""A process report for people: terminal tables, Markdown, and the folder with everything in it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prm.atomic import atomic_file
from prm.evaluation.process import CONVENTIONS, MODEL, ProcessReport, Scores
from prm.evaluation.steps import StepPrediction
from prm.metrics.first_error import DEFAULT_THRESHOLD
from prm.metrics.intervals import Interval
from prm.records import CORRECTNESS
from prm.report.markdown import bullets, table

if TYPE_CHECKING:
    from rich.console import Console

HEADINGS = {
    "step_auroc": "step AUROC",
    "error_ap": "error AP",
    "ece": "ECE",
    "brier": "Brier",
    "first_error_accuracy": "first error",
    "error_acc": "error acc",
    "correct_acc": "correct acc",
    "processbench_f1": "F1",
    "error_recall": "error recall",
    "min_on_last_step": "min on last",
}
WITH_BOUNDS = ("step_auroc", "processbench_f1")
TERMINAL_METRICS = ("step_auroc", "error_ap", "error_acc", "correct_acc", "processbench_f1")
PLOTS_MISSING = "Plots were not drawn: matplotlib is not installed (`pip install 'prm[plots]'`)."


def draw(console: Console, report: ProcessReport) -> None:
    """Draw the report's tables: one per source, scorers in rows, then the headline."""
    from prm.report.terminal import results_table

    for title, scores in _sections(report):
        rows = [[name, *_cells(part, TERMINAL_METRICS)] for name, part in scores.items()]
        headings = [HEADINGS[metric].replace(" ", "\n") for metric in TERMINAL_METRICS]
        console.print(results_table(title, ["scorer", *headings], rows))
        console.print()
    console.print(headline(report), highlight=False, markup=False)


def headline(report: ProcessReport) -> str:
    """Return the one line to quote: mean F1 over sources, with what it is and is not."""
    means = report.means[MODEL]
    mean, weighted = means["macro_f1"], means["count_weighted_f1"]
    if report.benchmark and not report.partial:
        return f"ProcessBench F1 {mean} (mean of four subsets), count-weighted {weighted}"
    line = f"Mean F1 over {len(report.sources[MODEL])} source(s) {mean}, count-weighted {weighted}"
    if report.partial:
        missing = ", ".join(f"{name} {count}" for name, count in report.missing.items())
        line += f"; partial, not the ProcessBench score (missing chains: {missing})"
    return line


def markdown(report: ProcessReport, notes: Iterable[str] = ()) -> str:
    """Return the report as Markdown.

    Args:
        report: What to show.
        notes: Paragraphs for the end: the plots, or why there are none.
    """
    parts = ["# Process evaluation", headline(report)]
    for title, scores in _sections(report):
        parts += [f"## {title}", _table("scorer", scores)]
    for name, by_value in report.breakdowns.items():
        parts += [f"## By {name} (model)", _table(name, by_value)]
    parts += ["## Where the first error was put", _offsets_table(report.first_error_offsets)]
    parts += ["## What was left out", _left_out(report.overall[MODEL].counts)]
    parts += [
        "## How it was measured",
        bullets({**report.settings, "data_sha256": report.data_sha256}),
    ]
    parts += [bullets(CONVENTIONS)]
    if report.context:
        parts += ["## Context", bullets(report.context)]
    return "\n\n".join([*parts, *notes]) + "\n"


def write(report: ProcessReport, folder: Path) -> list[Path]:
    """Write `predictions.jsonl`, plots, `report.md` and `report.json`, each whole or not at all.

    `report.json` is written last, so that a folder that has it is complete. Without matplotlib the
    plots are left out and `report.md` says so.

    Args:
        report: What to write.
        folder: Where to; it is made if needed, and files of the same names are replaced.

    Returns:
        The files written, in order.

    Raises:
        OutputError: A file cannot be written.
    """
    lines = _prediction_lines(report.predictions, report.settings["threshold"])
    files = {"predictions.jsonl": lines}
    notes = [PLOTS_MISSING]
    if find_spec("matplotlib") is not None:
        from prm.report.plots.steps import draw_plots

        plots = draw_plots(report)
        notes = [f"![{Path(name).stem.replace('_', ' ')}]({name})" for name in plots]
        files |= plots
    files["report.md"] = markdown(report, notes).encode()
    text = json.dumps(report.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
    files["report.json"] = f"{text}\n".encode()
    for name, content in files.items():
        with atomic_file(folder / name) as stream:
            stream.write(content)
    return [folder / name for name in files]


def _sections(report: ProcessReport) -> Iterable[tuple[str, dict[str, Scores]]]:
    """Return title and scores by scorer, of all chains and of each source if there are several."""
    names = list(report.sources[MODEL])
    only = names[0] or "all" if len(names) == 1 else "all"
    yield _title(only, report.overall[MODEL]), report.overall
    for source in names if len(names) > 1 else ():
        scores = {scorer: parts[source] for scorer, parts in report.sources.items()}
        yield _title(source or "(no source)", scores[MODEL]), scores


def _title(name: str, scores: Scores) -> str:
    counts = scores.counts
    return (
        f"{name}: {counts['num_chains']} chains, {counts['num_labeled_steps']} labeled steps, "
        f"{counts['num_groups']} problems"
    )


def _cells(scores: Scores, metrics: Iterable[str]) -> list[str]:
    return [_cell(scores.metrics[name], bounds=name in WITH_BOUNDS) for name in metrics]


def _cell(interval: Interval, *, bounds: bool) -> str:
    return str(interval) if bounds else _number(interval.value)


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:.3f}"


def _table(first: str, scores: Mapping[str, Scores]) -> str:
    head = [first, "chains", *HEADINGS.values(), "F1 oracle"]
    rows = [
        [
            name.replace("|", "\\|"),
            str(part.counts["num_chains"]),
            *_cells(part, HEADINGS),
            _number(part.oracle["processbench_f1_oracle"]),
        ]
        for name, part in scores.items()
    ]
    return table(head, rows)


def _offsets_table(offsets: Mapping[str, int]) -> str:
    rows = [[offset, str(count)] for offset, count in offsets.items()]
    return table(["predicted − true", "chains with an error"], rows)


def _left_out(counts: Mapping[str, int]) -> str:
    return bullets(
        {
            "steps not scored": counts["num_unscored_steps"],
            "chains cut short": counts["num_truncated_chains"],
            "chains whose labels do not decide the first error": counts["num_undecided_chains"],
        }
    )


def write_predictions(
    predictions: Iterable[StepPrediction], folder: Path, threshold: float = DEFAULT_THRESHOLD
) -> Path:
    """Write `predictions.jsonl`: per chain its step probabilities, labels and first errors.

    Raises:
        OutputError: The file cannot be written.
    """
    path = folder / "predictions.jsonl"
    with atomic_file(path) as stream:
        stream.write(_prediction_lines(predictions, threshold))
    return path


def _prediction_lines(predictions: Iterable[StepPrediction], threshold: float) -> bytes:
    rows = (_prediction_row(prediction, threshold) for prediction in predictions)
    return "".join(
        json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows
    ).encode()


def _prediction_row(prediction: StepPrediction, threshold: float) -> dict[str, Any]:
    chain = prediction.chain
    return {
        "id": chain.id,
        "source": chain.source,
        "group": chain.group,
        "probabilities": list(prediction.probabilities),
        "labels": chain.labels.get(CORRECTNESS),
        "first_error": chain.first_error(),
        "predicted_first_error": prediction.first_error(threshold),
        "reason": prediction.reason,
    }
