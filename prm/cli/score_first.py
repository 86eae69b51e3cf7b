"""Scoring on the way to a ranking or a filter; the scores stay, so that it is done only once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prm.cli.inputs import choose_format, model_kind, survey_source
from prm.data.formats.base import Format
from prm.errors import ConfigError, OutputError
from prm.scores.rewrite import check_outputs

if TYPE_CHECKING:
    from prm.scoring.scorer import RewardScorer


@dataclass(frozen=True, slots=True)
class Scoring:
    """Options of a command that scores before it does something else.

    Args:
        model: Folder of the model.
        aggregation: As of `prm score`; so are the others.
        overrides: Parameters of the aggregation to change.
        device: Where the model runs.
        max_tokens: Tokens in one forward pass, at least 1.

    Raises:
        ConfigError: A number is out of range.
    """

    model: Path
    aggregation: str | None
    overrides: Mapping[str, Any] | None
    device: str
    max_tokens: int

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ConfigError("--max_tokens is wrong", expected="at least 1", got=self.max_tokens)

    def scorer(self) -> RewardScorer:
        """Load the model; raises as `load_scorer`."""
        from prm.cli.scoring import load_scorer, scorer_options

        return load_scorer(
            scorer_options(
                self.model,
                self.device,
                None,
                self.aggregation,
                None,
                self.overrides,
                self.max_tokens,
            )
        )


def scores_beside(output: Path) -> Path:
    """Return where the scores behind an output are kept.

    Example:
        >>> scores_beside(Path("ranked.parquet")).name
        'ranked.parquet.scores.jsonl'
    """
    return output.with_name(f"{output.name}.scores.jsonl")


def score_first(
    scoring: Scoring,
    input: str,
    format: Format | None,
    output: Path,
    *,
    keep_text: bool,
    overwrite: bool,
) -> Path:
    """Score an input into a file beside an output, and return that file.

    Raises:
        OutputError: The output, or the scores beside it, exist.
        PrmError: As `prm score`.
    """
    check_outputs(output, overwrite=overwrite)
    scores = scores_beside(output)
    if scores.exists() and not overwrite:
        raise OutputError(
            "the input is scored already",
            got=str(scores),
            fix=f"Give that file in the place of --input {input}, or --overwrite to score it again",
        )
    inputs = survey_source(input, choose_format(model_kind(scoring.model), format))
    scorer = scoring.scorer()

    from prm.cli.scoring import score_to_file

    score_to_file(scorer, inputs, scores, threshold=0.5, keep_text=keep_text, overwrite=overwrite)
    return scores
