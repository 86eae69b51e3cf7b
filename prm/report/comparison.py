"""The model beside baselines: lines to quote, and tables of one metric by scorer and by part."""

from __future__ import annotations

from collections.abc import Mapping

from prm.evaluation.parts import LENGTH_ONLY, MODEL, Difference, Part
from prm.metrics.metric import Metric
from prm.report.cells import MISSING, number, signed
from prm.report.document import Cell, Marked, Section, Table, Tone, named_table

TONES: Mapping[str | None, Tone] = {"better": "good", "worse": "bad", "undecided": "", None: ""}


BOUNDS = "[95\N{NO-BREAK SPACE}%]"
GAIN = "model\N{NO-BREAK SPACE}−\N{NO-BREAK SPACE}it"


def quote(name: str, part: Part, metric: Metric) -> str:
    """Return the line to quote: value, number of units, and what a baseline reaches alone."""
    return f"{name}: {metric.heading} {quoted(part, metric)}"


def quoted(part: Part, metric: Metric) -> str:
    """Return a value with its number of units, and how far a baseline is from it."""
    model = part.scores[MODEL][metric.name]
    line = f"{model}, n = {model.n}"
    baseline = _quoted_baseline(part)
    if baseline is None:
        return f"{line}; no baselines"
    reached = number(part.scores[baseline][metric.name].value)
    return f"{line}; {baseline} {reached}, model − it {gain(part, baseline, metric)}"


def gain(part: Part, baseline: str, metric: Metric) -> str:
    """Return how far the model is from a baseline, and what that means."""
    difference = part.differences[baseline][metric.name]
    verdict = f", {difference.verdict}" if difference.verdict else ""
    return signed(difference) + verdict


def against(name: str, part: Part, metric: Metric) -> Section:
    """Return one metric of every scorer, and how far the model is from each baseline."""
    model = part.scores[MODEL][metric.name]
    title = f"{name}: {metric.heading}, n = {model.n} {metric.unit}"
    rows: list[list[Cell]] = []
    for scorer, scores in part.scores.items():
        difference = part.differences.get(scorer, {}).get(metric.name)
        if scores[metric.name].value is not None or difference is not None:
            rows.append(
                [scorer, str(scores[metric.name]), signed(difference), _verdict(difference)]
            )
    head = ["scorer", f"{metric.heading} {BOUNDS}", f"{GAIN} {BOUNDS}", "model is"]
    return Section(title, [named_table(head, rows)])


def by_part(title: str, parts: Mapping[str, Part], metric: Metric) -> Table:
    """Return one metric of every scorer by part of the data.

    Args:
        title: What the parts are: sources, subsets.
        parts: The parts by name.
        metric: The metric; parts that have no unit of it are left out, unless records of them
            were not scored.
    """
    scorers = list(dict.fromkeys(scorer for part in parts.values() for scorer in part.scores))
    baselines = {_quoted_baseline(part) for part in parts.values()} - {None}
    baseline = LENGTH_ONLY if LENGTH_ONLY in baselines else next(iter(baselines), None)
    rows = []
    for name, part in parts.items():
        model = part.scores[MODEL][metric.name]
        if model.n or part.num_lost:
            others = [number(part.scores[scorer][metric.name].value) for scorer in scorers[1:]]
            verdict = MISSING if baseline is None else gain(part, baseline, metric)
            n = f"{model.n}" if model.n else f"0 ({part.num_lost} not scored)"
            rows.append([name or "(no source)", n, str(model), *others, verdict])
    head = [title, "n", *scorers, f"model − {baseline or LENGTH_ONLY}"]
    return named_table(head, rows, brief=False)


def _quoted_baseline(part: Part) -> str | None:
    """Return the baseline that is quoted: length alone, or else the first one."""
    if LENGTH_ONLY in part.differences:
        return LENGTH_ONLY
    return next(iter(part.differences), None)


def _verdict(difference: Difference | None) -> Cell:
    verdict = None if difference is None else difference.verdict
    return Marked(verdict or MISSING, TONES[verdict])
