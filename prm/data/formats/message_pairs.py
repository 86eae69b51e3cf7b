"""Pairs of whole conversations as lists of messages: IFBench and RM-Bench as converted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prm.data.formats.base import SUBSET, OutcomeFormat, list_field, wrong_field
from prm.errors import DataError
from prm.messages import answer_text, read_messages, with_tools
from prm.records import Comparison, Message, Outcome


class MessagePairs(OutcomeFormat):
    """Rows with `text_chosen` and `text_rejected`: conversations that differ in their last turn.

    Supervises one objective; `text_chosen` is better. `domain` is kept as the subset and `id` in
    the metadata (RM-Bench repeats it). Of IFBench and RM-Bench, never train on it.

    Args:
        objective: Name of the objective that the pairs compare.

    Example:
        >>> ask = {"role": "user", "content": "Name a prime."}
        >>> row = {
        ...     "text_chosen": [ask, {"role": "assistant", "content": "7"}],
        ...     "text_rejected": [ask, {"role": "assistant", "content": "8"}],
        ... }
        >>> MessagePairs().records(row, "a.json[0]")[0].responses
        ('7', '8')

    Source:
        Peng et al., "Agentic Reward Modeling", 2025; Liu et al., "RM-Bench", 2024.
    """

    def __init__(self, *, objective: str = "helpfulness") -> None:
        self.objective = objective
        self.objectives = {objective: "The chosen response is better than the rejected one."}

    def records(self, row: Mapping[str, Any], origin: str) -> list[Outcome]:
        """Return the row's one comparison."""
        prompt, responses = split_conversations(row, "text_chosen", "text_rejected", origin)
        metadata = {SUBSET: row.get("domain"), "id": row.get("id")}
        return [
            Comparison(
                prompt, responses, objective=self.objective, metadata=metadata, origin=origin
            )
        ]


def split_conversations(
    row: Mapping[str, Any], chosen: str, rejected: str, origin: str
) -> tuple[list[Message], tuple[str, str]]:
    """Return the prompt that two conversations share, and the last turn of each.

    Args:
        row: The row that holds both conversations as lists of messages.
        chosen: Field of the better conversation.
        rejected: Field of the other one.
        origin: Where the row was read.

    Raises:
        DataError: A conversation does not end with an assistant's turn, or they differ before it.
    """
    prompt, better = _last_turn(row, chosen, origin)
    other_prompt, worse = _last_turn(row, rejected, origin)
    if prompt != other_prompt:
        raise DataError(
            f"{chosen!r} and {rejected!r} differ before the last turn",
            expected="one prompt with two responses",
            where=origin,
        )
    return list(with_tools(prompt, row.get("tools"), origin)), (better, worse)


def _last_turn(row: Mapping[str, Any], name: str, origin: str) -> tuple[list[Message], str]:
    turns = read_messages(list_field(row, name, origin), origin, name)
    if len(turns) < 2 or turns[-1]["role"] != "assistant":
        expected = "a conversation of two or more turns that ends with the assistant's"
        raise wrong_field(name, expected, [turn["role"] for turn in turns], origin)
    return list(turns[:-1]), answer_text(turns[-1], origin)
