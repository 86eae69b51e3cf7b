"""TRL's preference format: pairs as text or conversations, with or without their prompt."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from prm.data.formats.base import (
    OutcomeFormat,
    list_field,
    name_field,
    required_field,
    text_field,
    wrong_field,
)
from prm.data.formats.message_pairs import split_conversations
from prm.data.formats.verdicts import refuse_contradictions
from prm.records import Comparison, Message, Outcome


class TRLPreference(OutcomeFormat):
    """Rows with `chosen`, `rejected` and, where it is explicit, `prompt`.

    Supervises one objective; `chosen` is better. The texts are text or lists of messages. An
    implicit prompt is what conversations share before their last turn, or what texts share up to
    the last white space before they differ: a guess, so prefer rows with a prompt. `margin`
    (strength), `votes`, `objective`, `id` and `group` are read where present.

    Args:
        objective: Name of the objective that the pairs compare, where a row does not name it.

    Example:
        >>> row = {"chosen": "Name a prime. 7", "rejected": "Name a prime. 8"}
        >>> pair = TRLPreference().records(row, "a.jsonl:1")[0]
        >>> pair.prompt, pair.responses
        ('Name a prime.', (' 7', ' 8'))

    Source:
        von Werra et al., "TRL: Transformer Reinforcement Learning", 2020; dataset formats.
    """

    def __init__(self, *, objective: str = "helpfulness") -> None:
        self.objective = objective
        self.objectives = {objective: "The chosen response is better than the rejected one."}

    def records(self, row: Mapping[str, Any], origin: str) -> list[Outcome]:
        """Return the row's one comparison."""
        split = _split_text if isinstance(row.get("chosen"), str) else _split_messages
        prompt, responses = split(row, origin)
        refuse_contradictions(row, "chosen", "rejected", origin)
        pair = Comparison(
            prompt,
            responses,
            objective=name_field(row, "objective", origin) or self.objective,
            strength=row.get("margin"),
            votes=row.get("votes"),
            id=name_field(row, "id", origin),
            group=name_field(row, "group", origin),
            origin=origin,
        )
        return [pair]


def _split_text(row: Mapping[str, Any], origin: str) -> tuple[str, tuple[str, str]]:
    chosen, rejected = text_field(row, "chosen", origin), text_field(row, "rejected", origin)
    if row.get("prompt") is not None:
        return text_field(row, "prompt", origin), (chosen, rejected)
    shared = _shared_words(chosen, rejected)
    if not shared:
        raise wrong_field("prompt", "text, or texts that start alike", None, origin)
    return shared, (chosen[len(shared) :], rejected[len(shared) :])


def _split_messages(row: Mapping[str, Any], origin: str) -> tuple[list[Message], tuple[str, str]]:
    required_field(row, "chosen", "text or a list of messages", origin)
    prompt = [] if row.get("prompt") is None else list_field(row, "prompt", origin)
    whole = {name: prompt + list_field(row, name, origin) for name in ("chosen", "rejected")}
    whole["tools"] = row.get("tools") or []
    return split_conversations(whole, "chosen", "rejected", origin)


def _shared_words(first: str, second: str) -> str:
    """Return the words that both texts start with."""
    places = enumerate(zip(first, second, strict=False))
    end = next((at for at, (a, b) in places if a != b), min(len(first), len(second)))
    return re.sub(r"\s*\S*\Z", "", first[:end])
