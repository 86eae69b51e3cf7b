"""The sections of an evaluation that are about scored steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from prm.evaluation.parts import MODEL
from prm.evaluation.step_study import StepResults
from prm.evaluation.steps import COUNT_WEIGHTED_F1, MACRO_F1, StepPart
from prm.metrics.metric import PLACES
from prm.report.cells import number
from prm.report.comparison import against, by_part, quoted
from prm.report.document import Column, Section, Table, named_table


def mean_f1_line(results: StepResults) -> str:
    """Return the mean F1 over sources, and what it is beside a baseline."""
    weighted = results.means.scores[MODEL][COUNT_WEIGHTED_F1.name]
    line = f"Mean F1 over {len(results.sources)} source(s) {quoted(results.means, MACRO_F1)}"
    return f"{line}; count-weighted {weighted}"


def step_sections(results: StepResults) -> Iterable[Section]:
    """Yield all chains and each source with their metrics, then comparisons and breakdowns."""
    several = results.sources if len(results.sources) > 1 else {}
    name = "all" if several else next(iter(results.sources)) or "all"
    for title, part in {name: results.overall, **several}.items():
        yield Section(_counted(title or "(no source)", part), [_scores_table("scorer", part)])
    for metric in results.overall.headlines:
        section = against(name, results.overall, metric)
        blocks = [by_part("source", several, metric)] if several else []
        yield Section(section.title, [*section.blocks, *blocks])
    if several:
        yield against(f"{len(several)} sources", results.means, MACRO_F1)
    for title, parts in results.breakdowns.items():
        yield Section(f"By {title} (model)", [_breakdown_table(title, parts)])
    rows = [[offset, str(count)] for offset, count in results.first_error_offsets.items()]
    table = named_table(["predicted − true", "chains with an error"], rows, brief=False)
    yield Section("Where the first error was put", [table])


def left_out_of_steps(results: StepResults) -> dict[str, Any]:
    """Return how many steps and chains do not count, by why."""
    counts = results.overall.counts
    return {
        "steps not scored": counts["num_unscored_steps"],
        "chains cut short": counts["num_truncated_chains"],
        "chains whose labels do not decide the first error": counts["num_undecided_chains"],
    }


def _counted(name: str, part: StepPart) -> str:
    counts = part.counts
    return (
        f"{name}: {counts['num_chains']} chains, {counts['num_labeled_steps']} labeled steps, "
        f"{counts['num_groups']} problems"
    )


def _scores_table(first: str, part: StepPart) -> Table:
    """Return the metrics of every scorer, scorers in rows."""
    return Table(_columns(first, part), [_cells(name, name, part) for name in part.scores])


def _breakdown_table(first: str, parts: Mapping[str, StepPart]) -> Table:
    """Return the model's metrics by the value of a property."""
    rows = [_cells(value, MODEL, part) for value, part in parts.items()]
    return Table(_columns(first, next(iter(parts.values()))), rows, brief=False)


def _columns(first: str, part: StepPart) -> list[Column]:
    metrics = [Column(m.heading, rank=PLACES.index(m.place)) for m in part.metrics]
    last = len(PLACES)
    chains, oracle = Column("chains", rank=last), Column("F1 oracle", rank=last)
    return [Column(first, "left"), chains, *metrics, oracle]


def _cells(name: str, scorer: str, part: StepPart) -> list[str]:
    """Return a row: headline metrics with their bounds, the others without."""
    scores = part.scores[scorer]
    metrics = [
        str(scores[m.name]) if m.place == "headline" else number(scores[m.name].value)
        for m in part.metrics
    ]
    oracle = number(part.oracle[scorer]["processbench_f1_oracle"])
    return [name, str(part.counts["num_chains"]), *metrics, oracle]
