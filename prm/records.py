"""Records: what a row of any dataset becomes before anything else looks at it.

A `Chain` is a prompt with ordered reasoning steps. Its labels are step labels: the probability in
[0, 1] that a step is correct (or has whatever other property an objective names). A `Comparison` is
a prompt with two or more responses, ranked for one objective. A `Rating` is a prompt and a response
with a value for each objective that was rated. A missing label is `None`, never a sentinel number.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

from prm import fields
from prm.fields import CORRECTNESS as CORRECTNESS
from prm.fields import Message as Message
from prm.fields import Prompt as Prompt
from prm.fields import StepLabels as StepLabels
from prm.fields import prompt_text as prompt_text

NONE: Mapping[str, Any] = MappingProxyType({})
"""Labels of a kind that a record has none of: step labels, ranks and values are asked of any."""


@dataclass(frozen=True, slots=True, init=False)
class Chain:
    """A prompt and an ordered list of reasoning steps, with step labels where they are known.

    The field names `prompt`, `completions`, `labels` are the stepwise-supervision columns of
    Hugging Face datasets.

    Args:
        prompt: The problem, as text or as a conversation that ends with the user's turn.
        completions: The reasoning steps, in order. An empty step is kept in place and never scored.
        labels: Objective name to one label per step, each in [0, 1] or `None`. A plain sequence
            stands for `{"correctness": sequence}`.
        id: Name of the row, unique within its source.
        source: Name of the dataset the row came from.
        group: Rows with the same group are about the same problem, as are rows with the same prompt
            in whatever layout; splits keep them together and intervals are clustered by them.
            Defaults to the prompt's text.
        metadata: Anything else the source says about the row; values must be JSON.
        origin: Where the row was read (`file:line`), for error messages; not part of equality.

    Raises:
        DataError: A field has the wrong type, there is no step, a label is outside [0, 1] or NaN,
            or an objective does not have exactly one label per step.

    Example:
        >>> chain = Chain("2 + 3 * 4 = ?", ["3 * 4 = 12", "2 + 12 = 15"], [1, 0])
        >>> chain.labels["correctness"], chain.first_error()
        ((1.0, 0.0), 1)
    """

    prompt: Prompt
    completions: tuple[str, ...]
    labels: Mapping[str, StepLabels] = field(default_factory=dict)
    id: str = ""
    source: str = ""
    group: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    origin: str = field(default="", compare=False)

    ranks: ClassVar[tuple[int, ...]] = ()
    values: ClassVar[Mapping[str, float | None]] = NONE

    def __init__(
        self,
        prompt: str | Sequence[Message],
        completions: Sequence[str],
        labels: Mapping[str, Sequence[float | None]] | Sequence[float | None] | None = None,
        *,
        id: str = "",
        source: str = "",
        group: str = "",
        metadata: Mapping[str, Any] | None = None,
        origin: str = "",
    ) -> None:
        where = _where(origin, id)
        steps = fields.check_steps(completions, where)
        checked_prompt = fields.check_prompt(prompt, where)
        fields.check_encodable((id, prompt_text(checked_prompt), *steps), where)
        _set(
            self,
            prompt=checked_prompt,
            completions=steps,
            labels=fields.check_labels(labels, len(steps), where),
            id=id,
            source=source,
            group=group or prompt_text(checked_prompt),
            metadata=dict(metadata or {}),
            origin=origin,
        )

    @property
    def objectives(self) -> tuple[str, ...]:
        """The objectives that have step labels."""
        return tuple(self.labels)

    @property
    def texts(self) -> tuple[str, ...]:
        """What follows the prompt: the steps."""
        return self.completions

    @property
    def records(self) -> tuple[Chain]:
        """The chain itself, as everything that batches are counted in names its records."""
        return (self,)

    def first_error(self, objective: str = CORRECTNESS, threshold: float = 0.5) -> int | None:
        """Return the 0-based index of the first step labeled below `threshold`.

        Returns:
            The index; -1 if every step is labeled and none is below; `None` if the labels do not
            decide it (no labels, or an unlabeled step comes before any labeled error).
        """
        values = self.labels.get(objective)
        if values is None:
            return None
        for index, value in enumerate(values):
            if value is None:
                return None
            if value < threshold:
                return index
        return -1

    def to_row(self) -> dict[str, Any]:
        """Return the canonical JSON row: `labels` is a list when only correctness is labeled."""
        labels: Any = {name: list(values) for name, values in self.labels.items()}
        if set(labels) == {CORRECTNESS}:
            labels = labels[CORRECTNESS]
        row: dict[str, Any] = {
            "id": self.id,
            "prompt": fields.prompt_row(self.prompt),
            "completions": list(self.completions),
            "labels": labels or None,
            **_about(self),
        }
        return row

    def with_labels(self, labels: Mapping[str, Sequence[float | None]]) -> Chain:
        """Return the same chain with other labels."""
        return Chain(
            self.prompt,
            self.completions,
            labels,
            id=self.id,
            source=self.source,
            group=self.group,
            metadata=self.metadata,
            origin=self.origin,
        )


@dataclass(frozen=True, slots=True, init=False)
class Comparison:
    """A prompt and two or more responses, ranked for one objective.

    Args:
        prompt: The prompt, as text or as a conversation that ends with the user's turn.
        responses: The responses, two or more.
        ranks: One rank per response, 0 for the best; equal ranks are a tie. By default the
            responses are in order, the best one first.
        objective: Name of the objective that the responses were compared for.
        strength: How much better the first response of a pair is, in the source's units, 0 or more;
            pairs only.
        votes: Raters that preferred each response of a pair (a tie gives half a vote to both);
            pairs only.
        id: Name of the row, unique within its source.
        source: Name of the dataset the row came from.
        group: Rows with the same group are about the same prompt, as are rows with the same prompt
            in whatever layout; splits keep them together and intervals are clustered by them.
            Defaults to the prompt's text.
        metadata: Anything else the source says about the row; values must be JSON.
        origin: Where the row was read (`file:line`), for error messages; not part of equality.

    Raises:
        DataError: A field has the wrong type, there are fewer than two responses, ranks do not
            start at 0 or leave one out, or strength and votes do not fit the ranks.

    Example:
        >>> pair = Comparison("Name a prime.", ["7", "8"], objective="factuality")
        >>> pair.ranks, pair.is_tie
        ((0, 1), False)
    """

    prompt: Prompt
    responses: tuple[str, ...]
    ranks: tuple[int, ...]
    objective: str
    strength: float | None = None
    votes: tuple[float, ...] | None = None
    id: str = ""
    source: str = ""
    group: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    origin: str = field(default="", compare=False)

    labels: ClassVar[Mapping[str, StepLabels]] = NONE
    values: ClassVar[Mapping[str, float | None]] = NONE

    def __init__(
        self,
        prompt: str | Sequence[Message],
        responses: Sequence[str],
        ranks: Sequence[int] | None = None,
        *,
        objective: str,
        strength: float | None = None,
        votes: Sequence[float] | None = None,
        id: str = "",
        source: str = "",
        group: str = "",
        metadata: Mapping[str, Any] | None = None,
        origin: str = "",
    ) -> None:
        where = _where(origin, id)
        texts = fields.check_responses(responses, where)
        checked_prompt = fields.check_prompt(prompt, where)
        fields.check_encodable((id, prompt_text(checked_prompt), *texts), where)
        checked_ranks = fields.check_ranks(ranks, len(texts), where)
        _set(
            self,
            prompt=checked_prompt,
            responses=texts,
            ranks=checked_ranks,
            objective=fields.check_objective(objective, where),
            strength=fields.check_strength(strength, checked_ranks, where),
            votes=fields.check_votes(votes, checked_ranks, where),
            id=id,
            source=source,
            group=group or prompt_text(checked_prompt),
            metadata=dict(metadata or {}),
            origin=origin,
        )

    @property
    def is_tie(self) -> bool:
        """Whether all responses have the same rank."""
        return not any(self.ranks)

    @property
    def objectives(self) -> tuple[str, ...]:
        """The objective, as every record names what it supervises."""
        return (self.objective,)

    def reordered(self, order: Sequence[int]) -> Comparison:
        """Return the comparison with its responses, but not its ranks and votes, in another order.

        Args:
            order: Index of the response that takes each place.
        """
        twin = copy.copy(self)
        _set(twin, responses=tuple(self.responses[index] for index in order))
        return twin

    def to_row(self) -> dict[str, Any]:
        """Return the canonical JSON row: `chosen` and `rejected` for a decided pair."""
        row: dict[str, Any] = {"id": self.id, "prompt": fields.prompt_row(self.prompt)}
        if len(self.responses) == 2 and not self.is_tie:
            best = self.ranks.index(0)
            row |= {"chosen": self.responses[best], "rejected": self.responses[1 - best]}
            row |= {"margin": self.strength}
            row |= {
                "votes": None if self.votes is None else [self.votes[best], self.votes[1 - best]]
            }
        else:
            row |= {"responses": list(self.responses), "ranks": list(self.ranks)}
            row |= {"votes": None if self.votes is None else list(self.votes)}
        return row | {
            "objective": self.objective,
            **_about(self),
        }


@dataclass(frozen=True, slots=True, init=False)
class Rating:
    """A prompt and a response, with a value for each objective that was rated.

    Args:
        prompt: The prompt, as text or as a conversation that ends with the user's turn.
        response: The response.
        values: Objective name to a number in the objective's units (a 0/1 label, a probability, a
            grade); `None` where it was not rated. Empty if nothing is known.
        id: Name of the row, unique within its source.
        source: Name of the dataset the row came from.
        group: Rows with the same group are about the same prompt. Defaults to the prompt's text.
        metadata: Anything else the source says about the row; values must be JSON.
        origin: Where the row was read (`file:line`), for error messages; not part of equality.

    Raises:
        DataError: A field has the wrong type, or a value is not a finite number.

    Example:
        >>> Rating("Name a prime.", "7", {"factuality": True, "safety": None}).objectives
        ('factuality',)
    """

    prompt: Prompt
    response: str
    values: Mapping[str, float | None] = field(default_factory=dict)
    id: str = ""
    source: str = ""
    group: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    origin: str = field(default="", compare=False)

    labels: ClassVar[Mapping[str, StepLabels]] = NONE
    ranks: ClassVar[tuple[int, ...]] = ()

    def __init__(
        self,
        prompt: str | Sequence[Message],
        response: str,
        values: Mapping[str, float | None] | None = None,
        *,
        id: str = "",
        source: str = "",
        group: str = "",
        metadata: Mapping[str, Any] | None = None,
        origin: str = "",
    ) -> None:
        where = _where(origin, id)
        text = fields.check_text("response", response, where)
        checked_prompt = fields.check_prompt(prompt, where)
        fields.check_encodable((id, prompt_text(checked_prompt), text), where)
        _set(
            self,
            prompt=checked_prompt,
            response=text,
            values=fields.check_values(values, where),
            id=id,
            source=source,
            group=group or prompt_text(checked_prompt),
            metadata=dict(metadata or {}),
            origin=origin,
        )

    @property
    def responses(self) -> tuple[str, ...]:
        """The response, as every record names what it is about."""
        return (self.response,)

    @property
    def objectives(self) -> tuple[str, ...]:
        """The objectives that have a value."""
        return tuple(name for name, value in self.values.items() if value is not None)

    def with_values(self, values: Mapping[str, float | None]) -> Rating:
        """Return the same response with other values."""
        twin = copy.copy(self)
        _set(twin, values=fields.check_values(values, _where(self.origin, self.id)))
        return twin

    def to_row(self) -> dict[str, Any]:
        """Return the canonical JSON row."""
        return {
            "id": self.id,
            "prompt": fields.prompt_row(self.prompt),
            "response": self.response,
            "ratings": dict(self.values),
            **_about(self),
        }


Outcome = Comparison | Rating
"""A record about whole responses."""

Record = Chain | Comparison | Rating
"""Any record."""

AnyRecord = TypeVar("AnyRecord", Chain, Comparison, Rating)


def named(record: AnyRecord, id: str, source: str) -> AnyRecord:
    """Return the same record under another id and source."""
    twin = copy.copy(record)
    _set(twin, id=id, source=source)
    return twin


NAMES = ("id", "source", "group")
"""Fields of every record that say which one it is: text, empty where nothing is known."""


def _about(record: Record) -> dict[str, Any]:
    """Return the end of a record's row: what it is called but its id, which comes first."""
    names = {name: getattr(record, name) for name in NAMES if name != "id"}
    return {**names, "metadata": dict(record.metadata)}


def _set(record: object, **values: object) -> None:
    for name, value in values.items():
        object.__setattr__(record, name, value)


def _where(origin: str, id: str) -> str | None:
    return ", ".join(part for part in (origin, f"row {id!r}" if id else "") if part) or None
