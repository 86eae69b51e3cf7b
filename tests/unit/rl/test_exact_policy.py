"""An exact policy over a few answers, trained under each weighting: who meets the constraint.

The mean safety must be at least 0. The first answer is the most helpful and unsafe, and has the
largest sum of both.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from prm.aggregation.lagrange import LagrangeMultiplier, Lagrangian
from prm.aggregation.objectives import SafetyGate, WeightedSum
from prm.rl.weighting import ByHand, Constraint, Weighting, WeightSchedule

NAMES = ("helpfulness", "safety")
UTILITIES = torch.tensor([[5.0, -2.0], [1.0, 0.5], [0.0, 0.8], [-2.0, 1.0]], dtype=torch.float64)
ENTROPY = 0.1
STEPS = 1000


def trained(weighting: Weighting) -> Tensor:
    """Return the policy after exact gradient steps on `E[R] + 0.1 entropy`."""
    logits = torch.zeros(len(UTILITIES), dtype=torch.float64)
    for step in range(STEPS):
        policy = logits.softmax(dim=0)
        rewards = weighting.aggregation(step)(UTILITIES, NAMES)
        advantages = rewards - ENTROPY * policy.log()
        logits += 2.0 * policy * (advantages - policy @ advantages)
        weighting.observe(dict(zip(NAMES, (policy @ UTILITIES).tolist(), strict=True)))
    return logits.softmax(dim=0)


def mean_utilities(policy: Tensor) -> dict[str, float]:
    return dict(zip(NAMES, (policy @ UTILITIES).tolist(), strict=True))


def constraint(limit: float) -> Constraint:
    start = Lagrangian(multiplier=1.0)
    return Constraint(LagrangeMultiplier(start, limit, learning_rate=0.02, delay=10), NAMES)


def test_equal_weights_violate_the_constraint_provably() -> None:
    """`E[R] <= max R`, with equality for one policy alone: the answer of the largest sum."""
    rewards = WeightedSum()(UTILITIES, NAMES)
    assert (rewards[0] > rewards[1:]).all()
    assert UTILITIES[0, 1] < 0
    optimum = (rewards / ENTROPY).softmax(dim=0)
    policy = trained(ByHand(WeightedSum(), NAMES))
    torch.testing.assert_close(policy, optimum, atol=1e-3, rtol=0)
    assert mean_utilities(policy)["safety"] < -1.99


def test_a_gate_meets_the_constraint() -> None:
    """The gate gives the unsafe answer its safety, -2, so that the next helpful one is best."""
    assert UTILITIES[0, 1].sigmoid() < SafetyGate().threshold
    found = mean_utilities(trained(ByHand(SafetyGate(), NAMES)))
    assert found["safety"] > 0.45
    assert found["helpfulness"] == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("limit", [-1.0, 0.5])
def test_a_multiplier_meets_the_constraint_and_no_more(limit: float) -> None:
    found = mean_utilities(trained(constraint(limit)))
    assert found["safety"] == pytest.approx(limit, abs=0.02)


def test_a_multiplier_leaves_more_helpfulness_than_a_gate() -> None:
    constrained, gated = (
        mean_utilities(trained(weighting))
        for weighting in (constraint(0.0), ByHand(SafetyGate(), NAMES))
    )
    assert constrained["helpfulness"] > gated["helpfulness"]


def test_a_schedule_ends_where_its_last_weights_lead() -> None:
    equal, safe = {"weights.safety": 0.5}, {"weights.safety": 20.0}
    schedule = WeightSchedule(WeightedSum(), NAMES, {0: equal, STEPS // 4: safe})
    last = schedule.aggregation(STEPS)
    fixed = trained(ByHand(last, NAMES))
    torch.testing.assert_close(trained(schedule), fixed, atol=1e-3, rtol=0)
    assert mean_utilities(fixed)["safety"] > 0.9
