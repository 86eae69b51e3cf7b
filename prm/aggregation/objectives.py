r"""Objective aggregation: the utilities of one answer become one reward.

Which one to use:

- `weighted_sum` trades objectives at fixed rates, and can be folded into a one-label model;
- `worst_case` and `soft_minimum` reward an answer by its weakest objective;
- `geometric_mean` and `log_sigmoid_sum` reward answers that are good in everything;
- `augmented_chebyshev` also reaches answers of a non-convex Pareto front;
- `thresholded`, `safety_gate` and `lagrangian` treat an objective as a constraint;
- `gated` lets the prompt choose the weights.

An objective that should count the other way is given a direction in the model's spec, not a
negative weight; `weighted_sum` alone accepts negative weights, and then no longer calls itself
monotone. Group normalization (`prm.aggregation.groups`) erases absolute thresholds, so every
aggregation here acts before it.

Source: Roijers et al. 2013 (arXiv 1402.0590) for scalarization in general; the classes name
their own.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional

from prm.aggregation.base import Missing
from prm.aggregation.base import ObjectiveAggregation as ObjectiveAggregation
from prm.aggregation.gates import Gated as Gated
from prm.aggregation.gates import SafetyGate as SafetyGate
from prm.aggregation.gates import Thresholded as Thresholded
from prm.aggregation.lagrange import Lagrangian as Lagrangian
from prm.aggregation.named import class_of
from prm.aggregation.named import to_dict as to_dict
from prm.aggregation.reference_points import AugmentedChebyshev as AugmentedChebyshev
from prm.aggregation.reference_points import LogSigmoidSum as LogSigmoidSum
from prm.aggregation.steps import softmin
from prm.aggregation.weights import WeightedAggregation, finite_number
from prm.errors import ConfigError


class WeightedSum(WeightedAggregation):
    """The linear reward: `R = sum_k w_k u_k`.

    Args:
        weights: Weight of each objective; without them all count `1/K`. Any finite numbers, not
            all 0; the reward is monotone where none is negative.
        missing: `renormalize` scales the weights of the present objectives so that the sum of
            their magnitudes stays.

    Example:
        >>> import torch
        >>> utilities = torch.tensor([[1.0, -2.0], [3.0, float("nan")]])
        >>> WeightedSum({"helpfulness": 1, "safety": 2})(utilities, ["helpfulness", "safety"])
        tensor([-3., nan])
    """

    name = "weighted_sum"

    @property
    def monotone(self) -> bool:
        return self.weights is None or min(self.weights.values()) >= 0

    def check_weights(self, weights: Mapping[str, float]) -> None:
        if not any(weights.values()):
            raise ConfigError(f"weights of {self.name}", expected="one not 0", got=dict(weights))

    def linear_weights(self, objectives: Sequence[str]) -> dict[str, float] | None:
        self.check(objectives)
        return self.weights_of(objectives)

    def reduce(self, values: Tensor, present: Tensor, objectives: Sequence[str]) -> Tensor:
        return self.weighted_sum(values, present, objectives)


class GeometricMean(WeightedAggregation):
    """The weighted geometric mean of the probabilities: `R = prod_k p_k^(w_k / W)`, in (0, 1).

    `p_k = max(sigmoid(u_k), floor)` and `W` is the sum of the weights. Probabilities near 1
    saturate in float32; `LogSigmoidSum` orders such answers.

    Args:
        weights: As in `WeightedAggregation`.
        floor: Lowest probability of an objective, in (0, 1): how far one alone can pull.
        missing: `renormalize` is the mean over the present objectives.
    """

    name = "geometric_mean"

    def __init__(
        self,
        weights: dict[str, float] | None = None,
        *,
        floor: float = 1e-6,
        missing: Missing = "nan",
    ) -> None:
        super().__init__(weights, missing=missing)
        self.floor = finite_number(floor, "floor of geometric_mean")
        if not 0 < self.floor < 1:
            raise ConfigError("floor of geometric_mean", expected="a number in (0, 1)", got=floor)

    def reduce(self, values: Tensor, present: Tensor, objectives: Sequence[str]) -> Tensor:
        log_probabilities = functional.logsigmoid(values).clamp(min=math.log(self.floor))
        total = sum(self.weights_of(objectives).values())
        return (self.weighted_sum(log_probabilities, present, objectives) / total).exp()


class WorstCase(ObjectiveAggregation):
    """The weakest objective: `R = min_k u_k`.

    Args:
        missing: `renormalize` is the minimum over the present objectives.
    """

    name = "worst_case"

    def reduce(self, values: Tensor, present: Tensor, objectives: Sequence[str]) -> Tensor:
        return values.masked_fill(~present, math.inf).amin(dim=-1)


class SoftMinimum(ObjectiveAggregation):
    """A smooth minimum: `R = -(1/beta) log((1/K) sum_k exp(-beta u_k))`.

    Args:
        beta: Sharpness, above 0. Towards 0 the reward is the mean, towards infinity the minimum.
        missing: `renormalize` is the soft minimum over the present objectives.
    """

    name = "soft_minimum"

    def __init__(self, beta: float = 1.0, *, missing: Missing = "nan") -> None:
        super().__init__(missing=missing)
        self.beta = finite_number(beta, "beta of soft_minimum")
        if self.beta <= 0:
            raise ConfigError("beta of soft_minimum", expected="a number above 0", got=beta)

    def reduce(self, values: Tensor, present: Tensor, objectives: Sequence[str]) -> Tensor:
        return softmin(values, present, self.beta)


OBJECTIVE_AGGREGATIONS: dict[str, type[ObjectiveAggregation]] = {
    cls.name: cls
    for cls in (
        WeightedSum,
        GeometricMean,
        WorstCase,
        SoftMinimum,
        AugmentedChebyshev,
        LogSigmoidSum,
        Thresholded,
        SafetyGate,
        Lagrangian,
        Gated,
    )
}


def objective_aggregation(name: str, **parameters: Any) -> ObjectiveAggregation:
    """Build an objective aggregation by its short name or the name of its class.

    Raises:
        ConfigError: The name is unknown or does not take these parameters.

    Example:
        >>> objective_aggregation("weighted_sum", weights={"safety": 2})
        WeightedSum(weights={'safety': 2.0}, missing='nan')
    """
    cls = class_of(OBJECTIVE_AGGREGATIONS, "objective aggregation", name)
    try:
        inspect.signature(cls).bind(**parameters)
    except TypeError as error:
        expected = "one of " + ", ".join(inspect.signature(cls).parameters)
        problem = f"parameters of {cls.__name__}: {error}"
        raise ConfigError(problem, expected=expected, got=", ".join(parameters)) from None
    return cls(**parameters)


def from_config(config: str | Mapping[str, Any]) -> ObjectiveAggregation:
    """Build what a configuration says.

    Args:
        config: A name (`WeightedSum` or `weighted_sum`), `{"class_path": ..., "init_args": ...}`
            as in `configs/aggregation`, or `{"name": ..., parameter: ...}` as in a spec.

    Raises:
        ConfigError: It has another form, or as `objective_aggregation`.

    Example:
        >>> from_config({"class_path": "WeightedSum", "init_args": {"weights": {"safety": 1}}})
        WeightedSum(weights={'safety': 1.0}, missing='nan')
    """
    if isinstance(config, str):
        return objective_aggregation(config)
    if not isinstance(config, Mapping) or ("class_path" in config) == ("name" in config):
        raise ConfigError(
            "objective aggregation", expected="a name, or a mapping with class_path", got=config
        )
    if "name" in config:
        return from_dict(config)
    unknown = set(config) - {"class_path", "init_args"}
    if unknown:
        expected = "class_path and init_args"
        raise ConfigError("objective aggregation", expected=expected, got=sorted(config))
    return objective_aggregation(config["class_path"], **(config.get("init_args") or {}))


def from_dict(data: Mapping[str, Any]) -> ObjectiveAggregation:
    """Rebuild what `to_dict` wrote."""
    parameters = dict(data)
    return objective_aggregation(parameters.pop("name", "missing"), **parameters)
