"""Records: what a row of any dataset becomes before anything else looks at it.

A `Chain` is a prompt with ordered reasoning steps. Its labels are step labels: the probability in
[0, 1] that a step is correct (or has whatever other property an objective names). A missing label
is `None`, never a sentinel number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prm.errors import DataError

CORRECTNESS = "correctness"
"""Name of the objective that a plain `labels` column supervises."""

Message = Mapping[str, str]
"""One turn of a conversation: `{"role": ..., "content": ...}`."""

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

    prompt: str | tuple[Message, ...]
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
        where = ", ".join(part for part in (origin, f"row {id!r}" if id else "") if part) or None
        steps = _check_steps(completions, where)
        checked_prompt = _check_prompt(prompt, where)
        _check_encodable((id, prompt_text(checked_prompt), *steps), where)
        for name, value in {
            "prompt": checked_prompt,
            "completions": steps,
            "labels": _check_labels(labels, len(steps), where),
            "id": id,
            "source": source,
            "group": group or prompt_text(checked_prompt),
            "metadata": dict(metadata or {}),
            "origin": origin,
        }.items():
            object.__setattr__(self, name, value)

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
            "prompt": self.prompt if isinstance(self.prompt, str) else list(self.prompt),
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


def prompt_text(prompt: str | Sequence[Message]) -> str:
    """Return a prompt as one text; a conversation becomes the contents of its turns."""
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(message["content"] for message in prompt)


def _check_encodable(texts: Sequence[str], where: str | None) -> None:
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


def _check_prompt(prompt: object, where: str | None) -> str | tuple[Message, ...]:
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
