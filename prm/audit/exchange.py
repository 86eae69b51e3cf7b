"""What one objective costs in another: the price an aggregation accepts, and the one data ask."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations

import numpy as np
import torch

from prm.aggregation.objectives import ObjectiveAggregation
from prm.audit.market import Market
from prm.audit.tradeoff_report import Exchange
from prm.scores.columns import Array


def exchange_rates(market: Market, base: ObjectiveAggregation) -> tuple[Exchange, ...]:
    """Return the prices of all ordered pairs of objectives.

    The price under the aggregation is the ratio of its slopes at the winners. What the data ask is
    measured between undominated responses to the same prompt, where one objective can only be
    gained by giving up another.
    """
    slopes = _slopes(base, market)
    first, second = market.pairs
    kept = ~(market.dominated[first] | market.dominated[second])
    steps = market.utilities[first[kept]] - market.utilities[second[kept]]
    places = range(len(market.objectives))
    return tuple(
        _exchange(market.objectives, slopes, steps, gained, given)
        for gained, given in permutations(places, 2)
    )


def _slopes(base: ObjectiveAggregation, market: Market) -> Array:
    """Return the gradient of the winners' rewards in their utilities, `[group, objective]`."""
    rows = market.candidates.winners(market.base_rewards)
    values = torch.from_numpy(market.utilities[rows]).requires_grad_()
    gates = None if market.gates is None else torch.from_numpy(market.gates[rows])
    rewards = base(values, market.objectives, gates if base.needs_gates else None)
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
