"""`RewardWeighting` beside a trainer that is played by hand; for a real one see tests/interop."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from prm.aggregation.lagrange import LagrangeMultiplier, Lagrangian
from prm.aggregation.objectives import SafetyGate, WeightedSum
from prm.errors import ConfigError
from prm.rl.callbacks import STATE_FILE, RewardWeighting
from prm.rl.reward_function import RewardFunction
from prm.rl.weighting import ByHand, Constraint, Weighting, WeightSchedule
from prm.scoring.scorer import RewardScorer
from prm.spec import ResponseHead
from tests.outcome_models import outcome_model

NAMES = ("helpfulness", "safety")
OBJECTIVES = tuple(ResponseHead(name) for name in NAMES)
PROMPTS = ["1 + 1 = ?"] * 3
ANSWERS = (["2", "It is 15.", "Two."], ["20", "3", "Done."], ["14", "So.", "4"])


@pytest.fixture(scope="module")
def scorer() -> RewardScorer:
    return RewardScorer(outcome_model(response_heads=OBJECTIVES))


@pytest.fixture
def function(scorer: RewardScorer) -> RewardFunction:
    return RewardFunction(scorer)


def constraint(limit: float = 50.0) -> Constraint:
    """The tiny model's utilities are far below the limit, so the multiplier rises."""
    return Constraint(LagrangeMultiplier(Lagrangian(), limit, learning_rate=0.01), NAMES)


def ramp() -> WeightSchedule:
    points = {0: {"weights.safety": 1.0}, 2: {"weights.safety": 3.0}}
    return WeightSchedule(WeightedSum(), NAMES, points)


class Played:
    """Calls a callback as the loop of transformers does."""

    def __init__(self, callback: RewardWeighting, folder: Path, global_step: int = 0) -> None:
        self.callback = callback
        self.args = SimpleNamespace(output_dir=str(folder))
        self.state = SimpleNamespace(
            global_step=global_step, log_history=[], is_world_process_zero=True
        )
        self.call("on_train_begin")

    def call(self, event: str, **kwargs: Any) -> None:
        getattr(self.callback, event)(self.args, self.state, None, **kwargs)

    def step(self, answers: Sequence[str] | None) -> list[float | None]:
        self.call("on_step_begin")
        rewards = [] if answers is None else self.callback.function(PROMPTS, answers)
        self.state.global_step += 1
        self.call("on_step_end")
        return rewards

    def log(self) -> dict[str, float]:
        logs = {"loss": 0.5}
        self.state.log_history.append({"step": self.state.global_step})
        self.call("on_log", logs=logs)
        return logs


def mean_safety(function: RewardFunction, answers: Sequence[str]) -> float:
    values = [found.objectives["safety"] for found in function.score(PROMPTS, answers)]
    return sum(value for value in values if value is not None) / len(values)


def test_each_step_has_the_aggregation_of_the_schedule(
    function: RewardFunction, scorer: RewardScorer, tmp_path: Path
) -> None:
    trainer = Played(RewardWeighting(function, ramp()), tmp_path)
    for answers, weight in zip(ANSWERS, (1.0, 2.0, 3.0), strict=True):
        rewards = trainer.step(answers)
        weights = WeightedSum({"helpfulness": 0.5, "safety": weight})
        alone = RewardScorer(scorer.model, objective_aggregation=weights)
        expected = [score.reward for score in alone.score(list(zip(PROMPTS, answers, strict=True)))]
        assert rewards == pytest.approx(expected, abs=1e-5)
        assert trainer.log()["prm/weighting/weights.safety"] == weight
    assert [row["prm/weighting/weights.safety"] for row in trainer.state.log_history] == [1, 2, 3]


def test_the_log_has_what_the_last_answers_were_weighted_with(
    function: RewardFunction, tmp_path: Path
) -> None:
    """Between two generations the schedule moves on, but no reward is made with it."""
    trainer = Played(RewardWeighting(function, ramp()), tmp_path)
    trainer.step(ANSWERS[0])
    trainer.step(None)
    logs = trainer.log()
    assert logs["prm/weighting/weights.safety"] == 1.0
    assert logs["prm/utility_mean/safety"] == pytest.approx(mean_safety(function, ANSWERS[0]))


def test_the_multiplier_moves_by_the_mean_of_the_step(
    function: RewardFunction, tmp_path: Path
) -> None:
    weighting = constraint()
    trainer = Played(RewardWeighting(function, weighting), tmp_path)
    expected = 1.0
    for answers in ANSWERS:
        used = weighting.multiplier.value
        trainer.step(answers)
        expected += 0.01 * (50.0 - mean_safety(function, answers))
        assert weighting.multiplier.value == pytest.approx(expected)
        assert trainer.log()["prm/weighting/multiplier"] == used
    assert function.spec.objective_aggregation == Lagrangian(multiplier=used)


def test_several_batches_of_a_step_are_one_mean(function: RewardFunction, tmp_path: Path) -> None:
    weighting = constraint()
    trainer = Played(RewardWeighting(function, weighting), tmp_path)
    trainer.call("on_step_begin")
    for answers in ANSWERS[:2]:
        function(PROMPTS, answers)
    trainer.call("on_step_end")
    mean = (mean_safety(function, ANSWERS[0]) + mean_safety(function, ANSWERS[1])) / 2
    assert weighting.multiplier.value == pytest.approx(1 + 0.01 * (50 - mean))
    assert weighting.multiplier.num_updates == 1


def test_evaluations_and_steps_without_answers_teach_nothing(
    function: RewardFunction, tmp_path: Path
) -> None:
    weighting = constraint()
    trainer = Played(RewardWeighting(function, weighting), tmp_path)
    function(PROMPTS, ANSWERS[0])
    trainer.step(None)
    function(PROMPTS, ANSWERS[1])
    assert weighting.state_dict() == {"value": 1.0, "num_updates": 0}


@pytest.mark.parametrize("make", [constraint, ramp, lambda: ByHand(SafetyGate(), NAMES)])
def test_a_resumed_run_goes_on_where_the_checkpoint_was(
    scorer: RewardScorer, tmp_path: Path, make: Any
) -> None:
    weightings: list[Weighting] = [make() for _ in range(3)]
    for weighting in weightings[:2]:
        if isinstance(weighting, ByHand):
            weighting.override({"threshold": 0.4})
    whole, first, second = (RewardWeighting(RewardFunction(scorer), one) for one in weightings)
    uninterrupted = Played(whole, tmp_path / "whole")
    for answers in ANSWERS:
        uninterrupted.step(answers)
    run = tmp_path / "run"
    (run / "checkpoint-2").mkdir(parents=True)
    stopped = Played(first, run)
    for answers in ANSWERS[:2]:
        stopped.step(answers)
    stopped.call("on_save")
    resumed = Played(second, run, global_step=2)
    resumed.step(ANSWERS[2])
    assert second.weighting.state_dict() == whole.weighting.state_dict()
    assert resumed.log() == uninterrupted.log()
    assert second.function.spec == whole.function.spec


def test_only_one_rank_writes(function: RewardFunction, tmp_path: Path) -> None:
    trainer = Played(RewardWeighting(function, constraint()), tmp_path)
    (tmp_path / "checkpoint-0").mkdir()
    trainer.state.is_world_process_zero = False
    trainer.call("on_save")
    assert not (tmp_path / "checkpoint-0" / STATE_FILE).exists()


def test_a_checkpoint_without_a_state_is_refused(function: RewardFunction, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"checkpoint-7.*restore\(\)"):
        Played(RewardWeighting(function, constraint()), tmp_path, global_step=7)
    elsewhere = RewardWeighting(function, constraint())
    elsewhere.save(tmp_path)
    elsewhere.restore(tmp_path)
    Played(elsewhere, tmp_path, global_step=7)
    Played(RewardWeighting(function, ramp()), tmp_path, global_step=7)


def test_the_state_of_another_weighting_is_refused(
    function: RewardFunction, tmp_path: Path
) -> None:
    RewardWeighting(function, ByHand(WeightedSum(), NAMES)).save(tmp_path)
    with pytest.raises(ConfigError, match="of another weighting"):
        RewardWeighting(function, constraint()).restore(tmp_path)
    assert json.loads((tmp_path / STATE_FILE).read_text())["weighting"] == "ByHand"


def test_other_objectives_are_refused(function: RewardFunction) -> None:
    with pytest.raises(ConfigError, match="not about the objectives"):
        RewardWeighting(function, ByHand(WeightedSum(), ("helpfulness", "honesty")))


def stub(names: Sequence[str], *callbacks: object) -> Any:
    return SimpleNamespace(
        callback_handler=SimpleNamespace(callbacks=list(callbacks)),
        reward_func_names=list(names),
        reward_weights=torch.ones(len(names)),
    )


def test_the_weights_of_a_trainer_that_sums_itself_follow(
    function: RewardFunction, tmp_path: Path
) -> None:
    trainer, callback = stub(["length", "safety", "helpfulness"]), RewardWeighting(function, ramp())
    callback.attach(trainer)
    played = Played(callback, tmp_path)
    played.step(ANSWERS[0])
    played.step(ANSWERS[1])
    assert trainer.reward_weights.tolist() == [1.0, 2.0, 0.5]


def test_it_runs_before_trackers_once(function: RewardFunction, tmp_path: Path) -> None:
    callback = RewardWeighting(function, ramp())
    trainer = stub(["aggregated"], "flow", "tracker", callback)
    callback.attach(trainer)
    assert trainer.callback_handler.callbacks == [callback, "flow", "tracker"]
    Played(callback, tmp_path).step(ANSWERS[0])
    assert trainer.reward_weights.tolist() == [1.0]


def test_a_trainer_that_sums_itself_needs_all_objectives_and_a_sum(
    function: RewardFunction, tmp_path: Path
) -> None:
    callback = RewardWeighting(function, ByHand(SafetyGate(), NAMES))
    with pytest.raises(ConfigError, match="no reward function for some objectives"):
        callback.attach(stub(["safety", "length"]))
    callback.attach(stub(NAMES))
    with pytest.raises(ConfigError, match="cannot be written as reward_weights"):
        Played(callback, tmp_path).step(ANSWERS[0])


def test_other_logs_stay_as_they_are(function: RewardFunction, tmp_path: Path) -> None:
    trainer = Played(RewardWeighting(function, ramp()), tmp_path)
    trainer.step(ANSWERS[0])
    logs = {"train_runtime": 1.0}
    trainer.call("on_log", logs=logs)
    assert logs == {"train_runtime": 1.0}
