"""`prm filter`: keep or drop rows by reward, by objective or by share of the best, and say why."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from prm.cli.options import check_options
from prm.data.formats import all_formats
from prm.data.formats.base import Format
from prm.errors import ConfigError

all_formats()  # so that every format can be named by its class alone


def filter_rows(
    output: Path,
    scores: Path | None = None,
    dropped: Path | None = None,
    data: str | None = None,
    model: Path | None = None,
    input: str | None = None,
    format: Format | None = None,
    min_reward: float | None = None,
    max_reward: float | None = None,
    thresholds: dict[str, float] | None = None,
    unit: Literal["score", "utility", "probability"] = "score",
    top_share: float | None = None,
    within: Literal["all", "group"] = "all",
    missing: Literal["drop", "keep", "error"] = "drop",
    aggregation: str | None = None,
    aggregation_overrides: dict[str, Any] | None = None,
    device: str = "auto",
    max_tokens: int = 16384,
    overwrite: bool = False,
) -> int:
    r"""Keep the rows that pass every rule, and say how many others fail which one.

    Stored scores, by reward, by objective, and by rank::

        prm filter scores.jsonl --min_reward 0 --output kept.jsonl --dropped dropped.jsonl
        prm filter scores.jsonl --thresholds.safety=0.8 --unit probability --output safe.jsonl
        prm filter scores.jsonl --top_share 0.25 --within group --output best.jsonl

    The rows of the file that was scored, whose ids are those of the scores::

        prm filter scores.jsonl --min_reward 0 --data train.jsonl --output train-kept.jsonl

    A file that is not scored yet; kept.jsonl.scores.jsonl keeps its scores, so that it can be
    filtered anew without the model. When interrupted, the same command continues::

        prm filter --model runs/replies/model --input train.jsonl --min_reward 0 \
            --output kept.jsonl

    A row of a file is kept if all its scored responses pass. Rows that do not name an id are
    taken as name-0, name-1, ... as `prm score` does.

    Args:
        output: File for the rows that are kept, .jsonl or .parquet.
        scores: Scores that `prm score` wrote, .jsonl or .parquet.
        dropped: File for the others, each with the field dropped_because.
        data: File, folder or dataset whose rows are filtered in the place of the scores.
        model: Folder of the model that is to score; or that gave `scores`, if no spec lies beside
            them.
        input: File, folder, glob or dataset to score first, whose rows are then filtered.
        format: What the rows of `input` or `data` look like; by default as in `prm score`, and any
            rows with an `id` for `data`.
        min_reward: Smallest reward to keep.
        max_reward: Largest reward to keep.
        thresholds: Worst value of an objective to keep, as in --thresholds.safety=0.5, or JSON.
        unit: What thresholds are in: score, the head's own units, where an objective to minimize
            must not be above its threshold; utility or probability, where more is better. Of
            chains: score, as the steps were aggregated, or probability.
        top_share: Share of the rows with a reward to keep, the best ones, rounded up.
        within: Whether --top_share is of all rows or of those of each group (prompt).
        missing: What happens to rows without a number that a rule needs, or without a score.
        aggregation: Class (WeightedSum, WorstCase, ...), or YAML file; for chains min, product,
            mean, last, mean_logit or softmin; by default the rewards in the file, or the model's
            own.
        aggregation_overrides: Parameters to change, as JSON; --aggregation.weights.safety=2 is the
            short way to write {"weights.safety": 2}.
        device: Where the model scores: cpu, cuda, cuda:1, ...; auto takes a GPU if there is one.
        max_tokens: Tokens in one forward pass of the model.
        overwrite: Replace the outputs, and scores beside them, if they exist.

    Returns:
        1 if no row is kept, else 0.
    """
    check_options(
        {
            "SCORES": scores,
            "--data": data,
            "--input": input,
            "--model": model,
            "--format": format,
            "--device": None if device == "auto" else device,
        },
        _CONFLICTS,
        _NEEDS,
    )
    if dropped == output:
        raise ConfigError("--output and --dropped are the same file", got=str(output))
    if scores is None and input is None:
        raise ConfigError("there is nothing to filter", fix="Give SCORES, or --model and --input")

    from prm.cli.filter_run import Outputs, filter_input, filter_scores
    from prm.cli.score_first import Scoring
    from prm.scores.filtering import Rules

    rules = Rules(min_reward, max_reward, thresholds or {}, unit, top_share, within, missing)
    outputs = Outputs(output, dropped, overwrite)
    if scores is not None:
        return filter_scores(
            scores, data, format, rules, outputs, aggregation, aggregation_overrides, model
        )
    assert model is not None
    assert input is not None
    scoring = Scoring(model, aggregation, aggregation_overrides, device, max_tokens)
    return filter_input(scoring, input, format, rules, outputs)


_CONFLICTS = (("SCORES", "--input"), ("--data", "--input"))
_NEEDS = (
    ("--data", "SCORES"),
    ("--input", "--model"),
    ("--format", "--input", "--data"),
    ("--device", "--input"),
)
