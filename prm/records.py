"""Records: what a row of any dataset becomes before anything else looks at it.

A `Chain` is a prompt with ordered reasoning steps. Its labels are step labels: the probability in
[0, 1] that a step is correct (or has whatever other property an objective names). A `Comparison` is
a prompt with two or more responses, ranked for one objective. A `Rating` is a prompt and a response
with a value for each objective that was rated. A missing label is `None`, never a sentinel number.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard, TypeVar

from prm.errors import DataError

CORRECTNESS = "correctness"
"""Name of the objective that a plain `labels` column supervises."""

Message = Mapping[str, str]
"""One turn of a conversation: `{"role": ..., "content": ...}`."""

Prompt = str | tuple[Message, ...]
"""A prompt as text, or a conversation that ends with the user's turn."""

StepLabels = tuple[float | None, ...]


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
        group: Rows with the same group are about the same problem; splits keep a group together
            and intervals are clustered by it. Defaults to the prompt's text.
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
        steps = _check_steps(completions, where)
        checked_prompt = _check_prompt(prompt, where)
        check_encodable((id, prompt_text(checked_prompt), *steps), where)
        _set(
            self,
            prompt=checked_prompt,
            completions=steps,
            labels=_check_labels(labels, len(steps), where),
            id=id,
            source=source,
            group=group or prompt_text(checked_prompt),
            metadata=dict(metadata or {}),
            origin=origin,
        )

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
            "prompt": _prompt_row(self.prompt),
            "completions": list(self.completions),
            "labels": labels or None,
            "source": self.source,
            "group": self.group,
            "metadata": dict(self.metadata),
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
        group: Rows with the same group are about the same prompt; splits keep a group together and
            intervals are clustered by it. Defaults to the prompt's text.
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
        texts = _check_responses(responses, where)
        checked_prompt = _check_prompt(prompt, where)
        check_encodable((id, prompt_text(checked_prompt), *texts), where)
        checked_ranks = _check_ranks(ranks, len(texts), where)
        _set(
            self,
            prompt=checked_prompt,
            responses=texts,
            ranks=checked_ranks,
            objective=_check_objective(objective, where),
            strength=_check_strength(strength, checked_ranks, where),
            votes=_check_votes(votes, checked_ranks, where),
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
        row: dict[str, Any] = {"id": self.id, "prompt": _prompt_row(self.prompt)}
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
            "source": self.source,
            "group": self.group,
            "metadata": dict(self.metadata),
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
        text = _check_response("response", response, where)
        checked_prompt = _check_prompt(prompt, where)
        check_encodable((id, prompt_text(checked_prompt), text), where)
        _set(
            self,
            prompt=checked_prompt,
            response=text,
            values=_check_values(values, where),
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
        _set(twin, values=_check_values(values, _where(self.origin, self.id)))
        return twin

    def to_row(self) -> dict[str, Any]:
        """Return the canonical JSON row."""
        return {
            "id": self.id,
            "prompt": _prompt_row(self.prompt),
            "response": self.response,
            "ratings": dict(self.values),
            "source": self.source,
            "group": self.group,
            "metadata": dict(self.metadata),
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


def prompt_text(prompt: str | Sequence[Message]) -> str:
    """Return a prompt as one text; a conversation becomes the contents of its turns."""
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(message["content"] for message in prompt)


def _set(record: object, **values: object) -> None:
    for name, value in values.items():
        object.__setattr__(record, name, value)


def _where(origin: str, id: str) -> str | None:
    return ", ".join(part for part in (origin, f"row {id!r}" if id else "") if part) or None


def _prompt_row(prompt: Prompt) -> str | list[Message]:
    return prompt if isinstance(prompt, str) else list(prompt)


def check_encodable(texts: Sequence[str], where: str | None) -> None:
    """Refuse lone surrogates, which JSON can escape and no tokenizer or file can hold."""
    for text in texts:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(
                "text holds half of a surrogate pair",
                expected="valid Unicode",
                got=ascii(text[error.start : error.end]),
                where=where,
            ) from None


def _check_prompt(prompt: object, where: str | None) -> Prompt:
    if isinstance(prompt, str):
        return prompt
    expected = "text or a list of {'role', 'content'} messages"
    if not isinstance(prompt, Sequence) or not prompt:
        raise DataError("field 'prompt' is wrong", expected=expected, got=prompt, where=where)
    for message in prompt:
        ok = isinstance(message, Mapping) and all(
            isinstance(message.get(key), str) for key in ("role", "content")
        )
        if not ok:
            raise DataError("field 'prompt' is wrong", expected=expected, got=message, where=where)
    return tuple(dict(message) for message in prompt)


def _check_steps(completions: object, where: str | None) -> tuple[str, ...]:
    if isinstance(completions, str) or not isinstance(completions, Sequence):
        raise DataError(
            "field 'completions' is wrong",
            expected="a list of step texts",
            got=completions,
            where=where,
        )
    for index, step in enumerate(completions):
        if not isinstance(step, str):
            raise DataError(
                f"field 'completions[{index}]' is wrong", expected="text", got=step, where=where
            )
    if not any(step.strip() for step in completions):
        raise DataError(
            "field 'completions' has no step", expected="at least one non-empty step", where=where
        )
    return tuple(completions)


def _check_labels(labels: object, num_steps: int, where: str | None) -> dict[str, StepLabels]:
    if labels is None:
        return {}
    if not isinstance(labels, Mapping):
        labels = {CORRECTNESS: labels}
    return {
        str(name): _check_objective_labels(str(name), values, num_steps, where)
        for name, values in labels.items()
    }


def _check_objective_labels(
    name: str, values: object, num_steps: int, where: str | None
) -> StepLabels:
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise DataError(
            f"labels of {name!r} are wrong", expected="a list of numbers", got=values, where=where
        )
    if len(values) != num_steps:
        raise DataError(
            f"labels of {name!r} do not match the steps",
            expected=f"{num_steps} labels, one per step",
            got=len(values),
            where=where,
        )
    return tuple(_check_label(name, index, value, where) for index, value in enumerate(values))


def _check_label(name: str, index: int, value: object, where: str | None) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, int | float) and not math.isnan(value) and 0 <= value <= 1:
        return float(value)
    raise DataError(
        f"label {index} of {name!r} is wrong",
        expected="a probability in [0, 1], true, false or null",
        got=value,
        where=where,
        fix="Map ratings with the format's options; leave unknown labels null",
    )


def _check_responses(responses: object, where: str | None) -> tuple[str, ...]:
    if isinstance(responses, str) or not isinstance(responses, Sequence) or len(responses) < 2:
        raise DataError(
            "field 'responses' is wrong",
            expected="a list of two or more texts",
            got=responses,
            where=where,
        )
    return tuple(
        _check_response(f"responses[{index}]", response, where)
        for index, response in enumerate(responses)
    )


def _check_response(name: str, response: object, where: str | None) -> str:
    if not isinstance(response, str):
        raise DataError(f"field {name!r} is wrong", expected="text", got=response, where=where)
    return response


def _check_objective(name: object, where: str | None) -> str:
    if not isinstance(name, str) or not name.strip():
        raise DataError("field 'objective' is wrong", expected="a name", got=name, where=where)
    return name


def _check_ranks(ranks: object, num_responses: int, where: str | None) -> tuple[int, ...]:
    if ranks is None:
        return tuple(range(num_responses))
    expected = f"{num_responses} whole numbers that start at 0 and leave none out, 0 for the best"
    values = list(ranks) if isinstance(ranks, Sequence) and not isinstance(ranks, str) else []
    whole = all(isinstance(rank, int) and not isinstance(rank, bool) for rank in values)
    if not whole or len(values) != num_responses or set(values) != set(range(len(set(values)))):
        raise DataError("field 'ranks' is wrong", expected=expected, got=ranks, where=where)
    return tuple(values)


def _check_strength(value: object, ranks: Sequence[int], where: str | None) -> float | None:
    if value is None:
        return None
    if not _is_number(value) or value < 0 or sorted(ranks) != [0, 1]:
        raise DataError(
            "strength is wrong",
            expected="a number of 0 or more, for a pair that is not a tie",
            got=value,
            where=where,
        )
    return float(value)


def _check_votes(
    votes: object, ranks: Sequence[int], where: str | None
) -> tuple[float, ...] | None:
    if votes is None:
        return None
    values = list(votes) if isinstance(votes, Sequence) and not isinstance(votes, str) else []
    right = len(ranks) == len(values) == 2 and all(_is_number(v) and v >= 0 for v in values)
    if not right or sum(values) == 0:
        raise DataError(
            "votes are wrong",
            expected="two numbers of 0 or more, one per response of a pair, not both 0",
            got=votes,
            where=where,
        )
    return tuple(float(value) for value in values)


def _check_values(values: object, where: str | None) -> dict[str, float | None]:
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise DataError("ratings are wrong", expected="objective: number", got=values, where=where)
    for name, value in values.items():
        _check_objective(name, where)
        if value is not None and not _is_number(value) and not isinstance(value, bool):
            raise DataError(
                f"rating of {name!r} is wrong",
                expected="a finite number, true, false or null",
                got=value,
                where=where,
                fix="Map other grades with the format's options; leave unknown ones null",
            )
    return {str(k): None if value is None else float(value) for k, value in values.items()}


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
