"""The reward of a stored score under another aggregation or for fewer objectives; no model runs."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace
from typing import overload

import torch
from torch import Tensor

from prm.aggregation.objectives import ObjectiveAggregation
from prm.aggregation.steps import StepAggregation, step_aggregation
from prm.errors import ConfigError, DataError
from prm.scores.chains import ChainScore, aggregated_chain
from prm.scores.responses import ResponseScore
from prm.spec import RewardSpec, Shaping


@overload
def reaggregate(
    score: ChainScore, spec: RewardSpec, *, applicable: Collection[str] | None = None
) -> ChainScore: ...


@overload
def reaggregate(
    score: ResponseScore, spec: RewardSpec, *, applicable: Collection[str] | None = None
) -> ResponseScore: ...


def reaggregate(
    score: ChainScore | ResponseScore,
    spec: RewardSpec,
    *,
    applicable: Collection[str] | None = None,
) -> ChainScore | ResponseScore:
    """Return the score with the reward that the spec's aggregation gives.

    Args:
        score: What a model with these objectives gave.
        spec: The model's spec, with the aggregation that is wanted.
        applicable: The objectives that mean something for this record; the others are missing,
            and the aggregation's policy for missing objectives decides. All of them if not given.

    Raises:
        DataError: The score lacks an objective of the spec, `applicable` names one that it does not
            have, or the aggregation refuses missing ones.
        ConfigError: The aggregation needs gates, and the score has none.

    Example:
        >>> from prm.aggregation.objectives import WeightedSum
        >>> from prm.spec import ResponseHead
        >>> spec = RewardSpec(
        ...     response_heads=(ResponseHead("helpfulness"), ResponseHead("safety")),
        ...     objective_aggregation=WeightedSum({"helpfulness": 1, "safety": 3}),
        ... )
        >>> values = {"helpfulness": 1.0, "safety": -1.0}
        >>> score = ResponseScore("", "", 0, values, None, values, 0.0, "weighted_sum")
        >>> reaggregate(score, spec).reward
        -2.0
    """
    if isinstance(score, ChainScore):
        _check_names(score.id, score.step_logits, spec.step_names, applicable)
        return _chain(aggregated_chain(score, spec), applicable)
    names = spec.response_names
    _check_names(score.id, score.scores, names, applicable)
    return _response(score, spec, names if applicable is None else applicable)


def with_aggregations(
    spec: RewardSpec,
    steps: StepAggregation | str | None,
    objectives: ObjectiveAggregation | None,
    shaping: Shaping | None = None,
) -> RewardSpec:
    """Return the spec with other aggregations and shaping, where they are given.

    Raises:
        ConfigError: One is given that the model has no use for.
    """
    if steps is not None and not spec.step_heads:
        raise ConfigError("the model has no steps to aggregate", got=str(steps))
    if objectives is not None and not spec.response_heads:
        raise ConfigError("the model has no objectives of responses to aggregate", got=objectives)
    if isinstance(steps, str):
        steps = step_aggregation(steps)
    return replace(
        spec,
        step_aggregation=steps or spec.step_aggregation,
        objective_aggregation=objectives or spec.objective_aggregation,
        shaping=shaping or spec.shaping,
    )


def unit_score(score: ChainScore | ResponseScore, spec: RewardSpec) -> float | None:
    """Return a score in [0, 1] that orders responses as the reward does, before it is shaped.

    Args:
        score: The score.
        spec: The spec in force: an aggregated probability stays as it is, every other reward `R`
            becomes `sigmoid(R)`.

    Returns:
        The number, `None` if there is no reward.
    """
    if score.reward is None:
        return None
    if isinstance(score, ResponseScore):
        return _sigmoid(score.reward)
    aggregated = score.scores.get(score.reward_objective)
    value = score.reward if aggregated is None else aggregated
    if spec.step_aggregation.unit == "probability":
        return min(max(value, 0.0), 1.0)
    return _sigmoid(value)


def _check_names(
    id: str, stored: Collection[str], names: Collection[str], applicable: Collection[str] | None
) -> None:
    place = f"row {id!r}" if id else None
    if not names or set(stored) != set(names):
        raise DataError(
            "the score is not of this model",
            expected=f"the objectives {', '.join(names)}",
            got=", ".join(stored),
            where=place,
        )
    unknown = sorted(set(applicable or ()) - set(names))
    if unknown:
        raise DataError(
            "no such objective to apply",
            expected=f"some of {', '.join(names)}",
            got=", ".join(unknown),
            where=place,
        )


def _chain(score: ChainScore, applicable: Collection[str] | None) -> ChainScore:
    if applicable is None or score.reason:
        return score
    scores = {name: value if name in applicable else None for name, value in score.scores.items()}
    if score.reward_objective in applicable:
        return replace(score, scores=scores)
    reason = f"{score.reward_objective} does not apply"
    return replace(score, scores=scores, reward=None, reason=reason)


def _response(score: ResponseScore, spec: RewardSpec, applicable: Collection[str]) -> ResponseScore:
    aggregation = spec.objective_aggregation
    assert aggregation is not None
    score = replace(score, aggregation=aggregation.name)
    if all(value is None for value in score.scores.values()):
        return score
    kept = {
        name: score.scores[name] if name in applicable else None for name in spec.response_names
    }
    values = _tensor(kept)
    reward = float(spec.rewards(values, _gates(score, spec)))
    utilities = zip(kept, spec.utilities(values).tolist(), strict=True)
    return replace(
        score,
        utilities={name: _number(value) for name, value in utilities},
        reward=_number(reward),
        reason="" if math.isfinite(reward) else _why_not(kept),
    )


def _gates(score: ResponseScore, spec: RewardSpec) -> Tensor | None:
    aggregation = spec.objective_aggregation
    if aggregation is None or not aggregation.needs_gates:
        return None
    if score.gates is None:
        raise ConfigError(
            f"{aggregation.name} needs the gates of the response, and the score holds none",
            fix="Score with a model that has a gating head, or choose another aggregation",
        )
    return _tensor({name: score.gates[name] for name in spec.response_names})


def _tensor(values: dict[str, float | None]) -> Tensor:
    known = [math.nan if value is None else value for value in values.values()]
    return torch.tensor(known, dtype=torch.float64)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _why_not(kept: dict[str, float | None]) -> str:
    missing = [name for name, value in kept.items() if value is None]
    if missing:
        return f"no reward without {', '.join(missing)}"
    return "the objectives give no finite reward; try float32"


def _sigmoid(value: float) -> float:
    return (1 + math.tanh(value / 2)) / 2
