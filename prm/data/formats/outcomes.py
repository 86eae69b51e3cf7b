"""The canonical format of comparisons and ratings, which `prm` writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prm.data.formats.base import (
    OutcomeFormat,
    list_field,
    mapping_field,
    record_fields,
    required_field,
    text_field,
)
from prm.data.formats.verdicts import refuse_contradictions
from prm.errors import DataError
from prm.messages import with_tools
from prm.records import Comparison, Outcome, Rating


class Outcomes(OutcomeFormat):
    """Rows with `prompt` and what is known about one or more responses; null is the same as absent.

    - `response`, with `ratings` (objective to number) where it was rated;
    - `chosen` and `rejected`, with `margin` and `votes` where known;
    - `responses` and `ranks` (0 for the best, equal for a tie), with `votes` where known;
    - `responses` alone, candidates to be scored: one unrated record for each.

    Supervises what the rows name in `objective` or `ratings`; more, chosen and rank 0 are better.
    `id`, `source`, `group` and `metadata` are read where present; other columns are ignored.

    Args:
        objective: Name of the objective of comparisons, where a row does not name it.

    Example:
        >>> row = {"prompt": "A prime?", "response": "7", "ratings": {"factuality": 1}}
        >>> Outcomes().records(row, "a.jsonl:1")[0].values
        {'factuality': 1.0}
    """

    def __init__(self, *, objective: str | None = None) -> None:
        self.objective = objective
        self.objectives = {objective: "The better response comes first."} if objective else {}

    def records(self, row: Mapping[str, Any], origin: str) -> list[Outcome]:
        """Return the row's comparison or rating, or one unrated record per candidate."""
        known = {name: value for name, value in row.items() if value is not None}
        fields = record_fields(known, origin)
        prompt = required_field(known, "prompt", "text or a list of messages", origin)
        prompt = with_tools(prompt, known.get("tools"), origin)
        if "response" in known:
            values = mapping_field(known, "ratings", origin) if "ratings" in known else None
            return [Rating(prompt, text_field(known, "response", origin), values, **fields)]
        if "responses" in known and "ranks" not in known:
            return _candidates(prompt, list_field(known, "responses", origin), fields)
        if "responses" not in known and not known.keys() & {"chosen", "rejected"}:
            raise DataError(
                "the row has no response",
                expected="response, responses, or chosen and rejected",
                got=f"fields {sorted(map(str, known))}",
                where=origin,
                fix="Is this the right format for the file?",
            )
        objective = known.get("objective", self.objective)
        if objective is None:
            raise DataError(
                "field 'objective' is missing",
                expected="the name of the objective that the responses were compared for",
                where=origin,
                fix="Name it in the row, or in the format's option `objective`",
            )
        return [_comparison(prompt, known, objective, fields, origin)]


def _candidates(prompt: Any, responses: list[Any], fields: dict[str, Any]) -> list[Outcome]:
    name = fields["id"]
    several = bool(name) and len(responses) > 1
    return [
        Rating(prompt, response, **{**fields, "id": f"{name}.{index}" if several else name})
        for index, response in enumerate(responses)
    ]


def _comparison(
    prompt: Any, row: Mapping[str, Any], objective: str, fields: dict[str, Any], origin: str
) -> Comparison:
    if "responses" in row:
        responses, ranks = list_field(row, "responses", origin), list_field(row, "ranks", origin)
    else:
        refuse_contradictions(row, "chosen", "rejected", origin)
        responses = [text_field(row, name, origin) for name in ("chosen", "rejected")]
        ranks = [0, 1]
    return Comparison(
        prompt,
        responses,
        ranks,
        objective=objective,
        strength=row.get("margin"),
        votes=row.get("votes"),
        **fields,
    )
