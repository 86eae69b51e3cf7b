"""Decisions under changed weights: one weight at a time, two against each other, a small change."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from prm.aggregation.objectives import ObjectiveAggregation, WeightedSum
from prm.arrays import Array
from prm.audit.decisions import Decisions
from prm.audit.groups import share_flipped
from prm.audit.tradeoff_report import Flip, Sensitivity

FACTORS = (0.0, 0.125, 0.25, 0.5, 0.7, 1.0, 1.4, 2.0, 4.0, 8.0)
"""What a weight is multiplied with."""

SHARES = tuple(round(0.1 * step, 1) for step in range(11))
"""How the weights of two objectives are divided between them."""

STEP = 1.1
"""The factor of the small change that sensitivities are measured by."""


@dataclass(frozen=True, slots=True, eq=False)
class Sweep:
    """An aggregation whose weights are changed, and the rewards that it starts from.

    Args:
        decisions: The candidates.
        aggregation: Has a weight for every objective.
        rewards: Its rewards, shape `[candidate]`.
    """

    decisions: Decisions
    aggregation: ObjectiveAggregation
    rewards: Array

    @classmethod
    def around(cls, decisions: Decisions, base: ObjectiveAggregation) -> Sweep:
        """Start from the base; from equal weights if it does not weigh every objective."""
        swept = base
        linear = base.linear_weights(decisions.objectives)
        if linear is not None:
            swept = WeightedSum(linear)
        elif set(_weights(base, decisions)) != set(decisions.objectives):
            swept = WeightedSum(_weights(WeightedSum(), decisions))
        return cls(decisions, swept, decisions.rewards(swept))

    @property
    def weights(self) -> dict[str, float]:
        """The weights that it starts from."""
        return _weights(self.aggregation, self.decisions)

    def by_weight(self, name: str) -> tuple[Flip, ...]:
        """Return what multiplying the weight of an objective changes."""
        return tuple(self._flip(factor, {name: factor * self.weights[name]}) for factor in FACTORS)

    def by_share(self, a: str, b: str) -> tuple[Flip, ...]:
        """Return what dividing the weights of two objectives anew changes; settings are a's share.

        Their total stays; it is 1 if both weights are 0.
        """
        total = abs(self.weights[a]) + abs(self.weights[b]) or 1.0
        return tuple(
            self._flip(share, {a: share * total, b: (1 - share) * total}) for share in SHARES
        )

    def sensitivity(self, name: str) -> Sensitivity:
        """Return what a weight that is 10 % higher or lower changes."""
        winners = self.decisions.candidates.winners
        here = winners(self.rewards)
        up, down = (
            winners(self._changed({name: factor * self.weights[name]}))
            for factor in (STEP, 1 / STEP)
        )
        utilities = self.decisions.utilities
        change = utilities[up].mean(axis=0) - utilities[down].mean(axis=0)
        changed = float((up != here).mean() + (down != here).mean()) / 2
        return Sensitivity(changed, self.decisions.named(change / (2 * math.log(STEP))))

    def _flip(self, setting: float, weights: Mapping[str, float]) -> Flip:
        if not any((self.weights | dict(weights)).values()):
            return Flip(setting, None, None)
        rewards, winners = self._changed(weights), self.decisions.candidates.winners
        changed = float((winners(rewards) != winners(self.rewards)).mean())
        return Flip(setting, changed, share_flipped(self.decisions.pairs, self.rewards, rewards))

    def _changed(self, weights: Mapping[str, float]) -> Array:
        objectives = self.decisions.objectives
        changed = self.aggregation.with_overrides({"weights": dict(weights)}, objectives)
        return self.decisions.rewards(changed)


def _weights(aggregation: ObjectiveAggregation, decisions: Decisions) -> dict[str, float]:
    weights = aggregation.named_parameters(decisions.objectives).get("weights")
    return dict(weights) if isinstance(weights, Mapping) else {}
