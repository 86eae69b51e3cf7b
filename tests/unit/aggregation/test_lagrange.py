"""The Lagrange multiplier: its steps, its limits, and a policy that meets its constraint."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor

from prm.aggregation.lagrange import LagrangeMultiplier, Lagrangian
from prm.aggregation.objectives import ObjectiveAggregation, WeightedSum
from prm.errors import ConfigError

NAMES = ("helpfulness", "safety")


def test_the_reward_is_that_of_safe_rlhf() -> None:
    utilities = torch.tensor([[2.0, -1.0], [0.5, 3.0]])
    reward, cost, multiplier = utilities[:, 0], -utilities[:, 1], 1.7
    expected = (reward - multiplier * cost) / (1 + multiplier)
    torch.testing.assert_close(Lagrangian(multiplier=multiplier)(utilities, NAMES), expected)


def test_the_other_objectives_are_weighted() -> None:
    aggregation = Lagrangian("cost", 3.0, {"a": 0.25, "b": 0.75})
    result = aggregation(torch.tensor([4.0, -1.0, 8.0]), ("a", "cost", "b"))
    assert result.item() == pytest.approx((0.25 * 4 + 0.75 * 8 - 3 * 1) / 4)
    assert aggregation.linear_weights(("a", "cost", "b")) == {
        "a": 0.0625,
        "cost": 0.75,
        "b": 0.1875,
    }


def test_a_row_needs_the_constraint_and_another_objective() -> None:
    aggregation = Lagrangian(missing="renormalize")
    assert aggregation(torch.tensor([[1.0, math.nan], [math.nan, 1.0]]), NAMES).isnan().all()
    with pytest.raises(ConfigError, match="expected another objective"):
        aggregation.check(["safety"])


def test_the_multiplier_grows_while_the_constraint_is_violated() -> None:
    multiplier = LagrangeMultiplier(Lagrangian(multiplier=1.0), limit=0.5, learning_rate=0.1)
    assert multiplier.update(torch.tensor([0.0, -1.0])) == pytest.approx(1.1)
    assert multiplier.update(torch.tensor([2.5])) == pytest.approx(0.9)
    assert multiplier.aggregation() == Lagrangian(multiplier=multiplier.value)


def test_the_step_is_proportional_to_the_violation() -> None:
    steps = []
    for violation in (0.01, 0.1, 1.0):
        multiplier = LagrangeMultiplier(Lagrangian(multiplier=0.0), limit=0.0, learning_rate=0.5)
        steps.append(multiplier.update(torch.tensor([-violation])))
    assert steps == pytest.approx([0.005, 0.05, 0.5])


def test_the_multiplier_stays_between_zero_and_its_maximum() -> None:
    multiplier = LagrangeMultiplier(Lagrangian(), limit=0.0, learning_rate=1.0, maximum=5.0)
    assert multiplier.update(torch.tensor([-1e6])) == 5.0
    assert multiplier.update(torch.tensor([1.0])) == 4.0
    assert multiplier.update(torch.tensor([1e6])) == 0.0


def test_the_first_updates_can_be_delayed() -> None:
    multiplier = LagrangeMultiplier(Lagrangian(), limit=0.0, learning_rate=1.0, delay=2)
    values = [multiplier.update(torch.tensor([-1.0])) for _ in range(4)]
    assert values == [1.0, 1.0, 2.0, 3.0]


def test_missing_utilities_are_left_out() -> None:
    multiplier = LagrangeMultiplier(Lagrangian(), limit=0.0, learning_rate=1.0)
    assert multiplier.update(torch.tensor([math.nan, -0.5])) == 1.5
    assert multiplier.update(torch.tensor([math.nan])) == 1.5
    assert multiplier.update(torch.tensor([])) == 1.5
    assert multiplier.num_updates == 1


def test_the_state_continues_as_if_never_interrupted() -> None:
    def new() -> LagrangeMultiplier:
        return LagrangeMultiplier(Lagrangian(), limit=0.1, learning_rate=0.3, delay=2)

    batches = [torch.tensor([value]) for value in (-1.0, -0.3, -2.0, 0.4, -0.2)]
    whole, first, second = new(), new(), new()
    expected = [whole.update(batch) for batch in batches]
    for batch in batches[:3]:
        first.update(batch)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert [second.update(batch) for batch in batches[3:]] == expected[3:]
    assert second.state_dict() == whole.state_dict()


@pytest.mark.parametrize(
    "options",
    [
        {"limit": math.nan},
        {"limit": 0.0, "learning_rate": 0.0},
        {"limit": 0.0, "delay": -1},
        {"limit": 0.0, "maximum": 0.5},
    ],
)
def test_wrong_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        LagrangeMultiplier(Lagrangian(multiplier=1.0), **options)


def test_a_state_beyond_the_maximum_is_refused() -> None:
    multiplier = LagrangeMultiplier(Lagrangian(), limit=0.0, maximum=2.0)
    with pytest.raises(ConfigError, match="between 0 and the maximum, 2"):
        multiplier.load_state_dict({"value": 3.0, "num_updates": 1})


# A policy over four answers, with an entropy bonus as RLHF has a KL penalty. Mean safety must be
# at least 0. The first answer is the most helpful and unsafe, and has the largest sum.
UTILITIES = torch.tensor([[5.0, -2.0], [1.0, 0.5], [0.0, 0.8], [-2.0, 1.0]], dtype=torch.float64)
SAFETY_LIMIT = 0.0
TEMPERATURE = 0.1


def best_policy(aggregation: ObjectiveAggregation, temperature: float = TEMPERATURE) -> Tensor:
    """Return the one policy that maximizes `E[R] + temperature * entropy`."""
    return (aggregation(UTILITIES, NAMES) / temperature).softmax(dim=0)


def mean_utilities(policy: Tensor) -> tuple[float, float]:
    helpfulness, safety = (policy @ UTILITIES).tolist()
    return helpfulness, safety


def policy_gradient(policy: Tensor, rewards: Tensor) -> Tensor:
    """Return the exact gradient of `E[R] + temperature * entropy` in the logits of the policy."""
    advantages = rewards - TEMPERATURE * policy.log()
    return policy * (advantages - policy @ advantages)


def test_equal_weights_provably_violate_the_constraint() -> None:
    """Over all policies E[R] is largest at the answer of the largest sum, and only there.

    `E[R] = sum_a p_a R_a <= max_a R_a`, with equality only if p is 1 at the one best answer; that
    answer's safety is -2. The entropy bonus moves the optimum by a known amount, not enough.
    """
    rewards = WeightedSum()(UTILITIES, NAMES)
    assert rewards.argmax() == 0
    assert (rewards[0] > rewards[1:]).all()
    assert UTILITIES[0, 1] < SAFETY_LIMIT
    for temperature in (TEMPERATURE, 0.03, 0.01):
        assert mean_utilities(best_policy(WeightedSum(), temperature))[1] < SAFETY_LIMIT - 1.9


def test_a_policy_trained_with_the_multiplier_meets_the_constraint() -> None:
    logits = torch.zeros(4, dtype=torch.float64)
    multiplier = LagrangeMultiplier(
        Lagrangian(multiplier=1.0), SAFETY_LIMIT, learning_rate=0.02, delay=10
    )
    for _ in range(3000):
        policy = logits.softmax(dim=0)
        logits += 2.0 * policy_gradient(policy, multiplier.aggregation()(UTILITIES, NAMES))
        multiplier.update((policy @ UTILITIES)[1])
    helpfulness, safety = mean_utilities(logits.softmax(dim=0))
    assert safety == pytest.approx(SAFETY_LIMIT, abs=0.01)
    assert 0 < multiplier.value < multiplier.maximum
    torch.testing.assert_close(
        logits.softmax(dim=0), best_policy(multiplier.aggregation()), atol=1e-3, rtol=0
    )
    always_safe = UTILITIES[UTILITIES[:, 1] >= SAFETY_LIMIT, 0].max().item()
    assert helpfulness > always_safe


def test_the_same_training_with_equal_weights_violates_it() -> None:
    logits = torch.zeros(4, dtype=torch.float64)
    rewards = WeightedSum()(UTILITIES, NAMES)
    for _ in range(3000):
        logits += 2.0 * policy_gradient(logits.softmax(dim=0), rewards)
    assert mean_utilities(logits.softmax(dim=0))[1] < SAFETY_LIMIT - 1.9
