"""The sections of an evaluation that are about scored responses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prm.evaluation.parts import MODEL, Part
from prm.evaluation.response_study import ObjectiveResults, ResponseResults
from prm.metrics.correlation import CorrelationMatrix
from prm.metrics.intervals import Interval
from prm.report.cells import number
from prm.report.comparison import against, by_part
from prm.report.document import Block, Facts, Section, Table, Text, named_table


def response_sections(results: ResponseResults) -> Iterable[Section]:
    """Yield each objective with its metrics and comparisons, then correlations."""
    for name, result in results.objectives.items():
        yield from _objective(name, result)
    for title, matrix in (
        ("Correlations of scores, over all responses", results.head_correlations),
        ("Correlations of labels, over ratings", results.label_correlations),
    ):
        yield Section(title, [_matrix(matrix)])


def left_out_of_responses(results: ResponseResults) -> dict[str, Any]:
    """Return how many records do not count, by why."""
    unscored = {f"not scored ({reason})": n for reason, n in results.unscored.items()}
    others = {f"objective {name!r} has no head": n for name, n in results.other_objectives.items()}
    cut = {"records with a response that was cut off, scored by the rest": results.num_truncated}
    return unscored | others | (cut if results.num_truncated else {})


def bars(results: ResponseResults) -> dict[str, dict[str, Interval]]:
    """Return each headline metric of each objective, by scorer, for a plot."""
    return {
        f"{name}\n{metric.heading}\nn = {result.overall.scores[MODEL][metric.name].n}": {
            scorer: scores[metric.name] for scorer, scores in result.overall.scores.items()
        }
        for name, result in results.objectives.items()
        for metric in result.overall.headlines
    }


def _objective(name: str, result: ObjectiveResults) -> Iterable[Section]:
    overall = result.overall
    blocks: list[Block] = [Text(_counted(overall)), _scores_table(overall)]
    if result.baselines_missing:
        blocks.append(Text(f"No baselines: {result.baselines_missing}"))
    facts = _facts(result)
    yield Section(f"{name} ({result.direction})", [*blocks, Facts(facts)] if facts else blocks)
    several = result.sources if len(result.sources) > 1 else {}
    for metric in overall.headlines:
        section = against(name, overall, metric)
        parts = {"source": several, "subset": result.subsets}
        tables = [by_part(title, rows, metric) for title, rows in parts.items() if rows]
        yield Section(section.title, [*section.blocks, *tables])


def _counted(part: Part) -> str:
    counts = part.counts
    return (
        f"{counts['num_comparisons']} comparisons ({counts['num_tied_comparisons']} ties left "
        f"out), {counts['num_ratings']} ratings, {counts['num_groups']} prompts, "
        f"{counts['num_unscored']} records not scored."
    )


def _scores_table(part: Part) -> Table:
    """Return all metrics that any scorer has, scorers in columns."""
    rows = [
        [
            metric.heading,
            str(part.scores[MODEL][metric.name].n),
            *(str(row[metric.name]) for row in part.scores.values()),
        ]
        for metric in part.decided
    ]
    return named_table(["metric", "n", *part.scores], rows, brief=False)


def _facts(result: ObjectiveResults) -> dict[str, Any]:
    facts: dict[str, Any] = {
        f"minimum domain, {scorer}": f"{lowest}, n = {lowest.n}, lower than the truth by chance"
        for scorer, lowest in result.minimum_domain.items()
    }
    if result.weakest_domain is not None:
        facts["weakest domain of the model"] = result.weakest_domain
    if result.missing_domains:
        lost = (f"{name} ({n} records)" for name, n in result.missing_domains.items())
        facts["domains that were not scored, where it may be worse"] = ", ".join(lost)
    if result.margin_quantiles:
        quantiles = (f"{number(x)} ({q})" for q, x in result.margin_quantiles.items())
        facts["quantiles of the model's margin of the better response"] = ", ".join(quantiles)
    return facts


def _matrix(matrix: CorrelationMatrix) -> Table:
    rows = [
        [name, *(f"{number(value)} (n = {n})" for value, n in zip(values, counts, strict=True))]
        for name, values, counts in zip(matrix.names, matrix.values, matrix.n, strict=True)
    ]
    return named_table(["Pearson", *matrix.names], rows, brief=False)
