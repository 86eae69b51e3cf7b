"""The fields of records: what they may hold, and errors that say what came instead.

Each function takes a value of a row and `where` it stands, and returns it as a record keeps it, or
raises a `DataError`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from prm.errors import DataError
from prm.messages import Message as Message
from prm.messages import message_text, read_messages

CORRECTNESS = "correctness"
"""Name of the objective that a plain `labels` column supervises."""

Prompt = str | tuple[Message, ...]
"""A prompt as text, or a conversation that ends with the user's turn."""

StepLabels = tuple[float | None, ...]


def prompt_text(prompt: str | Sequence[Message]) -> str:
    """Return a prompt as one text; a conversation becomes what its turns say."""
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(map(message_text, prompt))


def prompt_row(prompt: Prompt) -> str | list[Message]:
    """Return a prompt as a JSON row holds it."""
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


def check_prompt(prompt: object, where: str | None) -> Prompt:
    """Return a prompt: text as it is, messages as a tuple."""
    if isinstance(prompt, str):
        return prompt
    return read_messages(prompt, where)


def check_steps(completions: object, where: str | None) -> tuple[str, ...]:
    """Return the steps of a chain as a tuple of texts, at least one of them not empty."""
    if not _is_list(completions):
        raise _wrong("completions", "a list of step texts", completions, where)
    for index, step in enumerate(completions):
        check_text(f"completions[{index}]", step, where)
    if not any(step.strip() for step in completions):
        raise DataError(
            "field 'completions' has no step", expected="at least one non-empty step", where=where
        )
    return tuple(completions)


def check_labels(labels: object, num_steps: int, where: str | None) -> dict[str, StepLabels]:
    """Return labels by objective, one per step; a plain list is of correctness."""
    if labels is None:
        return {}
    if not isinstance(labels, Mapping):
        labels = {CORRECTNESS: labels}
    return {
        str(name): _objective_labels(str(name), values, num_steps, where)
        for name, values in labels.items()
    }


def _objective_labels(name: str, values: object, num_steps: int, where: str | None) -> StepLabels:
    if not _is_list(values):
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
    return tuple(_label(name, index, value, where) for index, value in enumerate(values))


def _label(name: str, index: int, value: object, where: str | None) -> float | None:
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


def check_responses(responses: object, where: str | None) -> tuple[str, ...]:
    """Return two or more responses as a tuple of texts."""
    if not _is_list(responses) or len(responses) < 2:
        raise _wrong("responses", "a list of two or more texts", responses, where)
    return tuple(
        check_text(f"responses[{index}]", response, where)
        for index, response in enumerate(responses)
    )


def check_text(name: str, value: object, where: str | None) -> str:
    """Return the value of a field that must be text."""
    if not isinstance(value, str):
        raise _wrong(name, "text", value, where)
    return value


def check_objective(name: object, where: str | None) -> str:
    """Return the name of an objective."""
    if not isinstance(name, str) or not name.strip():
        raise _wrong("objective", "a name", name, where)
    return name


def check_ranks(ranks: object, num_responses: int, where: str | None) -> tuple[int, ...]:
    """Return one rank per response, 0 for the best; by default their order."""
    if ranks is None:
        return tuple(range(num_responses))
    expected = f"{num_responses} whole numbers that start at 0 and leave none out, 0 for the best"
    values = list(ranks) if _is_list(ranks) else []
    whole = all(isinstance(rank, int) and not isinstance(rank, bool) for rank in values)
    if not whole or len(values) != num_responses or set(values) != set(range(len(set(values)))):
        raise _wrong("ranks", expected, ranks, where)
    return tuple(values)


def check_strength(value: object, ranks: Sequence[int], where: str | None) -> float | None:
    """Return the strength of a preference, for a pair that is not a tie."""
    if value is None:
        return None
    if not is_number(value) or value < 0 or sorted(ranks) != [0, 1]:
        raise DataError(
            "strength is wrong",
            expected="a number of 0 or more, for a pair that is not a tie",
            got=value,
            where=where,
        )
    return float(value)


def check_votes(votes: object, ranks: Sequence[int], where: str | None) -> tuple[float, ...] | None:
    """Return the votes for each response of a pair."""
    if votes is None:
        return None
    values = list(votes) if _is_list(votes) else []
    right = len(ranks) == len(values) == 2 and all(is_number(v) and v >= 0 for v in values)
    if not right or sum(values) == 0:
        raise DataError(
            "votes are wrong",
            expected="two numbers of 0 or more, one per response of a pair, not both 0",
            got=votes,
            where=where,
        )
    return tuple(float(value) for value in values)


def check_values(values: object, where: str | None) -> dict[str, float | None]:
    """Return ratings by objective; a missing one is `None`."""
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise DataError("ratings are wrong", expected="objective: number", got=values, where=where)
    for name, value in values.items():
        check_objective(name, where)
        if value is not None and not is_number(value) and not isinstance(value, bool):
            raise DataError(
                f"rating of {name!r} is wrong",
                expected="a finite number, true, false or null",
                got=value,
                where=where,
                fix="Map other grades with the format's options; leave unknown ones null",
            )
    return {str(k): None if value is None else float(value) for k, value in values.items()}


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _wrong(field: str, expected: str, got: object, where: str | None) -> DataError:
    return DataError(f"field {field!r} is wrong", expected=expected, got=got, where=where)
