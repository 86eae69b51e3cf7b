"""What `prm rank` does once its options are known to be right: order, and draw or write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from prm.cli.inputs import check_kind, model_kind
from prm.cli.score_first import Scoring
from prm.cli.score_input import typed_responses
from prm.cli.stored import Rewarded, cut_off, open_scores, progress, wide_console, with_rewards
from prm.errors import ConfigError
from prm.records import prompt_text
from prm.report.ranking import draw_ranking
from prm.scores.ranking import RankedRows, rank_candidates
from prm.scores.responses import single_responses
from prm.scores.rewrite import Columns, check_outputs, read_rows, write_scores
from prm.scores.rows import Row
from prm.scores.stored import tabulate

MAX_SHOWN = 40
"""Rows that are drawn without an output."""


def rank_scores(
    scores: Path,
    output: Path | None,
    top: int | None,
    aggregation: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    model: Path | None = None,
    *,
    overwrite: bool,
) -> int:
    """Rank the rows of a score file and return the exit code: 1 if none has a reward.

    Raises:
        OutputError: The output exists, or cannot be written.
        DataError: The file is not one of scores, or its rows have no group.
        ConfigError: The aggregation does not fit.
    """
    check_outputs(output, overwrite=overwrite)
    table = open_scores(scores, model)
    table.check_groups()
    rewarded = with_rewards(table, aggregation, overrides)
    ranking = _ranking(rewarded)
    shown = ranking if top is None else ranking.top(top)
    if output is None:
        _draw(rewarded, shown)
    else:
        _write(rewarded, shown, output)
        print(f"{output}: {len(shown.order):,} rows")
    for line in _summary(rewarded, ranking):
        print(line)
    return int((ranking.rank < 0).all())


def rank_responses(scoring: Scoring, prompt: str, responses: str, top: int | None) -> int:
    """Score and rank a few responses to one prompt, draw them, and return the exit code as above.

    Raises:
        ConfigError: There are less than two distinct responses, or the model scores steps.
        PrmError: As `prm score`.
    """
    check_kind(model_kind(scoring.model), chains=False)
    records = list(single_responses(typed_responses(prompt, responses, "--responses")))
    if len(records) < 2:
        raise ConfigError(
            "there is nothing to compare",
            expected="--responses with a JSON list of two or more different texts",
            got=responses,
        )
    scorer = scoring.scorer()
    scored = scorer.score(records)
    rows = [
        score.to_row() | {"response_text": record.response}
        for record, score in zip(records, scored, strict=True)
    ]
    table = tabulate(rows, scorer.spec, Path("--responses"))
    rewarded = Rewarded(table, table.stored_rewards, None, scorer.spec)
    ranking = _ranking(rewarded)
    shown = ranking if top is None else ranking.top(top)
    ranked = [rows[index] for index in shown.order.tolist()]
    draw_ranking(wide_console(), prompt, _ranked_rows(ranked, rewarded, shown))
    for score in scored:
        if score.reason:
            print(f"not scored: {score.reason}")
    return int((ranking.rank < 0).all())


def _ranking(rewarded: Rewarded) -> RankedRows:
    table = rewarded.table
    return rank_candidates(table.groups, rewarded.rewards, table.deviations())


def _columns(rewarded: Rewarded, ranking: RankedRows) -> Columns:
    """Return the fields of ranked rows that are new."""
    return {**rewarded.columns(ranking.order), **ranking.columns()}


def _write(rewarded: Rewarded, ranking: RankedRows, output: Path) -> None:
    columns = _columns(rewarded, ranking)
    track = progress("writing", len(ranking.order))
    write_scores(rewarded.table.path, output, ranking.order, columns, rewarded.spec, track=track)


def _summary(rewarded: Rewarded, ranking: RankedRows) -> list[str]:
    """Return how many prompts have a winner, how clear it is, and what has no reward."""
    first, noun = ranking.rank == 0, rewarded.table.noun
    lines = [f"{first.sum():,} prompts, {len(ranking.order):,} {noun}", *cut_off(rewarded.table)]
    margins = ranking.margin[first & ~np.isnan(ranking.margin)]
    if len(margins):
        lines.append(
            f"margin of the best to the next: median {np.median(margins):.4f}, "
            f"none in {(margins == 0).mean():.1%} of the prompts"
        )
    sure = ranking.win_probability[first & ~np.isnan(ranking.win_probability)]
    if len(sure):
        lines.append(
            f"the best is really better than the next with probability {np.median(sure):.3f} "
            f"(median); below 0.9 in {(sure < 0.9).mean():.1%} of the prompts"
        )
    missing = ranking.order[ranking.rank < 0]
    if len(missing):
        place = rewarded.table.place(int(missing[0]))
        lines.append(f"{len(missing):,} {noun} have no reward and no rank; the first: {place}")
    return lines


def _draw(rewarded: Rewarded, ranking: RankedRows) -> None:
    """Draw the first prompts, each with a table of its responses."""
    drawn = ranking.groups[: MAX_SHOWN + 1]
    count = len(drawn) if len(drawn) <= MAX_SHOWN else max(1, int((drawn < drawn[-1]).sum()))
    rows = list(read_rows(rewarded.table.path, ranking.order[:count]))
    ranked = _ranked_rows(rows, rewarded, ranking)
    console = wide_console()
    for group in dict.fromkeys(ranking.groups[:count].tolist()):
        places = np.flatnonzero(ranking.groups[:count] == group).tolist()
        title = ranked[places[0]].get("prompt") or rewarded.table.group_names[group]
        draw_ranking(console, prompt_text(title), [ranked[place] for place in places])
        console.print()
    if count < len(ranking.order):
        print(f"... and {len(ranking.order) - count:,} more rows; --output FILE writes all of them")


def _ranked_rows(rows: list[Row], rewarded: Rewarded, ranking: RankedRows) -> list[Row]:
    """Return the first rows of a ranking with their new fields."""
    columns = _columns(rewarded, ranking)
    return [
        row | {name: values[place] for name, values in columns.items()}
        for place, row in enumerate(rows)
    ]
