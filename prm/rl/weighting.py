"""How objectives are weighted while a policy is trained: by schedule, by constraint, or by hand.

A weighting gives the aggregation of each training step. It knows nothing of trainers;
`prm.rl.callbacks` ties one to TRL.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch

from prm.aggregation.lagrange import LagrangeMultiplier
from prm.aggregation.objectives import ObjectiveAggregation, from_dict, to_dict
from prm.aggregation.weights import finite_number
from prm.errors import ConfigError
from prm.spec import RewardSpec


class Weighting:
    """Base of the weightings; subclasses say which aggregation a step has.

    Args:
        objectives: Names of the model's objectives of responses.
    """

    def __init__(self, objectives: Sequence[str]) -> None:
        self.objectives = tuple(objectives)

    def aggregation(self, step: int) -> ObjectiveAggregation:
        """Return the aggregation of a training step.

        Args:
            step: Optimizer steps that were done before, 0 or above.
        """
        raise NotImplementedError

    def values(self, step: int) -> dict[str, float]:
        """Return every number of a step's aggregation, to log it: `{"weights.safety": 2.0}`."""
        return numbers(self.aggregation(step), self.objectives)

    def observe(self, utilities: Mapping[str, float]) -> None:
        """Learn from what the policy's answers of one step got; only a constraint does.

        Args:
            utilities: Objective to its mean utility over all ranks; one without scores is left out.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what changes during training, as JSON values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned.

        Raises:
            ConfigError: The state does not fit.
        """


class WeightSchedule(Weighting):
    """Parameters of an aggregation that change from training step to training step.

    Any number can be scheduled: weights, but also the threshold of a gate or a floor. Before the
    first point and after the last, the values are theirs.

    Args:
        aggregation: What is changed; parameters that no point names stay as they are.
        objectives: Names of the model's objectives.
        points: Step to the values from there on, by `parameter` or `parameter.objective`; every
            point names the same parameters.
        interpolation: Between two points, `linear` moves evenly from one to the next, `constant`
            stays at the earlier one.

    Raises:
        ConfigError: There is no point, a step is negative, points name different parameters, or
            their values are not allowed.

    Example:
        >>> from prm.aggregation.objectives import WeightedSum
        >>> names = ("helpfulness", "safety")
        >>> points = {0: {"weights.safety": 1}, 100: {"weights.safety": 3}}
        >>> WeightSchedule(WeightedSum({"helpfulness": 1, "safety": 1}), names, points).values(50)
        {'weights.helpfulness': 1.0, 'weights.safety': 2.0}
    """

    def __init__(
        self,
        aggregation: ObjectiveAggregation,
        objectives: Sequence[str],
        points: Mapping[int, Mapping[str, float]],
        interpolation: Literal["linear", "constant"] = "linear",
    ) -> None:
        super().__init__(objectives)
        if interpolation not in ("linear", "constant"):
            raise ConfigError("interpolation", expected="linear or constant", got=interpolation)
        self.interpolation = interpolation
        self._start = aggregation
        self._steps = sorted(points)
        self._check_points(points)
        self._curves = {
            name: [finite_number(points[step][name], name) for step in self._steps]
            for name in points[self._steps[0]]
        }
        for step in self._steps:
            self.aggregation(step)

    def _check_points(self, points: Mapping[int, Mapping[str, float]]) -> None:
        if not points or self._steps[0] < 0:
            expected = "one or more steps of 0 or above"
            raise ConfigError("points of a schedule", expected=expected, got=self._steps)
        first = points[self._steps[0]]
        for step in self._steps:
            if set(points[step]) != set(first) or not first:
                raise ConfigError(
                    f"point {step} of a schedule names other parameters than the first",
                    expected=", ".join(first) or "at least one parameter",
                    got=", ".join(points[step]),
                )

    def aggregation(self, step: int) -> ObjectiveAggregation:
        overrides = {name: self._at(curve, step) for name, curve in self._curves.items()}
        return self._start.with_overrides(overrides, self.objectives)

    def _at(self, curve: Sequence[float], step: int) -> float:
        if self.interpolation == "linear":
            return float(np.interp(step, self._steps, curve))
        return curve[max(bisect_right(self._steps, step) - 1, 0)]


class Constraint(Weighting):
    """Holds the mean utility of one objective at a limit, by a Lagrange multiplier.

    The multiplier rises while the mean over all answers of a step is below the limit, and falls
    while it is above; see `LagrangeMultiplier` for its step, its delay and its maximum.

    Args:
        multiplier: The multiplier, with the aggregation that it starts from.
        objectives: Names of the model's objectives.

    Raises:
        ConfigError: The aggregation does not fit the objectives.

    Example:
        >>> from prm.aggregation.lagrange import Lagrangian
        >>> start = Lagrangian("safety", multiplier=0.0)
        >>> multiplier = LagrangeMultiplier(start, limit=1.0, learning_rate=0.5)
        >>> constraint = Constraint(multiplier, ("helpfulness", "safety"))
        >>> constraint.observe({"helpfulness": 2.0, "safety": -1.0})
        >>> constraint.values(1)
        {'weights.helpfulness': 1.0, 'multiplier': 1.0}
    """

    def __init__(self, multiplier: LagrangeMultiplier, objectives: Sequence[str]) -> None:
        super().__init__(objectives)
        self.multiplier = multiplier
        multiplier.aggregation().check(self.objectives)

    def aggregation(self, step: int) -> ObjectiveAggregation:
        return self.multiplier.aggregation()

    def observe(self, utilities: Mapping[str, float]) -> None:
        constrained = self.multiplier.aggregation().constrained
        if constrained in utilities:
            self.multiplier.update(torch.tensor([utilities[constrained]], dtype=torch.float64))

    def state_dict(self) -> dict[str, Any]:
        return self.multiplier.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.multiplier.load_state_dict(state)


class ByHand(Weighting):
    """An aggregation that stays as it is until somebody sets another, also while a policy trains.

    Args:
        aggregation: The first one.
        objectives: Names of the model's objectives.

    Raises:
        ConfigError: The aggregation does not fit the objectives.

    Example:
        >>> from prm.aggregation.objectives import WeightedSum
        >>> by_hand = ByHand(WeightedSum(), ("helpfulness", "safety"))
        >>> by_hand.override({"weights.safety": 2})
        >>> by_hand.values(0)
        {'weights.helpfulness': 0.5, 'weights.safety': 2.0}
    """

    def __init__(self, aggregation: ObjectiveAggregation, objectives: Sequence[str]) -> None:
        super().__init__(objectives)
        self.set(aggregation)

    def aggregation(self, step: int) -> ObjectiveAggregation:
        return self._aggregation

    def set(self, aggregation: ObjectiveAggregation) -> None:
        """Aggregate in another way from the next step on; raises as the constructor."""
        aggregation.check(self.objectives)
        self._aggregation = aggregation

    def override(self, overrides: Mapping[str, Any]) -> None:
        """Change some parameters, as `ObjectiveAggregation.with_overrides` does and raises."""
        self.set(self._aggregation.with_overrides(overrides, self.objectives))

    def state_dict(self) -> dict[str, Any]:
        return to_dict(self._aggregation)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.set(from_dict(state))


def linear_weights(spec: RewardSpec, objectives: Sequence[str]) -> dict[str, float] | None:
    """Return the weight of each objective if the reward is a weighted sum of them, else `None`.

    Args:
        spec: The spec in force.
        objectives: Its objectives of responses, or those of steps, of which one is the reward.

    Example:
        >>> linear_weights(RewardSpec(), ["correctness"])
        {'correctness': 1.0}
    """
    if tuple(objectives) == spec.response_names and spec.objective_aggregation is not None:
        return spec.objective_aggregation.linear_weights(objectives)
    return {name: float(name == spec.chain_reward) for name in objectives}


def numbers(aggregation: ObjectiveAggregation, objectives: Sequence[str]) -> dict[str, float]:
    """Return the numbers of an aggregation by `parameter` or `parameter.objective`.

    Example:
        >>> from prm.aggregation.objectives import SafetyGate
        >>> numbers(SafetyGate(threshold=0.3), ("helpfulness", "safety"))
        {'threshold': 0.3}
    """
    found: dict[str, float] = {}
    for name, value in aggregation.named_parameters(objectives).items():
        entries = value.items() if isinstance(value, Mapping) else [("", value)]
        for entry, number in entries:
            if isinstance(number, int | float) and not isinstance(number, bool):
                found[f"{name}.{entry}".rstrip(".")] = float(number)
    return found
