"""What one objective costs in another: the price an aggregation accepts, and the one data ask."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations

import numpy as np
import torch

from prm.aggregation.objectives import ObjectiveAggregation
from prm.arrays import Array
from prm.audit.decisions import Decisions
from prm.audit.tradeoff_report import Exchange


def exchange_rates(decisions: Decisions, base: ObjectiveAggregation) -> tuple[Exchange, ...]:
    """Return the prices of all ordered pairs of objectives.

    The price under the aggregation is the ratio of its slopes at the winners. What the data ask is
    measured between undominated responses to the same prompt, where one objective can only be
    gained by giving up another.
    """
    slopes = _slopes(base, decisions)
    first, second = decisions.pairs
    kept = ~(decisions.dominated[first] | decisions.dominated[second])
    steps = decisions.utilities[first[kept]] - decisions.utilities[second[kept]]
    places = range(len(decisions.objectives))
    return tuple(
        _exchange(decisions.objectives, slopes, steps, gained, given)
        for gained, given in permutations(places, 2)
    )


def _slopes(base: ObjectiveAggregation, decisions: Decisions) -> Array:
    """Return the gradient of the winners' rewards in their utilities, `[group, objective]`."""
    rows = decisions.candidates.winners(decisions.base_rewards)
    values = torch.from_numpy(decisions.utilities[rows]).requires_grad_()
    gates = None if decisions.gates is None else torch.from_numpy(decisions.gates[rows])
    rewards = base(values, decisions.objectives, gates if base.needs_gates else None)
    rewards.sum().backward()
    assert values.grad is not None
    slopes: Array = values.grad.numpy()
    return slopes


def _exchange(
    objectives: Sequence[str], slopes: Array, steps: Array, gained: int, given: int
) -> Exchange:
    with np.errstate(divide="ignore", invalid="ignore"):
        rates = slopes[:, gained] / slopes[:, given]
    rates = rates[~np.isnan(rates)]
    low, rate, high = _quantiles(rates, (0.25, 0.5, 0.75))
    steps = steps * np.sign(steps[:, [gained]])
    conflicts = steps[(steps[:, gained] > 0) & (steps[:, given] < 0)]
    paid = _quantiles(-conflicts[:, given] / conflicts[:, gained], (0.5,))[0]
    names = objectives[gained], objectives[given]
    return Exchange(*names, rate, low, high, paid, len(conflicts))


def _quantiles(values: Array, levels: Sequence[float]) -> list[float | None]:
    """Return observed quantiles; `None` where they are not finite or there is no value."""
    if len(values) == 0:
        return [None] * len(levels)
    found = np.quantile(values, levels, method="inverted_cdf").tolist()
    return [value if math.isfinite(value) else None for value in found]
