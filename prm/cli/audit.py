"""`prm audit`: what a choice does to decisions on the user's own data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from prm.cli.aggregation import load_aggregations, resolve_aggregation
from prm.cli.options import AggregationOptions, OverwriteOptions, StoredOptions
from prm.cli.stored import open_scores, wide_console


@dataclass(frozen=True, kw_only=True)
class Tradeoffs(AggregationOptions, OverwriteOptions, StoredOptions):
    r"""Show how the choice of an aggregation changes which response wins, and at which price.

    On stored scores with two or more responses to a prompt, without the model::

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
        output: Folder for the report; without it the tables are only drawn.
        compare: YAML file of another aggregation, or a list of them.
    """

    scores: Path = field()  # which is needed here
    output: Path | None = None
    compare: Path | list[Path] | None = None

    def run(self) -> int:
        """Draw the report, and write it if an output is given."""
        from rich.console import Console

        from prm.audit.tradeoffs import audit_tradeoffs
        from prm.report.tradeoffs import check_folder, draw, write
        from prm.scores.stored import responses_of

        if self.output is not None:
            check_folder(self.output, overwrite=self.overwrite)
        table = responses_of(open_scores(self.scores, self.model), "the audit of trade-offs")
        base = resolve_aggregation(table.known_spec(), self.aggregation, self.aggregation_overrides)
        files = [] if self.compare is None else self.compare
        files = files if isinstance(files, list) else [files]
        compared = load_aggregations(files, table.objectives)
        with Console(stderr=True).status("comparing aggregations"):
            report = audit_tradeoffs(table, base, compared, settings={"scores": str(self.scores)})
        draw(wide_console(), report)
        if self.output is not None:
            for path in write(report, self.output):
                print(path)
        return 0
