"""Plans: each record exactly once, within the budget, the same number of passes on every rank."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prm.data.planning import (
    MicroBatchPlan,
    TrainingPlan,
    plan_evaluation,
    plan_micro_batches,
)
from prm.data.sampling import Mixed, Shuffled
from prm.errors import ConfigError, DataError

BUDGET = 64
length_lists = st.lists(st.integers(1, BUDGET), min_size=1, max_size=30)
ranks = st.integers(1, 4)


def counted(plans: list[MicroBatchPlan]) -> list[int]:
    return sorted(record for plan in plans if not plan.filler for record in plan.records)


@given(length_lists, ranks, st.data())
def test_an_optimizer_batch_holds_each_record_once_within_the_budget(
    lengths: list[int], num_ranks: int, data: st.DataObject
) -> None:
    records = data.draw(st.sets(st.integers(0, len(lengths) - 1), min_size=1).map(sorted))
    plans = plan_micro_batches(records, lengths, BUDGET, num_ranks)
    assert counted(plans) == records
    assert len(plans) % num_ranks == 0
    assert all(sum(lengths[r] for r in plan.records) <= BUDGET for plan in plans)
    assert all(plan.records for plan in plans)
    assert all(len(plan.records) == 1 for plan in plans if plan.filler)


@given(length_lists, ranks)
def test_evaluation_counts_each_record_once_within_the_budget(
    lengths: list[int], num_ranks: int
) -> None:
    plans = plan_evaluation(lengths, BUDGET, num_ranks)
    assert counted(plans) == list(range(len(lengths)))
    assert len(plans) % num_ranks == 0
    assert all(sum(lengths[r] for r in plan.records) <= BUDGET for plan in plans)
    assert all(plan.records for plan in plans)
    assert sum(plan.filler for plan in plans) < num_ranks


@given(length_lists)
def test_no_more_micro_batches_than_twice_what_is_needed(lengths: list[int]) -> None:
    plans = plan_micro_batches(range(len(lengths)), lengths, BUDGET)
    assert len(plans) <= 2 * -(-sum(lengths) // BUDGET)


def test_more_ranks_than_records_get_fillers_that_count_for_nothing() -> None:
    plans = plan_micro_batches([0, 1], [5, 3], 10, num_ranks=4)
    assert counted(plans) == [0, 1]
    assert [plan for plan in plans if plan.filler] == [MicroBatchPlan((1,), filler=True)] * 2


def test_a_record_over_the_budget_is_named() -> None:
    with pytest.raises(DataError, match=r"record 1 does not fit.*at most 8 tokens.*got 9 tokens"):
        plan_micro_batches([0, 1], [3, 9], 8)


def test_evaluation_gives_a_record_over_the_budget_a_pass_of_its_own() -> None:
    assert plan_evaluation([3, 9, 4], 8) == [MicroBatchPlan((1,)), MicroBatchPlan((2, 0))]


def test_nothing_to_evaluate_is_an_empty_plan() -> None:
    assert plan_evaluation([], 8, num_ranks=2) == []


@given(length_lists, st.integers(1, 8), ranks)
def test_an_epoch_holds_each_record_at_most_once(
    lengths: list[int], batch_size: int, num_ranks: int
) -> None:
    sampler = Shuffled(len(lengths), seed=3)
    plan = TrainingPlan(lengths, batch_size, BUDGET, num_ranks, sampler)
    seen = []
    for step in range(plan.num_steps):
        records = plan.records(0, step)
        assert counted(plan.step(0, step)) == sorted(records)
        assert len(records) == batch_size or step == plan.num_steps - 1
        seen += records
    assert len(set(seen)) == len(seen)
    assert len(seen) == len(lengths)


def test_a_plan_needs_a_record() -> None:
    with pytest.raises(ConfigError, match="too few training records"):
        TrainingPlan([], 4, BUDGET)


def test_plans_depend_on_seed_and_epoch_only() -> None:
    lengths = list(range(1, 40))
    plan, same = (TrainingPlan(lengths, 4, BUDGET, sampler=Shuffled(39, 5)) for _ in range(2))
    other = TrainingPlan(lengths, 4, BUDGET, sampler=Shuffled(39, 6))
    first = plan.records(0, 3)
    assert plan.records(1, 3) != first
    assert plan.records(0, 3) == first == same.records(0, 3) != other.records(0, 3)


@given(length_lists, st.integers(1, 8))
def test_the_records_of_a_step_do_not_depend_on_budget_or_ranks(
    lengths: list[int], batch_size: int
) -> None:
    one = TrainingPlan(lengths, batch_size, BUDGET, num_ranks=1)
    other = TrainingPlan(lengths, batch_size, 3 * BUDGET, num_ranks=3)
    assert one.num_steps == other.num_steps
    for step in range(one.num_steps):
        assert one.records(2, step) == other.records(2, step)


def test_no_records_cannot_be_trained_on() -> None:
    with pytest.raises(ConfigError, match="too few training records"):
        TrainingPlan([], 4, BUDGET)


def test_the_sampler_says_which_records_an_epoch_has() -> None:
    plan = TrainingPlan([5] * 3, 2, BUDGET, sampler=Mixed(["a", "a", "b"], {"a": 2, "b": 3}))
    assert plan.num_steps == 3
    drawn = [record for step in range(3) for record in plan.records(0, step)]
    assert sorted(drawn) == [0, 1, 2, 2, 2]
