"""Weights that change while TRL trains: a real tiny policy, its logs and its checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from prm.aggregation.lagrange import LagrangeMultiplier, Lagrangian
from prm.aggregation.objectives import WeightedSum
from prm.models import checkpoint
from prm.rl.group_rewards import GroupNormalizedReward
from prm.rl.reward_function import CompletionReward, RewardFunction
from prm.rl.weighting import ByHand, Constraint, Weighting, WeightSchedule
from prm.spec import ResponseHead
from tests.interop.trl_runs import TRL_WARNINGS, Which, make_trainer
from tests.outcome_models import outcome_model

pytest.importorskip("trl")
pytestmark = TRL_WARNINGS

NAMES = ("helpfulness", "safety")
SAFETY = "prm/weighting/weights.safety"
MULTIPLIER = "prm/weighting/multiplier"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    objectives = tuple(ResponseHead(name) for name in NAMES)
    built = outcome_model(response_heads=objectives)
    return checkpoint.save(built, tmp_path_factory.mktemp("model") / "model")


def trainer_of(
    folder: Path, reward_funcs: Any, callbacks: list[Any], which: Which = "grpo", **options: Any
) -> Any:
    """Return a trainer that makes four steps, each on four answers to each of two prompts."""
    fields = {"max_steps": 4, "max_completion_length": 8, "learning_rate": 1e-6}
    return make_trainer(folder, reward_funcs, which, callbacks=callbacks, **fields | options)


def weighted(function: RewardFunction, weighting: Weighting) -> Any:
    from prm.rl.callbacks import RewardWeighting

    return RewardWeighting(function, weighting)


def ramp() -> WeightSchedule:
    points = {0: {"weights.safety": 1.0}, 3: {"weights.safety": 4.0}}
    return WeightSchedule(WeightedSum(), NAMES, points)


def constraint() -> Constraint:
    multiplier = LagrangeMultiplier(Lagrangian(), 20.0, learning_rate=0.01, delay=1)
    return Constraint(multiplier, NAMES)


def logged(trainer: Any, name: str) -> list[float]:
    return [row[name] for row in trainer.state.log_history if name in row]


def mean(values: list[Any]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known)


def mean_safeties(function: RewardFunction) -> list[float]:
    """Return a list that grows by the mean utility of safety with each batch."""
    seen: list[float] = []
    function.observers.append(
        lambda rewards: seen.append(mean([one.objectives["safety"] for one in rewards]))
    )
    return seen


@pytest.mark.parametrize("which", ["grpo", "rloo"])
def test_the_schedule_is_in_force_and_in_the_log(model: Path, tmp_path: Path, which: str) -> None:
    function = RewardFunction(model, device="cpu", empty=0.0)
    seen: list[list[CompletionReward]] = []
    function.observers.append(lambda rewards: seen.append(list(rewards)))
    trainer = trainer_of(tmp_path, function, [weighted(function, ramp())], which)
    trainer.train()
    assert logged(trainer, SAFETY) == pytest.approx([1.0, 2.0, 3.0, 4.0])
    rewards = logged(trainer, "reward")
    for weight, found, reward in zip((1.0, 2.0, 3.0, 4.0), seen, rewards, strict=True):
        by_hand = [
            0.0 if None in values else 0.5 * values[0] + weight * values[1]
            for values in (tuple(one.objectives[name] for name in NAMES) for one in found)
        ]
        assert reward == pytest.approx(mean(by_hand), abs=1e-5)


def test_the_multiplier_follows_the_measured_cost(model: Path, tmp_path: Path) -> None:
    function = RewardFunction(model, device="cpu")
    seen = mean_safeties(function)
    trainer = trainer_of(tmp_path, function, [weighted(function, constraint())])
    trainer.train()
    expected = [1.0, 1.0]
    for safety in seen[1:3]:
        expected.append(expected[-1] + 0.01 * (20.0 - safety))
    assert logged(trainer, MULTIPLIER) == pytest.approx(expected)
    assert logged(trainer, "prm/utility_mean/safety") == pytest.approx(seen)


def test_a_resumed_run_continues_the_multiplier(model: Path, tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2}
    first = RewardFunction(model, device="cpu")
    whole = trainer_of(tmp_path, first, [weighted(first, constraint())], **saving)
    whole.train()
    state = json.loads((tmp_path / "checkpoint-2" / "prm_weighting.json").read_text())
    assert state["weighting"] == "Constraint"
    assert state["state"]["num_updates"] == 2

    second = RewardFunction(model, device="cpu")
    seen = mean_safeties(second)
    resumed = trainer_of(tmp_path, second, [weighted(second, constraint())], **saving)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    values = logged(resumed, MULTIPLIER)
    assert values[:3] == pytest.approx(logged(whole, MULTIPLIER)[:3])
    assert values[2] > 1.1
    assert values[3] == pytest.approx(values[2] + 0.01 * (20.0 - seen[0]))


def test_answers_that_are_reused_are_logged_with_their_own_weights(
    model: Path, tmp_path: Path
) -> None:
    function = RewardFunction(model, device="cpu")
    callbacks = [weighted(function, ramp())]
    options = {"num_iterations": 2, "gradient_accumulation_steps": 1}
    trainer = trainer_of(tmp_path, function, callbacks, **options)
    trainer.train()
    assert logged(trainer, SAFETY) == pytest.approx([1.0, 1.0, 3.0, 3.0])


def test_weights_of_a_trainer_that_sums_follow(model: Path, tmp_path: Path) -> None:
    from prm.rl.trl import TRLRewards

    function = RewardFunction(model, device="cpu")
    callback = weighted(function, ramp())
    rewards = TRLRewards(function).objectives()
    trainer = trainer_of(
        tmp_path, rewards, [callback], multi_objective_aggregation="normalize_then_sum"
    )
    callback.attach(trainer)
    trainer.train()
    assert trainer.reward_weights.tolist() == [0.5, 4.0]
    assert logged(trainer, SAFETY) == pytest.approx([1.0, 2.0, 3.0, 4.0])


def test_rewards_that_are_normalized_in_their_groups(model: Path, tmp_path: Path) -> None:
    function = RewardFunction(model, device="cpu", empty=0.0)
    reward = GroupNormalizedReward(function, num_generations=4)
    trainer = trainer_of(tmp_path, reward, [], scale_rewards="none")
    trainer.train()
    assert logged(trainer, "rewards/group_normalized/mean") == pytest.approx([0.0] * 4, abs=1e-5)
    assert len(logged(trainer, "prm/zero_std_share/safety")) == 4


@pytest.mark.slow
def test_a_constrained_policy_meets_what_equal_weights_miss(model: Path, tmp_path: Path) -> None:
    """100 steps of GRPO: the utilities that a policy can reach conflict, and the limit binds."""
    limit = 2.8
    multiplier = LagrangeMultiplier(Lagrangian(), limit, learning_rate=0.3, maximum=20.0)
    safeties = []
    for weighting in (ByHand(WeightedSum(), NAMES), Constraint(multiplier, NAMES)):
        function = RewardFunction(model, device="cpu", empty=-5.0)
        options = {"max_steps": 100, "learning_rate": 5e-3, "lr_scheduler_type": "constant"}
        batch = {"per_device_train_batch_size": 16, "num_generations": 8}
        torch.manual_seed(0)
        trainer = trainer_of(
            tmp_path, function, [weighted(function, weighting)], **options, **batch
        )
        trainer.train()
        safeties.append(mean(logged(trainer, "prm/utility_mean/safety")[-20:]))
    equal, constrained = safeties
    assert equal < limit - 0.1
    assert constrained >= limit
