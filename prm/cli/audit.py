"""`prm audit`: what a choice does to decisions on the user's own data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prm.cli.aggregation import load_aggregations, resolve_aggregation
from prm.cli.stored import open_scores, wide_console


def tradeoffs(
    scores: Path,
    output: Path | None = None,
    aggregation: str | None = None,
    aggregation_overrides: dict[str, Any] | None = None,
    compare: Path | list[Path] | None = None,
    model: Path | None = None,
    overwrite: bool = False,
) -> int:
    r"""Show how the choice of an aggregation changes which response wins, and at which price.

    On stored scores, without the model::

        prm audit tradeoffs --scores scores.jsonl
        prm audit tradeoffs --scores scores.jsonl --output runs/tradeoffs
        prm audit tradeoffs --scores scores.jsonl --aggregation.weights.safety=2 \
            --compare '[configs/aggregation/thresholded.yaml, mine.yaml]'

    The base is the aggregation of the spec, or the one that is given. It is compared with equal
    weights, the worst case, each objective alone, and what --compare names: how often another
    response wins, which pairs change their order, what the winners are worth in each objective, and
    how often the winner is dominated. Then its weights are changed one by one and two by two; the
    exchange rates say how much of one objective is given for another. The output folder holds
    tradeoffs.md, tradeoffs.json and plots.

    Args:
        scores: Scores that `prm score` wrote, .jsonl or .parquet, with two or more responses to a
            prompt.
        output: Folder for the report; without it the tables are only drawn.
        aggregation: Class (WeightedSum, WorstCase, ...), or YAML file; by default as in the spec.
        aggregation_overrides: Parameters to change, as JSON; --aggregation.weights.safety=2 is the
            short way to write {"weights.safety": 2}.
        compare: YAML file of another aggregation, or a list of them.
        model: Folder of the model, if no spec lies beside the scores.
        overwrite: Replace a report in the output folder.
    """
    from rich.console import Console

    from prm.audit.tradeoffs import audit_tradeoffs
    from prm.report.tradeoffs import check_folder, draw, write
    from prm.scores.stored import responses_of

    if output is not None:
        check_folder(output, overwrite=overwrite)
    table = responses_of(open_scores(scores, model), "the audit of trade-offs")
    base = resolve_aggregation(table.known_spec(), aggregation, aggregation_overrides)
    files = [] if compare is None else compare if isinstance(compare, list) else [compare]
    compared = load_aggregations(files, table.objectives)
    with Console(stderr=True).status("comparing aggregations"):
        report = audit_tradeoffs(table, base, compared, settings={"scores": str(scores)})
    draw(wide_console(), report)
    if output is not None:
        for path in write(report, output):
            print(path)
    return 0
