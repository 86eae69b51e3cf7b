"""PandaLM's test set: pairs of responses, each judged by three raters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from prm.data.formats.base import (
    ADJUSTED,
    VERDICTS,
    OutcomeFormat,
    judged_pair,
    meaning_field,
    name_field,
    text_field,
)
from prm.data.formats.verdicts import Winner, majority, signed, votes
from prm.errors import ConfigError
from prm.records import Outcome

_VERDICTS: dict[int, Winner] = {0: "tie", 1: 0, 2: 1}
"""What a rater wrote, and which response it prefers."""


class PandaLM(OutcomeFormat):
    """Rows with `instruction`, `input`, `response1`, `response2` and `annotator1` to `annotator3`.

    Supervises helpfulness: the response that most raters prefer is better; without a majority for
    one, the pair is a tie. All three votes are kept, a tie as half a vote for each response. Six
    published rows hold the response "True" as a JSON true; they are read as text and say so.

    Args:
        ties: Whether tied pairs are kept as ties or left out (`drop`).

    Example:
        >>> row = {"idx": 0, "instruction": "Name a prime.", "input": "", "response1": "8"}
        >>> row |= {"response2": "7", "annotator1": 2, "annotator2": 2, "annotator3": 0}
        >>> pair = PandaLM().records(row, "a.json[0]")[0]
        >>> pair.responses, pair.votes
        (('7', '8'), (2.5, 0.5))

    Source:
        Wang et al., "PandaLM: An Automatic Evaluation Benchmark for LLM Instruction Tuning
        Optimization", 2023.
    """

    objectives: Mapping[str, str] = {"helpfulness": "The response that most raters prefer."}

    def __init__(self, *, ties: Literal["keep", "drop"] = "keep") -> None:
        if ties not in ("keep", "drop"):
            raise ConfigError("ties is wrong", expected="keep or drop", got=ties)
        self.ties = ties

    def records(self, row: Mapping[str, Any], origin: str) -> list[Outcome]:
        """Return the row's one comparison; none if it is a tie and ties are left out."""
        verdicts = [
            meaning_field(row, f"annotator{rater}", _VERDICTS, origin) for rater in (1, 2, 3)
        ]
        better = majority(verdicts)
        pair = judged_pair(
            _prompt(row, origin),
            (_response(row, "response1", origin), _response(row, "response2", origin)),
            None if better == "tie" else better,
            votes=votes(verdicts),
            objective="helpfulness",
            id=name_field(row, "idx", origin),
            metadata=_metadata(row) | {VERDICTS: signed(verdicts)},
            origin=origin,
        )
        return [] if pair.is_tie and self.ties == "drop" else [pair]


def _prompt(row: Mapping[str, Any], origin: str) -> str:
    parts = (text_field(row, "instruction", origin), text_field(row, "input", origin))
    return "\n\n".join(part for part in parts if part)


def _response(row: Mapping[str, Any], name: str, origin: str) -> str:
    value = row.get(name)
    return str(value) if isinstance(value, bool) else text_field(row, name, origin)


def _metadata(row: Mapping[str, Any]) -> dict[str, Any]:
    metadata = {key: row[key] for key in ("motivation_app", "cmp_key") if key in row}
    if any(isinstance(row[name], bool) for name in ("response1", "response2")):
        metadata[ADJUSTED] = "a response that the file holds as true or false is read as text"
    return metadata
