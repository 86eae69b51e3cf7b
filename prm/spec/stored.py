"""Specs as JSON values: how their fields are written, and read from files of any version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from typing import Any, TypeVar

from prm.aggregation import normalize, objectives, steps
from prm.aggregation.normalize import Normalizer
from prm.aggregation.objectives import ObjectiveAggregation
from prm.aggregation.steps import StepAggregation
from prm.errors import SpecError
from prm.spec import parts

SPEC_VERSION = 5

T = TypeVar("T")

_REQUIRED = ("chain_reward", "max_length", "on_too_long", "on_long_prompt")


def plain(value: Any) -> Any:
    """Return a field of a spec as JSON values."""
    if isinstance(value, StepAggregation):
        return steps.to_dict(value)
    if isinstance(value, ObjectiveAggregation):
        return objectives.to_dict(value)
    if isinstance(value, Normalizer):
        return normalize.to_dict(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {key: plain(item) for key, item in asdict(value).items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return value


def _built(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Take the fields out of `values` that are more than plain JSON, and build them."""
    aggregation = values.pop("objective_aggregation", None)
    built: dict[str, Any] = {
        "template": _build(parts.Template, values.pop("template"), where),
        "step_format": _build(parts.StepFormat, values.pop("step_format"), where),
        "response_format": _build(parts.ResponseFormat, values.pop("response_format", {}), where),
        "step_heads": _build_all(parts.StepHead, values.pop("step_heads"), where),
        "response_heads": _build_all(parts.ResponseHead, values.pop("response_heads", ()), where),
        "step_aggregation": steps.from_dict(values.pop("step_aggregation")),
        "normalizers": {
            name: normalize.from_dict(item) for name, item in values.pop("normalizers", {}).items()
        },
        "objective_aggregation": None if aggregation is None else objectives.from_dict(aggregation),
        "shaping": _build(parts.Shaping, values.pop("shaping", {}), where),
        "golden_chains": tuple(_golden(item, where) for item in values.pop("golden_chains", ())),
        "golden_responses": _build_all(
            parts.GoldenResponse, values.pop("golden_responses", ()), where
        ),
    }
    tokenizer = values.pop("tokenizer", None)
    if tokenizer is not None:
        built["tokenizer"] = _build(parts.TokenizerIdentity, tokenizer, where)
    return built | {name: values.pop(name) for name in _REQUIRED}


RENAMED = {
    "objectives": "step_heads",
    "outcome_objectives": "response_heads",
    "reward_objective": "chain_reward",
    "golden": "golden_chains",
}
"""Fields of versions 1 to 3 to their present names."""


def _renamed(data: Mapping[str, Any], version: int, where: str) -> dict[str, Any]:
    """Return the fields of a spec of any version under their present names."""
    old = RENAMED if version < 4 else {}
    later = [name for name in old.values() if name in data]
    if later:
        raise SpecError(
            f"field {later[0]!r} is not of version {version}",
            expected="fields of one version",
            where=where,
        )
    return {old.get(name, name): value for name, value in data.items() if name != "version"}


def _checked_version(version: object, where: str) -> int:
    if not isinstance(version, int) or version < 1:
        raise SpecError("field 'version' is wrong", expected="a version", got=version, where=where)
    if version > SPEC_VERSION:
        raise SpecError(
            "spec is newer than this library",
            expected=f"version {SPEC_VERSION} or older",
            got=version,
            where=where,
            fix="Upgrade prm",
        )
    return version


def _known(values: Mapping[str, Any], cls: type, where: str) -> dict[str, Any]:
    names = {item.name for item in fields(cls)}
    unknown = sorted(set(values) - names)
    if unknown:
        raise SpecError(
            f"unknown fields of {cls.__name__}: {', '.join(unknown)}",
            expected=", ".join(sorted(names)),
            where=where,
        )
    return dict(values)


def _build(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    return cls(**_known(values, cls, where))


def _build_all(cls: type[T], items: Sequence[Mapping[str, Any]], where: str) -> tuple[T, ...]:
    return tuple(_build(cls, item, where) for item in items)


def _golden(values: Mapping[str, Any], where: str) -> parts.GoldenChain:
    known = _known(values, parts.GoldenChain, where)
    return parts.GoldenChain(
        prompt=known["prompt"],
        completions=tuple(known["completions"]),
        step_logits={name: tuple(logits) for name, logits in known["step_logits"].items()},
    )


def spec_fields(data: Mapping[str, Any], cls: type, where: str) -> tuple[dict[str, Any], Any]:
    """Return the arguments of a spec, and its kind, from JSON values of any version.

    Args:
        data: The JSON object.
        cls: The spec's class, whose fields are known.
        where: Where the values stand, for errors.

    Raises:
        SpecError: The version is newer than this library's, or a field is missing, unknown or of
            the wrong type.
    """
    values = _renamed(data, _checked_version(data.get("version"), where), where)
    kind = values.pop("kind", None)
    try:
        return _built(values, where) | _known(values, cls, where), kind
    except KeyError as error:
        raise SpecError(f"field {error.args[0]!r} is missing", where=where) from None
    except (TypeError, AttributeError, ValueError) as error:
        if isinstance(error, SpecError):
            raise
        raise SpecError(f"spec is malformed: {error}", where=where) from None
