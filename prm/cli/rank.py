"""`prm rank`: the best of N responses to each prompt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from prm.cli.inputs import ScoreFirstOptions, check_kind, model_kind
from prm.cli.options import OptionRules
from prm.cli.score_input import typed_responses
from prm.cli.stored import Rewarded, cut_off, open_scores, wide_console, with_rewards
from prm.data.formats import all_formats
from prm.errors import ConfigError
from prm.records import prompt_text

if TYPE_CHECKING:
    from prm.scores.ranking import RankedRows
    from prm.scores.rows import Row

RANKED = {"last": "ranked after those that were not", "keep": "ranked by reward all the same"}
"""What is done with rows that were cut off, in words."""

MAX_SHOWN = 40
"""Rows that are drawn without an output."""

all_formats()  # so that every format can be named by its class alone


@dataclass(frozen=True, kw_only=True)
class Rank(ScoreFirstOptions):
    """Order the responses, or chains, for each prompt by their reward: best of N, with margins.

    Stored scores, drawn or written::

        prm rank scores.jsonl --top 3
        prm rank scores.jsonl --top 1 --output best.jsonl
        prm rank scores.jsonl --aggregation.weights.safety=2 --output safer.parquet

    Candidates that are not scored yet; best.jsonl.scores.jsonl keeps their scores, so that they can
    be ranked anew without the model. When interrupted, the same command continues::

        prm rank --model runs/replies/model --input candidates.jsonl --top 1 --output best.jsonl
        prm rank best.jsonl.scores.jsonl --aggregation WorstCase --output cautious.jsonl

    A few responses to one prompt::

        prm rank --model runs/replies/model --prompt 'Name a prime.' --responses '["7", "8"]'

    Written rows are those of the scores with `rank` (0 is the best), `margin` (the reward minus
    that of the next) and `win_probability` (that it is really better than the next). The last one
    is known where the model's heads have spreads, the aggregation is linear, and so are the
    normalizers: then it is Phi(margin / sqrt(s1^2 + s2^2)), errors taken as independent.

    What was cut off at the model's max_length comes after what was read to its end, whatever its
    reward: nobody knows what stands behind the cut.

    Args:
        output: File for the ranked rows, .jsonl or .parquet; without it the first are drawn.
        top: Keep the best so many of each prompt, those without a reward left out; by default all.
        input: File, folder, glob or dataset of candidates to score first.
        format: What its rows look like; by default as in `prm score`: one response to a row, or
            several as responses, or chosen and rejected.
        prompt: The prompt of `responses`.
        responses: JSON list of responses to rank.
    """

    CONFLICTS: ClassVar[OptionRules] = (
        ("SCORES", "--prompt"),
        ("--input", "--prompt"),
        ("--prompt", "--output"),
    )
    NEEDS: ClassVar[OptionRules] = (
        ("--input", "--output"),
        ("--prompt", "--responses"),
        ("--prompt", "--model"),
        ("--responses", "--prompt"),
        ("--format", "--input"),
        ("--device", "--input", "--prompt"),
    )

    output: Path | None = None
    top: int | None = None
    prompt: str | None = None
    responses: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top is not None and self.top < 1:
            raise ConfigError("--top is wrong", expected="1 or more", got=self.top)
        if self.scores is None and self.input is None and self.prompt is None:
            raise ConfigError("there is nothing to rank", fix="Give SCORES, --input or --prompt")

    def run(self) -> int:
        """Rank, and return 1 if no response has a reward, else 0."""
        if self.prompt is not None and self.responses is not None:
            return self._rank_typed(self.prompt, self.responses)
        if self.scores is None and self.output is not None:
            return self.score_first(self.output, keep_text=True).run()
        assert self.scores is not None

        from prm.scores.rewrite import check_outputs

        check_outputs(self.output, overwrite=self.overwrite)
        table = open_scores(self.scores, self.model)
        table.check_groups()
        rewarded = with_rewards(table, self.aggregation, self.aggregation_overrides)
        ranking = self._ranking(rewarded)
        shown = self._shown(ranking)
        if self.output is None:
            _draw(rewarded, shown)
        else:
            rewarded.write(self.output, shown.order, new=shown.columns())
            print(f"{self.output}: {len(shown.order):,} rows")
        for line in _summary(rewarded, ranking, self.truncated):
            print(line)
        return int((ranking.rank < 0).all())

    def _ranking(self, rewarded: Rewarded) -> RankedRows:
        from prm.scores.ranking import rank_candidates

        table = rewarded.table
        if self.truncated == "error":
            table.check_cut_off()
        cut = table.cut_off if self.truncated == "last" else None
        return rank_candidates(table.groups, rewarded.rewards, table.deviations(), cut)

    def _shown(self, ranking: RankedRows) -> RankedRows:
        return ranking if self.top is None else ranking.top(self.top)

    def _rank_typed(self, prompt: str, responses: str) -> int:
        """Score and rank a few responses to one prompt, draw them, and return the exit code."""
        assert self.model is not None
        check_kind(model_kind(self.model), chains=False)

        from prm.cli.scoring import load_scorer, scorer_options
        from prm.report.ranking import draw_ranking
        from prm.scores.responses import single_responses
        from prm.scores.stored import tabulate

        records = list(single_responses(typed_responses(prompt, responses, "--responses")))
        if len(records) < 2:
            raise ConfigError(
                "there is nothing to compare",
                expected="--responses with a JSON list of two or more different texts",
                got=responses,
            )
        scorer = load_scorer(scorer_options(self.model, self))
        scored = scorer.score(records)
        rows = [
            score.to_row() | {"response_text": record.response}
            for record, score in zip(records, scored, strict=True)
        ]
        table = tabulate(rows, scorer.spec, Path("--responses"))
        rewarded = Rewarded(table, table.stored_rewards, None, scorer.spec)
        ranking = self._ranking(rewarded)
        shown = self._shown(ranking)
        ranked = [rows[index] for index in shown.order.tolist()]
        draw_ranking(wide_console(), prompt, _ranked_rows(ranked, rewarded, shown))
        for line in cut_off(table, RANKED[self.truncated]):
            print(line)
        for score in scored:
            if score.reason:
                print(f"not scored: {score.reason}")
        return int((ranking.rank < 0).all())


def _summary(rewarded: Rewarded, ranking: RankedRows, truncated: str) -> list[str]:
    """Return how many prompts have a winner, how clear it is, and what has no reward."""
    import numpy as np

    table, first, noun = rewarded.table, ranking.rank == 0, rewarded.table.noun
    lines = [f"{first.sum():,} prompts, {len(ranking.order):,} {noun}"]
    cut_first = int(table.cut_off[ranking.order[first]].sum())
    what = f"{RANKED[truncated]}, first in {cut_first:,} of {first.sum():,} prompts"
    lines += cut_off(table, what)
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
    import numpy as np

    from prm.report.ranking import draw_ranking
    from prm.scores.rewrite import read_rows

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
    columns = {**rewarded.columns(ranking.order), **ranking.columns()}
    return [
        row | {name: values[place] for name, values in columns.items()}
        for place, row in enumerate(rows)
    ]
