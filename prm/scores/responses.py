"""`ResponseScore`: what a model says about one response, objective by objective."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar

import torch
from torch import Tensor

from prm.records import NONE, Outcome, Rating, named
from prm.scores.rows import ResponseRow, record_columns, row_of
from prm.spec import RewardSpec
from prm.trees.prompts import DroppedRecord
from prm.trees.tokenize import TokenizedResponses
from prm.trees.units import ResponseSet


@dataclass(frozen=True, slots=True)
class ResponseScore:
    """What a model says about one response.

    Args:
        id: Id of the row that the response is from; with `response` it is unique.
        group: Responses with the same group answer the same prompt.
        response: Index of the response in the row it came from.
        scores: Objective to score, in the head's units; `None` if it was not scored.
        spreads: Objective to the spread of its score, for heads that have one.
        utilities: Objective to normalized score of which more is better, what is aggregated.
        reward: The aggregated utilities, shaped as the spec says; `None` if there is none.
        aggregation: Name of the objective aggregation.
        num_truncated: 1 if the response was cut off at `max_length`.
        reason: Why there is no reward. Empty if there is one.
        gates: Objective to the weight that the prompt gives it, for a model with a gate.
    """

    id: str
    group: str
    response: int
    scores: Mapping[str, float | None]
    spreads: Mapping[str, float] | None
    utilities: Mapping[str, float | None]
    reward: float | None
    aggregation: str
    num_truncated: int = 0
    reason: str = ""
    gates: Mapping[str, float | None] | None = None

    step_logits: ClassVar[Mapping[str, tuple[float | None, ...]]] = NONE
    step_probabilities: ClassVar[Mapping[str, tuple[float | None, ...]]] = NONE
    probabilities: ClassVar[tuple[float | None, ...]] = ()

    def to_row(self) -> dict[str, Any]:
        """Return the score as one JSON row."""
        return row_of(ResponseRow, self)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> ResponseScore:
        """Return the score that `to_row` wrote.

        Raises:
            KeyError: A field is missing.
        """
        return cls(**{name: row[name] for name in cls.__slots__})


RESPONSE = "response"
"""Metadata key for the index of a response in the row it came from."""


def single_responses(records: Iterable[Outcome]) -> Iterator[Rating]:
    """Yield each distinct response of each row once, as a rating of its own.

    Its id is that of the row; its index within the row is kept in the metadata.

    Example:
        >>> from prm.records import Comparison
        >>> pair = Comparison("2 + 2?", ["4", "5"], objective="factuality", id="a")
        >>> [(rating.id, rating.response) for rating in single_responses([pair])]
        [('a', '4'), ('a', '5')]
    """
    for found in _rows(records):
        name = _row_id(found)
        places = [place for own in found.places for place in own]
        for index, response in enumerate(found.responses):
            rating = Rating(
                found.prompt,
                response,
                _values(found, index),
                group=found.group,
                metadata={**found.records[0].metadata, RESPONSE: places.index(index)},
                origin=found.records[0].origin,
            )
            yield named(rating, name, found.source)


def _rows(records: Iterable[Outcome]) -> Iterator[ResponseSet]:
    """Group the records of each row by their prompt; records without an origin stay alone."""
    for _, members in groupby(enumerate(records), key=lambda item: _row_key(*item)):
        yield ResponseSet.of([record for _, record in members])


def _row_key(index: int, record: Outcome) -> tuple[object, ...]:
    return (record.origin or index, record.source, record.group, repr(record.prompt))


def _row_id(found: ResponseSet) -> str:
    """Return the id of the row that a set's records come from."""
    first = found.records[0].id
    base, dot, part = first.rpartition(".")
    return base if dot and part == "0" and len(found.records) > 1 else first


def _values(found: ResponseSet, index: int) -> dict[str, float | None]:
    """Return what ratings say about one response of a set."""
    values: dict[str, float | None] = {}
    for record, places in zip(found.records, found.places, strict=True):
        if places == (index,):
            values |= record.values
    return values


def score_responses(
    responses: ResponseSet,
    tokens: TokenizedResponses | DroppedRecord,
    scores: Tensor,
    spreads: Tensor,
    spec: RewardSpec,
    gates: Tensor | None = None,
) -> list[ResponseScore]:
    """Return the scores of all responses of a set, record by record.

    Args:
        responses: The set; each record is a rating, of one response.
        tokens: What the model read of it, or why it was left out.
        scores: Scores, shape `[branch, objective]`.
        spreads: Their spreads, NaN where there is none; same shape.
        spec: The spec that says what scores mean and how they are aggregated.
        gates: Weights that the prompt gives the objectives, for a model with a gate; same shape.
    """
    assert spec.objective_aggregation is not None
    utilities, rewards = spec.utilities(scores.double()), spec.rewards(scores.double(), gates)
    results = []
    for record, places in zip(responses.records, responses.places, strict=True):
        branch = None if isinstance(tokens, DroppedRecord) else tokens.branches[places[0]]
        results.append(
            ResponseScore(
                **record_columns(record),
                response=int(record.metadata.get(RESPONSE, 0)),
                scores=_named(spec, None if branch is None else scores[branch]),
                spreads=_spreads(spec, None if branch is None else spreads[branch]),
                utilities=_named(spec, None if branch is None else utilities[branch]),
                reward=None if branch is None else _number(rewards[branch]),
                aggregation=spec.objective_aggregation.name,
                num_truncated=_truncated(tokens, places[0]),
                reason=_reason(tokens, branch, rewards),
                gates=None if branch is None or gates is None else _named(spec, gates[branch]),
            )
        )
    return results


def _named(spec: RewardSpec, values: Tensor | None) -> dict[str, float | None]:
    if values is None:
        return dict.fromkeys(spec.response_names)
    return {name: _number(value) for name, value in zip(spec.response_names, values, strict=True)}


def _spreads(spec: RewardSpec, values: Tensor | None) -> dict[str, float] | None:
    found = {name: value for name, value in _named(spec, values).items() if value is not None}
    return found or None


def _number(value: Tensor) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _truncated(tokens: TokenizedResponses | DroppedRecord, place: int) -> int:
    return 0 if isinstance(tokens, DroppedRecord) else int(tokens.truncated[place])


def _reason(tokens: TokenizedResponses | DroppedRecord, branch: int | None, rewards: Tensor) -> str:
    if isinstance(tokens, DroppedRecord):
        return str(tokens)
    if branch is None:
        return "; ".join(tokens.reasons)
    if not bool(torch.isfinite(rewards[branch])):
        return "the objectives give no finite reward; try float32"
    return ""
