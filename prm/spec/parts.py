"""The parts of a `RewardSpec`: how texts become tokens, and what the heads mean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import date as Date
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from torch import Tensor

from prm.errors import SpecError
from prm.losses.readouts import ResponseReadout, are_levels, even_levels
from prm.losses.steps import Readout, num_columns
from prm.records import CORRECTNESS

STEP_MARKER = "<|step|>"

Opening = Literal["answer", "generation"]

LEVEL_TOLERANCE = 1e-6
"""How far quantile levels may be from symmetric, being written in decimals."""

Direction = Literal["maximize", "minimize"]

_GIVEN = ("messages", "tools", "documents", "add_generation_prompt")
"""What a chat template is given for each conversation."""


def check_fields(part: Any) -> None:
    """Refuse unknown options, and values of another type, in the plain fields of a dataclass."""
    for name, hint in get_type_hints(type(part)).items():
        value = getattr(part, name)
        if get_origin(hint) is Literal:
            expected, fits = " | ".join(get_args(hint)), value in get_args(hint)
        elif all(isinstance(kind, type) for kind in _alternatives(hint)):
            expected, fits = getattr(hint, "__name__", str(hint)), isinstance(value, hint)
        else:
            continue
        if not fits:
            raise SpecError(f"{name} is wrong", expected=expected, got=value)


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if isinstance(hint, UnionType) else (hint,)


@dataclass(frozen=True)
class Template:
    """How a prompt becomes token ids. Steps or the response follow it directly.

    Args:
        style: `plain`: `prefix + prompt + suffix`. `chat`: the tokenizer's own chat template, with
            the assistant's turn opened, so that steps or response are its content.
        prefix: Text before a plain prompt.
        suffix: Text between a plain prompt and what follows it.
        system: System message of a chat prompt that does not bring one.
        bos: `one`: the sequence starts with exactly one BOS token (CLS for an encoder), whatever
            template and tokenizer would add. `none`: it starts with none. `tokenizer`: as the
            tokenizer does, or for a chat its template; becomes `one` or `none` with the model.
        date: What a chat template that asks for today's date is told, as `YYYY-MM-DD`. A score
            does not depend on the day; `None` refuses such templates, and is what it becomes with
            a model that has another.
        options: What a chat template reads beside messages, such as `enable_thinking: false`.
        opening: How a chat template opens the assistant's turn. `answer`: as it writes an answer,
            with an empty thinking block where it has one; a response that thinks itself replaces
            the block. `generation`: as it asks a policy to begin, which may open a thinking block.
            Where both are the same, it becomes `generation` with the model.

    Raises:
        SpecError: The date is none, or a name of an option is not one that a template can read.
    """

    style: Literal["plain", "chat"] = "plain"
    prefix: str = ""
    suffix: str = "\n"
    system: str | None = None
    bos: Literal["tokenizer", "one", "none"] = "tokenizer"
    date: str | None = "2024-07-26"
    options: Mapping[str, Any] = field(default_factory=dict)
    opening: Opening = "answer"

    def __post_init__(self) -> None:
        check_fields(self)
        try:
            _ = self.date and Date.fromisoformat(self.date)
        except ValueError:
            raise SpecError("date is wrong", expected="YYYY-MM-DD", got=self.date) from None
        wrong = [name for name in self.options if not name.isidentifier() or name in _GIVEN]
        if wrong:
            expected = "names of a chat template's own"
            raise SpecError("options of the template are wrong", expected=expected, got=wrong)


@dataclass(frozen=True)
class StepFormat:
    """How steps become token ids, and where process heads are read.

    Each step is tokenized apart, followed by `suffix` and by the marker token. The read position of
    a step is the last token of its group: the marker, or without a marker the step's last token.

    Args:
        marker: A dedicated special token after each step; `None` for none.
        suffix: Text after each step, before its marker, tokenized together with the step.
        separator: What separates the steps in a response that comes as one text, as a policy
            writes it. It is not part of the steps.
    """

    marker: str | None = STEP_MARKER
    suffix: str = ""
    separator: str = "\n"

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.separator:
            raise SpecError("separator is empty", expected="text between two steps")


@dataclass(frozen=True)
class ResponseFormat:
    """How a whole response becomes token ids, and where outcome heads are read.

    The response is tokenized apart from the prompt; `suffix` is tokenized together with it. A
    response that is cut off at `max_length` gets no end token: it did not end.

    Args:
        end: Special tokens after a whole response. `eos`: the EOS token (SEP for an encoder).
            `turn`: what the chat template writes after an assistant's turn. `none`: none.
        start: Special token between prompt and response, which becomes part of the prompt: `sep`
            for an encoder's SEP, `none`.
        suffix: Text after the response, before the end token.
        read_at: `last`: the last token, the end token included. For encoders also `pooler`, the
            model's own pooled output of the first token, and `mean`, the mean over all tokens of
            prompt and response.
    """

    end: Literal["eos", "turn", "none"] = "eos"
    start: Literal["sep", "none"] = "none"
    suffix: str = ""
    read_at: Literal["last", "pooler", "mean"] = "last"

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True)
class StepHead:
    """One step objective: a property of a step that a head estimates as a probability.

    Args:
        name: Name, unique within the spec; labels are looked up by it.
        readout: `sigmoid`: one head column. `softmax`: two head columns, (no, yes).
    """

    name: str = CORRECTNESS
    readout: Readout = "sigmoid"

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def num_columns(self) -> int:
        """Number of head columns that belong to this objective."""
        return num_columns(self.readout)

    @property
    def column_names(self) -> list[str]:
        """Names of the head columns, as the checkpoint's `id2label` has them."""
        return [self.name] if self.num_columns == 1 else [f"not_{self.name}", self.name]


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """One objective of whole responses: a dimension of value that a head scores.

    Args:
        name: Name, unique within the spec; labels are looked up by it.
        readout: `value`: one column, the score. `gaussian`: two columns, the score's mean and what
            its spread is computed from. `quantile`: one column per quantile; the score is their
            mean.
        num_columns: Number of head columns.
        direction: Whether more of it is better (`maximize`) or worse (`minimize`).
        levels: Of `quantile`: the quantile level of each column, in (0, 1), ascending; without any,
            as in specs before version 5, evenly spaced from 0.1 to 0.9.
    """

    name: str
    readout: ResponseReadout = "value"
    num_columns: int = 1
    direction: Direction = "maximize"
    levels: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        fits = {"value": self.num_columns == 1, "gaussian": self.num_columns == 2}
        if not fits.get(self.readout, self.num_columns > 1):
            raise SpecError(
                f"num_columns of {self.name!r} does not fit its readout",
                got=f"{self.num_columns} columns for {self.readout!r}",
            )
        object.__setattr__(self, "levels", self._checked_levels())

    def _checked_levels(self) -> tuple[float, ...]:
        count = self.num_columns if self.readout == "quantile" else 0
        levels = tuple(self.levels) or (even_levels(count) if count else ())
        if len(levels) != count or not are_levels(levels):
            raise SpecError(
                f"levels of {self.name!r} do not fit its readout",
                expected=f"{count} numbers in (0, 1), ascending" if count else "none",
                got=self.levels,
            )
        return levels

    @property
    def has_centered_score(self) -> bool:
        """Whether the score estimates the center of a symmetric distribution of values.

        Not so for quantiles whose levels are not symmetric about 1/2: their mean lies off the
        center by a multiple of the spread.
        """
        pairs = zip(self.levels, reversed(self.levels), strict=True)
        return all(abs(low + high - 1) < LEVEL_TOLERANCE for low, high in pairs)

    @property
    def sign(self) -> int:
        """+1 if more is better, -1 if less is."""
        return 1 if self.direction == "maximize" else -1

    @property
    def column_names(self) -> list[str]:
        """Names of the head columns, as the checkpoint's `id2label` has them."""
        if self.readout == "quantile":
            return [f"{self.name}_{index}" for index in range(self.num_columns)]
        return [self.name, f"{self.name}_spread"][: self.num_columns]


@dataclass(frozen=True)
class Shaping:
    """What happens to an aggregated score before it is the reward; by default nothing.

    In this order: `clip(squash((score - center) / scale))`. A higher score never gets a lower
    reward. Bounded rewards leave a policy less to gain from answers that a model overrates.

    Args:
        center: Subtracted first.
        scale: Divided by next, above 0.
        squash: `sigmoid` maps to between 0 and 1, `tanh` to between -1 and 1, `none` not at all.
        clip: Lowest and highest reward; `None` for no limits.

    Source: centered sigmoid: Fu et al. 2025 (PAR, arXiv 2502.18770); clipping: OpenRLHF.

    Raises:
        SpecError: A number is not finite, the scale is not above 0, or the limits are not in order.

    Example:
        >>> import torch
        >>> Shaping(center=1.0, scale=2.0, clip=(-1.0, 1.0))(torch.tensor([-3.0, 0.0, 2.0]))
        tensor([-1.0000, -0.5000,  0.5000])
    """

    center: float = 0.0
    scale: float = 1.0
    squash: Literal["none", "sigmoid", "tanh"] = "none"
    clip: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "center", _number(self.center, "center"))
        object.__setattr__(self, "scale", _number(self.scale, "scale"))
        if self.scale <= 0:
            raise SpecError("scale of shaping is wrong", expected="above 0", got=self.scale)
        if self.clip is not None:
            object.__setattr__(self, "clip", _limits(self.clip))
        check_fields(self)

    def __call__(self, scores: Tensor) -> Tensor:
        """Return the rewards of aggregated scores of any shape; NaN stays NaN."""
        rewards = (scores - self.center) / self.scale
        if self.squash != "none":
            rewards = rewards.sigmoid() if self.squash == "sigmoid" else rewards.tanh()
        return rewards if self.clip is None else rewards.clamp(*self.clip)

    def changed(self, changes: Mapping[str, Any]) -> Shaping:
        """Return a copy with some fields changed: `{"clip": [-5, 5]}`.

        Raises:
            SpecError: There is no such field, or its value is not allowed.
        """
        known = [item.name for item in fields(self)]
        unknown = [name for name in changes if name not in known]
        if unknown:
            raise SpecError("unknown shaping", expected=", ".join(known), got=", ".join(unknown))
        return replace(self, **changes)

    def affine(self) -> tuple[float, float] | None:
        """Return slope and intercept if the reward is linear in the score, else `None`."""
        if self.squash != "none" or self.clip is not None:
            return None
        return 1 / self.scale, -self.center / self.scale


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise SpecError(f"{name} of shaping is wrong", expected="a finite number", got=value)
    return float(value)


def _limits(clip: object) -> tuple[float, float]:
    if isinstance(clip, tuple | list) and len(clip) == 2:
        low, high = (_number(limit, "clip") for limit in clip)
        if low < high:
            return low, high
    raise SpecError("clip of shaping is wrong", expected="(low, high), low below high", got=clip)


@dataclass(frozen=True, slots=True)
class TokenizerIdentity:
    """Which tokenizer the model was trained with.

    Args:
        fingerprint: SHA-256 over vocabulary, special tokens, chat template and a probe text.
        vocab_size: Number of tokens, added ones included.
        marker_id: Token id of the step marker, if the format has one.
    """

    fingerprint: str
    vocab_size: int
    marker_id: int | None = None


@dataclass(frozen=True, slots=True)
class GoldenChain:
    """A chain and the step log-odds that the exported weights gave it in float32.

    Args:
        prompt: Prompt of the chain.
        completions: Its steps.
        step_logits: Objective name to one log-odds per step.
    """

    prompt: str
    completions: tuple[str, ...]
    step_logits: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class GoldenResponse:
    """A response and the scores that the exported weights gave it in float32.

    Args:
        prompt: The prompt.
        response: The response.
        scores: Objective name to score.
        gates: Objective name to weight, of a model with a gate.
    """

    prompt: str
    response: str
    scores: Mapping[str, float]
    gates: Mapping[str, float] | None = None
