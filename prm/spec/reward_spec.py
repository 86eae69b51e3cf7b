"""`RewardSpec`, and how it is written to and read from `prm_config.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from prm.aggregation.normalize import Normalizer
from prm.aggregation.objectives import ObjectiveAggregation, WeightedSum
from prm.aggregation.steps import Min, StepAggregation
from prm.errors import SpecError
from prm.records import Chain, Record
from prm.spec.parts import (
    GoldenChain,
    GoldenResponse,
    ResponseFormat,
    ResponseHead,
    Shaping,
    StepFormat,
    StepHead,
    Template,
    TokenizerIdentity,
    check_fields,
)
from prm.spec.stored import SPEC_VERSION as SPEC_VERSION
from prm.spec.stored import plain, spec_fields

SPEC_FILE = "prm_config.json"

Kind = Literal["process", "outcome", "joint"]


@dataclass(frozen=True, slots=True)
class RewardSpec:
    """The contract of a reward model; equal specs and weights give equal scores everywhere.

    Args:
        template: How the prompt is rendered.
        step_format: How steps are rendered and read.
        response_format: How whole responses are rendered and read.
        step_heads: The objectives of steps, in column order. A spec without any head gets one,
            for the correctness of steps.
        response_heads: The objectives of whole responses, whose columns follow those of the steps.
        chain_reward: The step objective whose aggregated score is a chain's reward; needed with
            several.
        step_aggregation: How a chain's steps become one score.
        normalizers: Response objective to the normalizer of its scores; others stay as they are.
        objective_aggregation: How a response's objectives become one reward; with one objective it
            is that objective if not given.
        shaping: What happens to the aggregated score of a chain or response before it is the
            reward; a joint model shapes both alike.
        max_length: Most tokens of a chain or response, prompt included.
        on_too_long: What happens to one over `max_length`: `truncate` drops whole steps from the
            end of a chain (they stay unscored) and tokens from the end of a response, `drop` leaves
            it out, `error` stops.
        on_long_prompt: What happens when the prompt leaves no room for the first step or for a
            response: `drop` leaves it out, `cut_left` cuts the prompt from its left end, before
            responses to half of `max_length`.
        tokenizer: Identity of the tokenizer; filled in when a model is built.
        golden_chains: Scores of chains to check a loaded model against; filled in when a model is
            saved.
        golden_responses: The same for responses.

    Raises:
        SpecError: There is no objective, names repeat, or options name objectives that the spec
            does not have or leave open how several become one reward.

    Example:
        >>> spec = RewardSpec(max_length=512)
        >>> RewardSpec.from_json(spec.to_json()) == spec
        True
        >>> spec.kind
        'process'
    """

    template: Template = field(default_factory=Template)
    step_format: StepFormat = field(default_factory=StepFormat)
    response_format: ResponseFormat = field(default_factory=ResponseFormat)
    step_heads: tuple[StepHead, ...] = ()
    response_heads: tuple[ResponseHead, ...] = ()
    chain_reward: str = ""
    step_aggregation: StepAggregation = field(default_factory=Min)
    normalizers: Mapping[str, Normalizer] = field(default_factory=dict)
    objective_aggregation: ObjectiveAggregation | None = None
    shaping: Shaping = field(default_factory=Shaping)
    max_length: int = 4096
    on_too_long: Literal["truncate", "drop", "error"] = "truncate"
    on_long_prompt: Literal["drop", "cut_left"] = "drop"
    tokenizer: TokenizerIdentity | None = None
    golden_chains: tuple[GoldenChain, ...] = ()
    golden_responses: tuple[GoldenResponse, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.heads:
            object.__setattr__(self, "step_heads", (StepHead(),))
        names = [objective.name for objective in self.heads]
        if len(set(names)) != len(names):
            raise SpecError("objectives are wrong", expected="unique names", got=names)
        self._settle_step_reward()
        self._settle_response_reward()
        if self.max_length < 2:
            raise SpecError("max_length is wrong", expected="2 or more", got=self.max_length)

    def _settle_step_reward(self) -> None:
        names = self.step_names
        if not self.chain_reward and len(names) > 1:
            raise SpecError(
                "chain_reward is missing",
                expected=f"one of {', '.join(names)}",
                fix="With several step objectives, say which one is the reward",
            )
        if not self.chain_reward and names:
            object.__setattr__(self, "chain_reward", names[0])
        if self.chain_reward and self.chain_reward not in names:
            raise SpecError(
                "chain_reward is unknown",
                expected=f"one of {', '.join(names)}" if names else "none without step objectives",
                got=self.chain_reward,
            )

    def _settle_response_reward(self) -> None:
        names = self.response_names
        unknown = sorted(set(self.normalizers) - set(names))
        if unknown:
            raise SpecError("normalizers are wrong", expected=f"names of {names}", got=unknown)
        if self.objective_aggregation is None and len(names) > 1:
            raise SpecError(
                "objective_aggregation is missing",
                expected="a way to make one reward of " + ", ".join(names),
                fix="Say how (model.objective_aggregation), for example by WeightedSum",
            )
        if self.objective_aggregation is None and names:
            object.__setattr__(self, "objective_aggregation", WeightedSum())
        if self.objective_aggregation is not None and not names:
            raise SpecError(
                "objective_aggregation is given, and there are no objectives of responses",
                fix="Leave it out, or add objectives of responses",
            )
        if self.objective_aggregation is not None:
            self.objective_aggregation.check(names)

    @property
    def kind(self) -> Kind:
        """What the model scores: steps (`process`), whole responses (`outcome`), or both."""
        if not self.response_heads:
            return "process"
        return "joint" if self.step_heads else "outcome"

    @property
    def heads(self) -> tuple[StepHead | ResponseHead, ...]:
        """All objectives, in column order."""
        return (*self.step_heads, *self.response_heads)

    def has_heads_for(self, record: Record) -> bool:
        """Whether the model scores such records: the steps of chains, or whole responses."""
        return bool(self.step_heads if isinstance(record, Chain) else self.response_heads)

    @property
    def step_names(self) -> tuple[str, ...]:
        """Names of the step objectives, in column order."""
        return tuple(objective.name for objective in self.step_heads)

    @property
    def response_names(self) -> tuple[str, ...]:
        """Names of the response objectives, in column order."""
        return tuple(objective.name for objective in self.response_heads)

    @property
    def marker(self) -> str | None:
        """The step marker, if the model has step objectives and marks steps."""
        return self.step_format.marker if self.step_heads else None

    @property
    def num_columns(self) -> int:
        """Number of head columns of all objectives."""
        return sum(objective.num_columns for objective in self.heads)

    @property
    def columns(self) -> dict[str, slice]:
        """Objective name to its head columns."""
        slices, start = {}, 0
        for objective in self.heads:
            slices[objective.name] = slice(start, start + objective.num_columns)
            start += objective.num_columns
        return slices

    def utilities(self, scores: Tensor) -> Tensor:
        """Return normalized scores of which more is better: `sign_k normalizer_k(score_k)`.

        Args:
            scores: Scores of the response objectives, shape `[..., objective]`; NaN where missing.

        Returns:
            The same shape, on a scale like log-odds (units of the normalizers).
        """
        columns = [
            objective.sign * self._normalized(objective.name, scores[..., index])
            for index, objective in enumerate(self.response_heads)
        ]
        return torch.stack(columns, dim=-1)

    def _normalized(self, name: str, scores: Tensor) -> Tensor:
        return self.normalizers[name](scores) if name in self.normalizers else scores

    def rewards(self, scores: Tensor, gates: Tensor | None = None) -> Tensor:
        """Return one shaped reward per response, shape `[...]`, from scores `[..., objective]`.

        Args:
            scores: Scores of the response objectives; NaN where missing.
            gates: Weights that depend on the prompt, same shape, for an aggregation that is gated.
        """
        assert self.objective_aggregation is not None
        aggregated = self.objective_aggregation(self.utilities(scores), self.response_names, gates)
        return self.shaping(aggregated)

    def with_(self, **changes: Any) -> RewardSpec:
        """Return a copy with some fields changed."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as JSON values."""
        values = {item.name: plain(getattr(self, item.name)) for item in fields(self)}
        return {"version": SPEC_VERSION, "kind": self.kind} | values

    def to_json(self) -> str:
        """Return the spec as the text of `prm_config.json`."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = SPEC_FILE) -> RewardSpec:
        """Rebuild a spec from JSON values.

        Raises:
            SpecError: The version is newer than this library's, or a field is missing, unknown or
                of the wrong type.
        """
        values, kind = spec_fields(data, cls, where)
        try:
            spec = cls(**values)
        except TypeError as error:
            raise SpecError(f"spec is malformed: {error}", where=where) from None
        if spec.kind != kind:
            raise SpecError(
                "kind does not fit the objectives", expected=spec.kind, got=kind, where=where
            )
        return spec

    @classmethod
    def from_json(cls, text: str, where: str = SPEC_FILE) -> RewardSpec:
        """Rebuild a spec from the text of `prm_config.json`; raises as `from_dict`."""
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise SpecError(f"not JSON: {error}", where=where) from None
        if not isinstance(data, Mapping):
            raise SpecError("not a spec", expected="a JSON object", got=type(data), where=where)
        return cls.from_dict(data, where)

    @classmethod
    def load(cls, folder: str | Path) -> RewardSpec:
        """Read `prm_config.json` of a model folder; raises as `from_dict`."""
        path = Path(folder) / SPEC_FILE
        if not path.is_file():
            raise SpecError(
                f"no {SPEC_FILE}",
                where=str(folder),
                fix="Name a folder that prm wrote (its `model` folder after `prm fit`)",
            )
        return cls.from_json(path.read_text(encoding="utf-8", errors="replace"), str(path))
