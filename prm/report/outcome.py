"""An outcome report for people: terminal tables, Markdown, and the folder with everything in it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prm.atomic import atomic_file
from prm.evaluation.outcome import CONVENTIONS, OutcomeReport
from prm.evaluation.parts import MODEL, Difference, Part
from prm.evaluation.responses import METRICS
from prm.evaluation.study import ObjectiveReport, ResponsePrediction
from prm.metrics.correlation import CorrelationMatrix
from prm.metrics.intervals import Interval
from prm.records import Comparison
from prm.report.markdown import bullets, table
from prm.report.process import PLOTS_MISSING

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

HEADINGS = {
    "pair_accuracy": "strict pair accuracy",
    "pair_accuracy_half": "pair accuracy",
    "pair_nll": "pair NLL",
    "pair_brier": "pair Brier",
    "pair_ece": "pair ECE",
    "kendall_tau": "Kendall tau",
    "auroc": "AUROC",
    "average_precision": "AP",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "mse": "MSE",
    "quadratic_kappa": "kappa",
    "ece": "ECE",
    "brier": "Brier",
}


def draw(console: Console, report: OutcomeReport) -> None:
    """Draw the report's tables: one per objective and headline metric, scorers in rows."""
    from prm.report.terminal import results_table

    for name, result in report.objectives.items():
        for metric in headline_metrics(result.overall):
            title = f"{name}: {HEADINGS[metric]}, n = {result.overall.scores[MODEL][metric].n}"
            rows = _against(result.overall, metric)
            console.print(results_table(title, ["scorer", "95 %", "model − it", ""], rows))
            console.print()
    console.print(headline(report), highlight=False, markup=False)


def headline_metrics(part: Part) -> list[str]:
    """Return the metrics to quote: pair accuracy, and AUROC or else Spearman of rated values.

    Ties count half here: counted as wrong, they would make a baseline with many look worse than it
    is.
    """
    decided = [name for name, x in part.scores[MODEL].items() if x.value is not None]
    rated = [name for name in ("auroc", "spearman") if name in decided]
    return [name for name in ("pair_accuracy_half", *rated[:1]) if name in decided]


def headline(report: OutcomeReport) -> str:
    """Return the lines to quote: each objective with n, interval and what length alone reaches."""
    lines = [
        _headline(name, result.overall, metric)
        for name, result in report.objectives.items()
        for metric in headline_metrics(result.overall)
    ]
    if report.partial:
        reasons = ", ".join(f"{reason} {count}" for reason, count in report.unscored.items())
        lines.append(f"Partial: records were left out ({reasons})")
    return "\n".join(lines) or "No labeled record was scored"


def _headline(name: str, part: Part, metric: str) -> str:
    model = part.scores[MODEL][metric]
    line = f"{name}: {HEADINGS[metric]} {model}, n = {model.n}"
    if "length_only" not in part.differences:
        return f"{line}; no baselines"
    gain = part.differences["length_only"][metric]
    length = _number(part.scores["length_only"][metric].value)
    return f"{line}; length_only {length}, model − it {_gain(gain)}"


def markdown(report: OutcomeReport, notes: Iterable[str] = ()) -> str:
    """Return the report as Markdown.

    Args:
        report: What to show.
        notes: Paragraphs for the end: the plots, or why there are none.
    """
    parts = ["# Outcome evaluation", *headline(report).splitlines()]
    for name, result in report.objectives.items():
        parts += _objective(name, result)
    parts += ["## Correlations of scores, over all responses", _matrix(report.head_correlations)]
    parts += ["## Correlations of labels, over ratings", _matrix(report.label_correlations)]
    left_out = {f"not scored ({reason})": n for reason, n in report.unscored.items()}
    left_out |= {
        f"objective {name!r} has no head": n for name, n in report.other_objectives.items()
    }
    parts += ["## What was left out", bullets(left_out or {"records": 0})]
    measured = {"partial": report.partial, **report.settings, "data_sha256": report.data_sha256}
    parts += ["## How it was measured", bullets(measured), bullets(CONVENTIONS)]
    if report.context:
        parts += ["## Context", bullets(report.context)]
    return "\n\n".join([*parts, *notes]) + "\n"


def _objective(name: str, result: ObjectiveReport) -> list[str]:
    overall = result.overall
    parts = [f"## {name} ({result.direction})", _counted(overall.counts), _scores_table(overall)]
    for metric in headline_metrics(overall):
        parts.append(f"### {name}: {HEADINGS[metric]} beside baselines")
        head = ["scorer", f"{HEADINGS[metric]} [95 %]", "model − it [95 %]", "model is"]
        parts.append(table(head, _against(overall, metric)))
        several = result.sources if len(result.sources) > 1 else {}
        parts += [
            _parts_table(title, rows, metric)
            for title, rows in (("source", several), ("subset", result.subsets))
            if rows
        ]
    if result.baselines_missing:
        parts.append(f"No baselines: {result.baselines_missing}")
    facts: dict[str, Any] = {
        f"minimum domain, {scorer}": f"{interval}, n = {interval.n}"
        for scorer, interval in result.minimum_domain.items()
    }
    if result.weakest_domain is not None:
        facts["weakest domain of the model"] = result.weakest_domain
    if result.margin_quantiles:
        quantiles = (f"{x:.3f} ({q})" for q, x in result.margin_quantiles.items())
        facts["quantiles of the model's margin of the better response"] = ", ".join(quantiles)
    return [*parts, bullets(facts)] if facts else parts


def _counted(counts: Mapping[str, int]) -> str:
    return (
        f"{counts['num_comparisons']} comparisons ({counts['num_tied_comparisons']} ties left "
        f"out), {counts['num_ratings']} ratings, {counts['num_groups']} prompts, "
        f"{counts['num_unscored']} records not scored."
    )


def _scores_table(part: Part) -> str:
    """Return all metrics that any scorer has, scorers in columns."""
    shown = [m for m in METRICS if any(row[m].value is not None for row in part.scores.values())]
    rows = [
        [
            HEADINGS[metric],
            str(part.scores[MODEL][metric].n),
            *(str(row[metric]) for row in part.scores.values()),
        ]
        for metric in shown
    ]
    return table(["metric", "n", *part.scores], rows)


def _against(part: Part, metric: str) -> list[list[str]]:
    """Return for each scorer its value, and by how much the model differs and in which sense."""
    rows = []
    for scorer, scores in part.scores.items():
        if scores[metric].value is not None or scorer in part.differences:
            gain = part.differences.get(scorer, {}).get(metric)
            verdict = gain.verdict if gain else None
            rows.append([scorer, str(scores[metric]), _signed(gain), verdict or "—"])
    return rows


def _parts_table(title: str, parts: Mapping[str, Part], metric: str) -> str:
    """Return one metric of every scorer by part of the data."""
    scorers = list(dict.fromkeys(scorer for part in parts.values() for scorer in part.scores))
    head = [title, "n", *scorers, "model − length_only"]
    rows = []
    for name, part in parts.items():
        model = part.scores[MODEL][metric]
        if model.n:
            gain = part.differences.get("length_only", {}).get(metric)
            cells = [_number(part.scores[scorer][metric].value) for scorer in scorers[1:]]
            verdict = _gain(gain) if gain else "—"
            rows.append([name or "(no source)", str(model.n), str(model), *cells, verdict])
    return table(head, rows)


def _gain(gain: Difference) -> str:
    return f"{_signed(gain)}, {gain.verdict}" if gain.verdict else _signed(gain)


def _signed(interval: Interval | None) -> str:
    if interval is None or interval.value is None:
        return "—"
    if interval.low is None or interval.high is None:
        return f"{interval.value:+.3f}"
    return f"{interval.value:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


def _matrix(matrix: CorrelationMatrix) -> str:
    rows = [
        [name, *(f"{_number(value)} (n = {n})" for value, n in zip(values, counts, strict=True))]
        for name, values, counts in zip(matrix.names, matrix.values, matrix.n, strict=True)
    ]
    return table(["Pearson", *matrix.names], rows)


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:.3f}"


def write(report: OutcomeReport, folder: Path) -> list[Path]:
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
    names = report.head_correlations.names
    files = {"predictions.jsonl": _prediction_lines(report.predictions, names)}
    notes = [PLOTS_MISSING]
    if find_spec("matplotlib") is not None:
        from prm.report.plots.responses import draw_plots

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


def write_predictions(
    predictions: Iterable[ResponsePrediction], objectives: Iterable[str], folder: Path
) -> Path:
    """Write `predictions.jsonl`: per record the scores and rewards of its responses, and labels.

    Args:
        predictions: What to write.
        objectives: Names of the columns of their scores.
        folder: Where to.

    Raises:
        OutputError: The file cannot be written.
    """
    path = folder / "predictions.jsonl"
    with atomic_file(path) as stream:
        stream.write(_prediction_lines(predictions, objectives))
    return path


def _prediction_lines(
    predictions: Iterable[ResponsePrediction], objectives: Iterable[str]
) -> bytes:
    names = tuple(objectives)
    rows = (_prediction_row(prediction, names) for prediction in predictions)
    return "".join(
        json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows
    ).encode()


def _prediction_row(prediction: ResponsePrediction, objectives: tuple[str, ...]) -> dict[str, Any]:
    record = prediction.record
    columns = zip(objectives, prediction.scores.unbind(dim=1), strict=True)
    if isinstance(record, Comparison):
        labels: dict[str, Any] = {"objective": record.objective, "ranks": list(record.ranks)}
    else:
        labels = {"values": dict(record.values)}
    return {
        "id": record.id,
        "source": record.source,
        "group": record.group,
        **labels,
        "scores": {name: _numbers(column) for name, column in columns},
        "rewards": _numbers(prediction.rewards),
        "reason": prediction.reason,
    }


def _numbers(column: Tensor) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in column.tolist()]
