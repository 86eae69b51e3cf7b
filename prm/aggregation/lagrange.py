"""A constraint on one objective, with a multiplier that learns how much it must count.

Source: Dai et al. 2024 (Safe RLHF, arXiv 2310.12773), section 3.2; delay and maximum as in its
authors' code, the plain gradient step as in Omnisafe (Adam would make steps of its learning rate
whatever the violation).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from torch import Tensor

from prm.aggregation.base import Missing
from prm.aggregation.weights import WeightedAggregation, check_known, finite_number
from prm.errors import ConfigError


class Lagrangian(WeightedAggregation):
    """Reward minus multiplied cost: `R = (r - multiplier * c) / (1 + multiplier)`.

    `r` is the weighted sum of the other objectives and `c = -u_constrained` the cost; a constant
    limit would not change what a policy learns, so it enters `LagrangeMultiplier` alone. The
    reward is linear in the utilities, and monotone.

    Args:
        constrained: Name of the objective under the constraint.
        multiplier: How much a unit of cost weighs, 0 or above.
        weights: Weights of the other objectives, 0 or above; without them they count the same.
        missing: `renormalize` scales the weights of the other objectives that are present to keep
            their total; an answer is NaN without the constrained objective.

    Example:
        >>> import torch
        >>> reward = Lagrangian("safety", multiplier=3)
        >>> reward(torch.tensor([4.0, -2.0]), ["helpfulness", "safety"])
        tensor(-0.5000)
    """

    name = "lagrangian"

    def __init__(
        self,
        constrained: str = "safety",
        multiplier: float = 1.0,
        weights: dict[str, float] | None = None,
        *,
        missing: Missing = "nan",
    ) -> None:
        super().__init__(weights, missing=missing)
        self.constrained = constrained
        self.multiplier = finite_number(multiplier, "multiplier of lagrangian")
        if self.multiplier < 0:
            raise ConfigError("multiplier of lagrangian", expected="0 or above", got=multiplier)

    def check(self, objectives: Sequence[str]) -> None:
        check_known((self.constrained,), objectives, "lagrangian")
        if len(objectives) < 2:
            raise ConfigError("lagrangian", expected="another objective", got=list(objectives))
        super().check(objectives)

    def weighted(self, objectives: Sequence[str]) -> list[str]:
        return [name for name in objectives if name != self.constrained]

    def reads(self, objectives: Sequence[str]) -> Collection[str]:
        return {*super().reads(objectives), self.constrained}

    def requires(self, objectives: Sequence[str]) -> Collection[str]:
        return (self.constrained,)

    def linear_weights(self, objectives: Sequence[str]) -> dict[str, float] | None:
        self.check(objectives)
        weights = self.weights_of(objectives) | {self.constrained: self.multiplier}
        return {name: weights[name] / (1 + self.multiplier) for name in objectives}

    def reduce(self, values: Tensor, present: Tensor, objectives: Sequence[str]) -> Tensor:
        reward = self.weighted_sum(values, present, objectives)
        cost = -values[..., list(objectives).index(self.constrained)]
        return (reward - self.multiplier * cost) / (1 + self.multiplier)


class LagrangeMultiplier:
    """Learns the multiplier of a `Lagrangian` from what the policy's answers get.

    The constraint is that the mean utility of the constrained objective be at least `limit`; after
    each batch of answers

        multiplier <- clip(multiplier + learning_rate * (limit - mean utility), 0, maximum)

    Args:
        aggregation: Where to start; its multiplier is the first value.
        limit: The mean utility that the constrained objective must reach.
        learning_rate: Step per unit of violation, above 0.
        maximum: The multiplier never exceeds it.
        delay: How many updates pass before the multiplier first moves.

    Example:
        >>> import torch
        >>> multiplier = LagrangeMultiplier(Lagrangian(multiplier=1), limit=0, learning_rate=0.5)
        >>> multiplier.update(torch.tensor([-3.0, -1.0]))
        2.0
        >>> multiplier.aggregation()
        Lagrangian(weights=None, missing='nan', constrained='safety', multiplier=2.0)
    """

    def __init__(
        self,
        aggregation: Lagrangian,
        limit: float,
        *,
        learning_rate: float = 0.05,
        maximum: float = 10.0,
        delay: int = 0,
    ) -> None:
        self.limit = finite_number(limit, "limit")
        self.learning_rate = finite_number(learning_rate, "learning_rate")
        self.maximum = finite_number(maximum, "maximum")
        self.delay = delay
        self.value = aggregation.multiplier
        self.num_updates = 0
        self._start = aggregation
        if self.learning_rate <= 0 or self.maximum < 0 or delay < 0:
            expected = "learning_rate above 0, maximum and delay of 0 or above"
            got = (learning_rate, maximum, delay)
            raise ConfigError("lagrange multiplier", expected=expected, got=got)
        self._check(self.value)

    def update(self, utilities: Tensor) -> float:
        """Move the multiplier by one batch of answers.

        Args:
            utilities: The constrained objective's, any shape; NaN are left out. A batch without
                any changes nothing.

        Returns:
            The new multiplier.
        """
        known = utilities[~utilities.isnan()]
        if known.numel() == 0:
            return self.value
        self.num_updates += 1
        if self.num_updates > self.delay:
            violation = self.limit - known.double().mean().item()
            moved = self.value + self.learning_rate * violation
            self.value = min(max(moved, 0.0), self.maximum)
        return self.value

    def aggregation(self) -> Lagrangian:
        """Return the objective aggregation with the current multiplier."""
        return self._start.with_overrides({"multiplier": self.value})

    def state_dict(self) -> dict[str, float]:
        """Return what changes, as JSON numbers."""
        return {"value": self.value, "num_updates": self.num_updates}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Continue from what `state_dict` returned.

        Raises:
            ConfigError: The value is not between 0 and the maximum.
        """
        self._check(state["value"])
        self.value = float(state["value"])
        self.num_updates = int(state["num_updates"])

    def _check(self, value: float) -> None:
        if not 0 <= value <= self.maximum:
            expected = f"between 0 and the maximum, {self.maximum:g}"
            raise ConfigError("lagrange multiplier", expected=expected, got=value)
