"""Group advantages: golden counts, invariances, missing scores, groups that teach nothing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prm.aggregation.groups import Advantages, normalize_then_sum, sum_then_normalize
from prm.errors import ConfigError

Advantage = Callable[..., Advantages]
both = pytest.mark.parametrize("advantage", [sum_then_normalize, normalize_then_sum])
NAN = math.nan


def gdpo(rewards: Tensor, groups: Tensor, weights: Tensor | None = None) -> Advantages:
    return normalize_then_sum(rewards, groups, weights, whiten=False)


def distinct_advantages(advantage: Advantage, num_answers: int, num_objectives: int) -> int:
    """Count the sorted advantage vectors of one group over all binary rewards."""
    found = set()
    for bits in itertools.product([0.0, 1.0], repeat=num_answers * num_objectives):
        rewards = torch.tensor(bits, dtype=torch.float64).reshape(num_answers, num_objectives)
        values = advantage(rewards, torch.zeros(num_answers, dtype=torch.int64)).values
        found.add(tuple(values.sort().values.mul(1000).round().long().tolist()))
    return len(found)


@pytest.mark.golden
@pytest.mark.parametrize(
    ("num_answers", "num_objectives", "grpo_count", "gdpo_count"),
    [(2, 2, 2, 3), (3, 2, 4, 6), (4, 2, 7, 14), (2, 3, 2, 4)],
)
def test_normalizing_first_keeps_more_apart(
    num_answers: int, num_objectives: int, grpo_count: int, gdpo_count: int
) -> None:
    assert distinct_advantages(sum_then_normalize, num_answers, num_objectives) == grpo_count
    assert distinct_advantages(gdpo, num_answers, num_objectives) == gdpo_count


def random_batch(seed: int, num_objectives: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(24, num_objectives, generator=generator, dtype=torch.float64)
    return rewards, torch.randint(0, 5, (24,), generator=generator)


def z_scores(values: Tensor, groups: Tensor) -> Tensor:
    """Normalize one objective group by group, written as a loop."""
    result = torch.zeros_like(values)
    for group in groups.unique():
        member = groups == group
        if member.sum() > 1:
            part = values[member]
            result[member] = (part - part.mean()) / part.std()
    return result


@given(st.integers(0, 1000))
def test_sum_then_normalize_is_the_z_score_of_the_sum(seed: int) -> None:
    rewards, groups = random_batch(seed)
    weights = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
    expected = z_scores(rewards @ weights, groups)
    actual = sum_then_normalize(rewards, groups, weights, floor=1e-9).values
    torch.testing.assert_close(actual, expected)


@given(st.integers(0, 1000))
def test_normalize_then_sum_is_the_sum_of_z_scores(seed: int) -> None:
    rewards, groups = random_batch(seed)
    weights = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
    expected = sum(
        weight * z_scores(column, groups) for weight, column in zip(weights, rewards.T, strict=True)
    )
    actual = normalize_then_sum(rewards, groups, weights, floor=1e-9, whiten=False).values
    torch.testing.assert_close(actual, expected)
    whitened = normalize_then_sum(rewards, groups, weights, floor=1e-9).values
    torch.testing.assert_close(whitened, (expected - expected.mean()) / expected.std())


@given(st.integers(0, 1000))
def test_one_objective_is_the_group_z_score_then_the_batch(seed: int) -> None:
    rewards, groups = random_batch(seed, num_objectives=1)
    scores = z_scores(rewards[:, 0], groups)
    actual = normalize_then_sum(rewards, groups, floor=1e-9).values
    torch.testing.assert_close(actual, (scores - scores.mean()) / scores.std())


@both
@given(seed=st.integers(0, 1000), constant=st.floats(-1e4, 1e4))
def test_adding_a_constant_to_one_objective_changes_nothing(
    advantage: Advantage, seed: int, constant: float
) -> None:
    rewards, groups = random_batch(seed)
    shifted = rewards + torch.tensor([0.0, constant, 0.0], dtype=torch.float64)
    torch.testing.assert_close(
        advantage(shifted, groups).values, advantage(rewards, groups).values, atol=1e-6, rtol=0
    )


@both
@given(seed=st.integers(0, 1000), constant=st.floats(-1e4, 1e4))
def test_a_constant_objective_contributes_nothing(
    advantage: Advantage, seed: int, constant: float
) -> None:
    rewards, groups = random_batch(seed)
    rewards[:, 1] = constant
    torch.testing.assert_close(
        advantage(rewards, groups).values,
        advantage(rewards[:, [0, 2]], groups).values,
        atol=1e-6,
        rtol=0,
    )


@both
@given(seed=st.integers(0, 1000), order=st.permutations(range(24)))
def test_the_order_of_the_answers_does_not_matter(
    advantage: Advantage, seed: int, order: list[int]
) -> None:
    rewards, groups = random_batch(seed)
    torch.testing.assert_close(
        advantage(rewards[order], groups[order] * 7 + 3).values,
        advantage(rewards, groups).values[order],
    )


@given(st.integers(0, 1000), st.lists(st.integers(0, 23), unique=True))
def test_missing_scores_never_change_what_other_objectives_contribute(
    seed: int, missing: list[int]
) -> None:
    rewards, groups = random_batch(seed)
    rewards[missing, 1] = NAN
    alone = gdpo(rewards[:, [1]], groups).values
    others = gdpo(rewards[:, [0, 2]], groups).values
    torch.testing.assert_close(gdpo(rewards, groups).values, alone + others)
    assert not alone[missing].any()


@both
def test_an_answer_without_any_score_gets_advantage_zero(advantage: Advantage) -> None:
    rewards = torch.tensor([[1.0, 0.5], [NAN, NAN], [0.0, 0.7], [-1.0, -0.4]])
    groups = torch.zeros(4, dtype=torch.int64)
    values = advantage(rewards, groups).values
    scored = [0, 2, 3]
    assert values[1] == 0
    torch.testing.assert_close(values[scored], advantage(rewards[scored], groups[:3]).values)


@both
def test_an_objective_of_weight_zero_is_no_score(advantage: Advantage) -> None:
    rewards = torch.tensor([[1.0, 3.0], [NAN, 5.0], [0.0, 4.0]])
    groups = torch.zeros(3, dtype=torch.int64)
    values = advantage(rewards, groups, torch.tensor([1.0, 0.0])).values
    torch.testing.assert_close(values, advantage(rewards[:, :1], groups).values)


def test_an_answer_is_not_punished_for_what_was_not_measured() -> None:
    """Two good answers, one without its second score, and a bad one."""
    rewards = torch.tensor([[1.0, 1.0], [1.0, NAN], [0.0, 0.0]])
    values = sum_then_normalize(rewards, torch.zeros(3, dtype=torch.int64)).values
    assert values[0] == values[1] > 0 > values[2]


def test_the_floor_keeps_noise_small() -> None:
    rewards = torch.tensor([[1.0, 5.0001], [0.0, 5.0]])
    groups = torch.zeros(2, dtype=torch.int64)
    noisy = gdpo(rewards[:, 1:], groups).values
    assert noisy.abs().max() < 0.01
    assert normalize_then_sum(rewards[:, 1:], groups, floor=1e-9, whiten=False).values[0] > 0.7


def test_groups_that_teach_nothing_are_counted() -> None:
    rewards = torch.tensor([[0.1, 1], [0.1, 0], [0.5, NAN], [0.7, NAN], [0.3, 1], [0.3, 1]])
    groups = torch.tensor([4, 4, 0, 0, 2, 2])
    assert gdpo(rewards, groups).zero_std_share.tolist() == pytest.approx([2 / 3, 2 / 3])
    assert sum_then_normalize(rewards, groups).zero_std_share.item() == pytest.approx(1 / 3)
    single = sum_then_normalize(rewards[:1], groups[:1])
    assert single.values.tolist() == [0.0]
    assert single.zero_std_share == 1.0


@both
def test_half_precision_rewards_give_float32(advantage: Advantage) -> None:
    rewards, groups = random_batch(0)
    assert advantage(rewards.bfloat16(), groups).values.dtype == torch.float32
    assert advantage(rewards, groups).values.dtype == torch.float64
    extreme = advantage(rewards.float() * 1e4, groups).values
    assert extreme.isfinite().all()


@both
@pytest.mark.parametrize(
    ("rewards", "groups", "weights", "floor"),
    [
        (torch.zeros(3), torch.zeros(3), None, 0.01),
        (torch.zeros(3, 2), torch.zeros(2), None, 0.01),
        (torch.zeros(3, 2), torch.zeros(3), torch.ones(3), 0.01),
        (torch.zeros(3, 2), torch.zeros(3), torch.tensor([1.0, -1.0]), 0.01),
        (torch.zeros(3, 2), torch.zeros(3), None, 0.0),
    ],
)
def test_wrong_inputs_are_refused(
    advantage: Advantage, rewards: Tensor, groups: Tensor, weights: Tensor | None, floor: float
) -> None:
    with pytest.raises(ConfigError):
        advantage(rewards, groups.long(), weights, floor=floor)
