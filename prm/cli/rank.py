"""`prm rank`: the best of N responses to each prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prm.cli.options import check_options
from prm.data.formats import all_formats
from prm.data.formats.base import Format
from prm.errors import ConfigError

all_formats()  # so that every format can be named by its class alone


def rank(
    scores: Path | None = None,
    output: Path | None = None,
    top: int | None = None,
    model: Path | None = None,
    input: str | None = None,
    format: Format | None = None,
    prompt: str | None = None,
    responses: str | None = None,
    aggregation: str | None = None,
    aggregation_overrides: dict[str, Any] | None = None,
    device: str = "auto",
    max_tokens: int = 16384,
    overwrite: bool = False,
) -> int:
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

    Args:
        scores: Scores that `prm score` wrote, .jsonl or .parquet.
        output: File for the ranked rows, .jsonl or .parquet; without it the first are drawn.
        top: Keep the best so many of each prompt, those without a reward left out; by default all.
        model: Folder of the model that is to score; or that gave `scores`, if no spec lies beside
            them.
        input: File, folder, glob or dataset of candidates to score first.
        format: What its rows look like; by default as in `prm score`: one response to a row, or
            several as responses, or chosen and rejected.
        prompt: The prompt of `responses`.
        responses: JSON list of responses to rank.
        aggregation: Class (WeightedSum, WorstCase, ...), or YAML file; for chains min, product,
            mean, last, mean_logit or softmin; by default the rewards in the file, or the model's
            own.
        aggregation_overrides: Parameters to change, as JSON; --aggregation.weights.safety=2 is the
            short way to write {"weights.safety": 2}.
        device: Where the model scores: cpu, cuda, cuda:1, ...; auto takes a GPU if there is one.
        max_tokens: Tokens in one forward pass of the model.
        overwrite: Replace the output, and scores beside it, if they exist.

    Returns:
        1 if no response has a reward, else 0.
    """
    check_options(
        {
            "SCORES": scores,
            "--input": input,
            "--prompt": prompt,
            "--responses": responses,
            "--model": model,
            "--output": output,
            "--format": format,
            "--device": None if device == "auto" else device,
            "--overwrite": overwrite,
        },
        _CONFLICTS,
        _NEEDS,
    )
    if top is not None and top < 1:
        raise ConfigError("--top is wrong", expected="1 or more", got=top)
    if scores is None and input is None and prompt is None:
        raise ConfigError("there is nothing to rank", fix="Give SCORES, --input or --prompt")

    from prm.cli.rank_run import rank_responses, rank_scores
    from prm.cli.score_first import Scoring, score_first

    if scores is not None:
        return rank_scores(
            scores, output, top, aggregation, aggregation_overrides, model, overwrite=overwrite
        )
    assert model is not None
    scoring = Scoring(model, aggregation, aggregation_overrides, device, max_tokens)
    if prompt is not None and responses is not None:
        return rank_responses(scoring, prompt, responses, top)
    assert input is not None
    assert output is not None
    own = score_first(scoring, input, format, output, keep_text=True, overwrite=overwrite)
    return rank_scores(own, output, top, overwrite=overwrite)


_CONFLICTS = (
    ("SCORES", "--input"),
    ("SCORES", "--prompt"),
    ("--input", "--prompt"),
    ("--prompt", "--output"),
)
_NEEDS = (
    ("--input", "--model"),
    ("--input", "--output"),
    ("--prompt", "--responses"),
    ("--prompt", "--model"),
    ("--responses", "--prompt"),
    ("--format", "--input"),
    ("--device", "--input", "--prompt"),
    ("--overwrite", "--output"),
)
