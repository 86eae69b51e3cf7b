"""What is to be scored: its format, its records, and whether they fit the kind of model.

Nothing here imports torch before the records are read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from prm.cli.options import (
    OptionRules,
    OverwriteOptions,
    RowOptions,
    ScoringOptions,
    StoredOptions,
)
from prm.data.formats import Format
from prm.data.formats.hf_stepwise import HFStepwise
from prm.data.formats.outcomes import Outcomes
from prm.data.sources.source import OnError, Skipped, Source
from prm.errors import ConfigError, OutputError
from prm.records import Chain, Rating, Record
from prm.scoring.batch import Survey, survey

ANY = "preference"
"""Objective of pairs that name none: what a pair was compared for never changes a score."""


def model_kind(model: Path) -> str:
    """Return what a model scores: chains (`process`), whole responses (`outcome`), or `joint`.

    Raises:
        ConfigError: There is no such folder.
        SpecError: Its spec is missing or damaged.
    """
    if not model.is_dir():
        raise ConfigError("there is no such model folder", got=str(model), fix="Check --model")
    try:
        text = (model / "prm_config.json").read_text(encoding="utf-8")
        return str(json.loads(text)["kind"])
    except (OSError, ValueError, KeyError, TypeError):
        from prm.spec import RewardSpec  # imports torch, and says what is wrong

        return RewardSpec.load(model).kind


def choose_format(kind: str, given: Format | None, *, steps: bool = False) -> Format:
    """Return the format that is given, or the canonical one of what the model scores.

    Args:
        kind: As from `model_kind`.
        given: The format that was asked for.
        steps: Whether steps are scored even by a joint model.

    Raises:
        ConfigError: The model does not score what the format reads.
    """
    chosen = given or (HFStepwise() if steps or kind == "process" else Outcomes(objective=ANY))
    check_kind(kind, chains=chosen.kind == "steps")
    return chosen


def check_kind(kind: str, *, chains: bool) -> None:
    """Refuse chains for an outcome model, and whole responses for a process model.

    Raises:
        ConfigError: The model does not score them.
    """
    if kind == ("outcome" if chains else "process"):
        scored, other = ("responses", "steps") if chains else ("steps", "responses")
        raise ConfigError(
            f"the model scores {scored}, not {other}",
            expected=f"{scored} for a model of kind {kind}",
            got=other,
        )


def survey_source(path: str, format: Format, on_error: OnError) -> Survey:
    """Read an input once, so that a wrong row is found before the model is loaded.

    Rows that are left out are said to be.

    Raises:
        DataError: A row is wrong, or there is none.
    """
    from rich.console import Console

    records = ScorableRows(Source(path, format, on_error=on_error))
    with Console(stderr=True).status(f"checking {path}"):
        found = survey(records)
    say_skipped(path, records.skipped)
    return found


def say_skipped(path: str, skipped: Skipped) -> None:
    """Print how many rows of an input were left out, for each reason."""
    for line in skipped.lines():
        print(f"{path}: {line}")


class ScorableRows:
    """The chains or single responses of a source, as often as they are iterated.

    Args:
        source: Where they are read.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.skipped = Skipped()

    def __iter__(self) -> Iterator[Chain | Rating]:
        from prm.scores.responses import single_responses

        self.skipped = Skipped()
        records = self.source.records(self.skipped)
        return records if self.source.format.kind == "steps" else single_responses(records)


def scorable(records: Iterable[Record]) -> Iterator[Chain | Rating]:
    """Yield chains as they are, and after them each distinct response of the other records."""
    from prm.scores.responses import single_responses

    outcomes = []
    for record in records:
        if isinstance(record, Chain):
            yield record
        else:
            outcomes.append(record)
    yield from single_responses(outcomes)


@dataclass(frozen=True, kw_only=True)
class ScoreFirstOptions(RowOptions, ScoringOptions, OverwriteOptions, StoredOptions):
    """Scores, stored or to be made.

    Args:
        model: Folder of the model that is to score; or that gave `scores`, if no spec lies beside
            them.
        input: File, folder, glob or dataset to score first.
        format: What its rows look like; by default as in `prm score`.
        truncated: What happens to rows that were cut off at the model's max_length, whose end
            nobody knows: last, after all that was read to its end and passing no filter; keep,
            as if they were whole; or error.
    """

    CONFLICTS: ClassVar[OptionRules] = (("SCORES", "--input"),)
    NEEDS: ClassVar[OptionRules] = (("--input", "--model"),)

    input: str | None = None
    format: Format | None = None
    truncated: Literal["last", "keep", "error"] = "last"

    def score_first(self, output: Path, *, keep_text: bool, **changes: Any) -> Self:
        """Score the input into a file beside an output, and return this command for that file.

        The file stays there, so that scoring is done only once.

        Args:
            output: The output.
            keep_text: Whether the scores are to hold the texts.
            changes: Other options of the command that is returned.

        Raises:
            OutputError: The output, or the scores beside it, exist.
            PrmError: As `prm score`.
        """
        from prm.scores.rewrite import check_outputs

        assert self.model is not None
        assert self.input is not None
        check_outputs(output, overwrite=self.overwrite)
        scores = scores_beside(output)
        if scores.exists() and not self.overwrite:
            instead = f"Give that file in the place of --input {self.input}"
            raise OutputError(
                "the input is scored already",
                got=str(scores),
                fix=f"{instead}, or --overwrite to score it again",
            )
        chosen = choose_format(model_kind(self.model), self.format)
        inputs = survey_source(self.input, chosen, self.on_error)

        from prm.cli.scoring import load_scorer, score_to_file, scorer_options

        scorer = load_scorer(scorer_options(self.model, self))
        score_to_file(scorer, inputs, scores, keep_text=keep_text, overwrite=self.overwrite)
        done: dict[str, Any] = dict.fromkeys(
            ("input", "model", "format", "aggregation", "aggregation_overrides")
        )
        return replace(self, **(done | {"device": "auto", "scores": scores} | changes))


def scores_beside(output: Path) -> Path:
    """Return where the scores behind an output are kept.

    Example:
        >>> scores_beside(Path("ranked.parquet")).name
        'ranked.parquet.scores.jsonl'
    """
    return output.with_name(f"{output.name}.scores.jsonl")
