"""Objectives normalized within groups: golden values, missing ones, and a trainer's second turn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest
import torch

from prm.aggregation.objectives import ObjectiveAggregation, WeightedSum, WorstCase
from prm.errors import ConfigError, DataError
from prm.rl.group_rewards import GroupNormalizedReward
from prm.rl.reward_function import CompletionReward, RewardFunction
from prm.scores.responses import ResponseScore
from prm.scoring.scorer import RewardScorer
from prm.spec import ResponseHead
from tests.outcome_models import outcome_model

Row = tuple[float | None, ...]


class Stored(RewardFunction):
    """A reward function whose objectives are given: completion `i` has row `i`."""

    def __init__(
        self, rows: Sequence[Row], aggregation: ObjectiveAggregation | None = None
    ) -> None:
        names = "abc"[: len(rows[0])]
        objectives = tuple(ResponseHead(name) for name in names)
        chosen = aggregation or WeightedSum(dict.fromkeys(names, 1.0))
        scorer = RewardScorer(outcome_model(response_heads=objectives))
        super().__init__(scorer, objective_aggregation=chosen)
        self.rows = list(rows)

    def score(self, prompts: Any, completions: Any, *, applicable: Any = None) -> Any:
        found = []
        for completion in completions:
            values = dict(zip(self.objectives, self.rows[int(completion)], strict=True))
            score = ResponseScore("", "", 0, values, None, values, None, "weighted_sum")
            found.append(CompletionReward(None, values, score, completion))
        return found


def rewards(rows: Sequence[Row], prompts: Sequence[str], **options: Any) -> list[float | None]:
    completions = [str(index) for index in range(len(rows))]
    return GroupNormalizedReward(Stored(rows), **options)(prompts, completions)


def test_one_group_by_hand() -> None:
    found = rewards([(1.0, 0.0), (0.0, 0.0), (2.0, 10.0)], ["p"] * 3)
    a, b = math.sqrt(1.0), math.sqrt(100 / 3)
    expected = [(-10 / 3) / b, -1 / a + (-10 / 3) / b, 1 / a + (20 / 3) / b]
    assert found == pytest.approx(expected)
    assert sum(value for value in found if value is not None) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("num_answers", "num_objectives", "expected"), [(2, 2, 3), (3, 2, 6), (4, 2, 14), (2, 3, 4)]
)
def test_golden_number_of_distinct_advantages(
    num_answers: int, num_objectives: int, expected: int
) -> None:
    """The table of GDPO: one group of binary rewards, all combinations."""
    cells = product((0.0, 1.0), repeat=num_answers * num_objectives)
    groups = [
        [cell[i : i + num_objectives] for i in range(0, len(cell), num_objectives)]
        for cell in cells
    ]
    rows = [row for group in groups for row in group]
    prompts = [str(index) for index, group in enumerate(groups) for _ in group]
    found = rewards(rows, prompts, weights=dict.fromkeys("abc"[:num_objectives], 1.0))
    values = iter(found)
    vectors = {
        tuple(sorted(round(next(values) or 0.0, 3) + 0.0 for _ in group)) for group in groups
    }
    assert len(vectors) == expected


def test_groups_by_prompt_and_by_number_are_the_same() -> None:
    rows = [(1.0, 5.0), (2.0, 4.0), (3.0, 0.0), (0.0, 1.0)]
    by_prompt = rewards(rows, ["p", "p", "q", "q"])
    assert rewards(rows, ["p", "p", "q", "q"], num_generations=2) == by_prompt
    shuffled = rewards([rows[0], rows[2], rows[1], rows[3]], ["p", "q", "p", "q"])
    assert shuffled == [by_prompt[index] for index in (0, 2, 1, 3)]


def test_conversations_and_token_ids_are_prompts_too() -> None:
    function = Stored([(1.0, 0.0), (2.0, 0.0)])
    reward = GroupNormalizedReward(function)
    message = {"role": "user", "content": "p"}
    for prompt in ([message], [1, 2, 3], torch.tensor([1, 2, 3])):
        assert reward([prompt, prompt], ["0", "1"]) == pytest.approx([-0.7071068, 0.7071068])


def test_a_part_of_a_group_is_refused() -> None:
    with pytest.raises(DataError, match="only a part of a group"):
        rewards([(1.0, 0.0)] * 3, ["p"] * 3, num_generations=2)


def test_missing_values_count_for_nothing_and_no_value_is_no_reward() -> None:
    found = rewards([(1.0, None), (3.0, 2.0), (None, 4.0), (None, None)], ["p"] * 4)
    half = math.sqrt(0.5)
    assert found[3] is None
    assert found[:3] == pytest.approx([-half, half - half, half])


def test_what_hardly_varies_is_not_blown_up() -> None:
    """Without a floor, noise of 1e-4 would count as much as the other objective."""
    found = rewards([(1.0, 0.0001), (0.0, 0.0002)], ["p", "p"])
    assert found == pytest.approx([0.7071068 - 0.005, -0.7071068 + 0.005])


def test_weights_are_those_in_force_unless_they_are_given() -> None:
    rows = [(1.0, 0.0), (0.0, 1.0)]
    function = Stored(rows)
    reward = GroupNormalizedReward(function)
    assert reward(["p"] * 2, ["0", "1"]) == pytest.approx([0.0, 0.0])
    function.set_objective_aggregation(WeightedSum({"a": 3.0, "b": 1.0}))
    assert reward.weights() == {"a": 3.0, "b": 1.0}
    assert reward(["p"] * 2, ["0", "1"]) == pytest.approx([1.4142136, -1.4142136])
    assert GroupNormalizedReward(function, weights={"a": 0.0, "b": 1.0})(
        ["p"] * 2, ["0", "1"]
    ) == pytest.approx([-0.7071068, 0.7071068])


def test_an_aggregation_that_is_no_sum_needs_weights() -> None:
    function = Stored([(1.0, 0.0)], WorstCase())
    with pytest.raises(ConfigError, match="a weighted sum, or weights"):
        GroupNormalizedReward(function)
    assert GroupNormalizedReward(function, weights={"a": 1.0, "b": 1.0}).weights()["a"] == 1.0


@pytest.mark.parametrize(
    "options", [{"weights": {"a": 1.0}}, {"num_generations": 1}, {"weights": {"a": 1, "b": "x"}}]
)
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        GroupNormalizedReward(Stored([(1.0, 0.0)]), **options)


def test_the_share_of_groups_that_teach_nothing_is_logged() -> None:
    rows = [(1.0, 5.0), (1.0, 4.0), (3.0, 0.0), (0.0, 0.0)]
    reward = GroupNormalizedReward(Stored(rows), num_generations=2)
    logged: dict[str, float] = {}
    reward(["p"] * 4, ["0", "1", "2", "3"], log_metric=logged.__setitem__)
    assert reward.zero_std_share == {"a": 0.5, "b": 0.5}
    assert logged == {"prm/zero_std_share/a": 0.5, "prm/zero_std_share/b": 0.5}


def test_a_trainer_that_normalizes_again_keeps_the_order_and_loses_the_sizes() -> None:
    """The means of groups are 0 already; dividing by their deviation makes all equally large."""
    rows = [(1.0, 5.0), (0.0, 4.0), (3.0, 0.0), (0.0, 0.0)]
    ours = torch.tensor(rewards(rows, ["p", "p", "q", "q"]), dtype=torch.float64).view(2, 2)
    theirs = (ours - ours.mean(1, keepdim=True)) / (ours.std(1, keepdim=True) + 1e-4)
    torch.testing.assert_close(ours - ours.mean(1, keepdim=True), ours)
    assert ours.abs()[:, 0].tolist() == pytest.approx([1.4142136, 0.7071068])
    assert theirs.abs()[:, 0].tolist() == pytest.approx([0.7071, 0.7071], abs=1e-3)
    assert (ours.sign() == theirs.sign()).all()


def test_real_scores_are_normalized() -> None:
    function = RewardFunction(RewardScorer(outcome_model()))
    prompts, texts = ["1 + 1 = ?"] * 3, ["2", "It is 15.", "Two."]
    utilities = [found.objectives for found in function.score(prompts, texts)]
    expected = sum(
        (column - column.mean()) / column.std() / 2
        for name in function.objectives
        for column in [torch.tensor([row[name] for row in utilities])]
    )
    assert GroupNormalizedReward(function)(prompts, texts) == pytest.approx(
        expected.tolist(), abs=1e-5
    )
