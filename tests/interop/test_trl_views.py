"""The views that TRL calls: names, sharing, other processes, and what they refuse."""

from __future__ import annotations

import asyncio
import multiprocessing
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prm.aggregation.objectives import Gated, ObjectiveAggregation, WorstCase
from prm.errors import ConfigError, DataError
from prm.models import checkpoint
from prm.models.gate import Gate
from prm.models.reward_model import RewardModel
from prm.rl.reward_function import CompletionReward, RewardFunction
from prm.rl.trl import TRLRewards
from prm.scoring.scorer import RewardScorer
from prm.spec import ResponseHead
from tests.interop.trl_runs import (
    THREE,
    TRL_WARNINGS,
    count_forwards,
    rewards_of,
    steps,
    three_objectives,
    train,
)
from tests.outcome_models import RESPONSES, outcome_model, save_joint_model
from tests.tiny_models import TWO_OBJECTIVES, tiny_model
from tests.tolerance import near

pytest.importorskip("trl")
pytestmark = TRL_WARNINGS


@pytest.fixture(scope="module")
def outcome_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return three_objectives(tmp_path_factory.mktemp("outcome") / "model")


@pytest.fixture(scope="module")
def process_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return steps(tmp_path_factory.mktemp("process") / "model")


@pytest.mark.parametrize("row", ["safety", ["fluency"], 3])
def test_a_column_that_does_not_name_objectives_is_refused(row: Any, outcome_folder: Path) -> None:
    view = rewards_of(outcome_folder).aggregated()
    with pytest.raises(DataError, match="column 'objectives' is wrong"):
        view(["a"], ["b"], objectives=[row])


class OneIsMissing(RewardFunction):
    """Like a model whose score of one objective is not finite."""

    def score(self, *args: Any, **kwargs: Any) -> list[CompletionReward]:
        found = super().score(*args, **kwargs)
        values = {**found[0].objectives, "safety": None}
        return [replace(found[0], reward=None, objectives=values), *found[1:]]


def test_a_completion_scored_in_part_is_none_in_every_objective(outcome_folder: Path) -> None:
    rewards = TRLRewards(OneIsMissing(outcome_folder, device="cpu"))
    by_name = {view.__name__: view for view in rewards.objectives()}
    batch = ["a question", "a question"], ["one", "two"]
    assert [view(*batch)[0] for view in by_name.values()] == [None, None, None]
    assert None not in [view(*batch)[1] for view in by_name.values()]
    value = by_name["length"](*batch, objectives=[["length"], None])[0]
    assert value == rewards.function.score(*batch)[0].objectives["length"]


def test_the_aggregated_reward_beside_objectives_is_refused(
    outcome_folder: Path, tmp_path: Path
) -> None:
    rewards = rewards_of(outcome_folder)
    with pytest.raises(ConfigError, match="sums the aggregated reward and single objectives"):
        train(tmp_path, [rewards.aggregated(), *rewards.objectives()])


def test_weights_of_the_spec(outcome_folder: Path, process_folder: Path) -> None:
    assert rewards_of(outcome_folder).weights() == [1.0, 2.0, 0.5]
    assert rewards_of(process_folder).weights() == [1.0]
    worst = RewardFunction(outcome_folder, objective_aggregation=WorstCase())
    with pytest.raises(ConfigError, match="cannot be written as reward_weights"):
        TRLRewards(worst).weights()


def test_names_of_a_joint_model_and_of_two_step_objectives(tmp_path: Path) -> None:
    joint = save_joint_model(tmp_path / "joint")
    spec = tiny_model().spec.with_(step_heads=TWO_OBJECTIVES, chain_reward="redundancy")
    steps = checkpoint.save(tiny_model(spec=spec), tmp_path / "steps")
    for function, names, weights in (
        (RewardFunction(joint, reward_from="steps"), ["correctness"], [1.0]),
        (RewardFunction(joint, reward_from="response"), ["helpfulness", "toxicity"], [0.5, 0.5]),
        (RewardFunction(steps), ["correctness", "redundancy"], [0.0, 1.0]),
    ):
        rewards = TRLRewards(function)
        assert [view.__name__ for view in rewards.objectives()] == names
        assert rewards.weights() == weights


def test_an_objective_cannot_have_the_name_of_the_aggregated_reward(tmp_path: Path) -> None:
    objectives = (ResponseHead("aggregated"),)
    folder = checkpoint.save(outcome_model(response_heads=objectives), tmp_path / "model")
    with pytest.raises(ConfigError, match="an objective is called 'aggregated'"):
        rewards_of(folder)


def test_concurrent_coroutines_share_one_forward(outcome_folder: Path) -> None:
    rewards = rewards_of(outcome_folder, asynchronous=True)
    forwards = count_forwards(rewards)
    batch = ["a question"] * 3, ["one", "two", "three"]

    async def all_at_once() -> list[list[float | None]]:
        return list(await asyncio.gather(*(view(*batch) for view in rewards.objectives())))

    found = asyncio.run(all_at_once())
    assert forwards == [3]
    in_order = [view(*batch) for view in rewards_of(outcome_folder).objectives()]
    assert found == in_order


def test_trl_sees_names_and_coroutines(outcome_folder: Path) -> None:
    from trl.trainer.utils import get_callable_name, is_async_callable

    for asynchronous in (False, True):
        rewards = rewards_of(outcome_folder, asynchronous=asynchronous)
        views = [*rewards.objectives(), rewards.aggregated()]
        assert [get_callable_name(view) for view in views] == [*THREE, "aggregated"]
        assert {is_async_callable(view) for view in views} == {asynchronous}


def test_views_share_one_forward_after_pickling(outcome_folder: Path) -> None:
    views = rewards_of(outcome_folder).objectives()
    twins = pickle.loads(pickle.dumps(views))
    forwards = count_forwards(twins[0].rewards)
    batch = ["a question"], ["an answer"]
    assert [twin(*batch) for twin in twins] == [view(*batch) for view in views]
    assert forwards == [1]


def test_a_spawned_process_without_gpu(
    outcome_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As AsyncGRPO runs reward functions."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    view = TRLRewards(RewardFunction(outcome_folder)).aggregated()
    batch = ["a question", "another"], ["one", "two"]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(view, batch) == near(view(*batch))


def test_a_batch_is_logged_once(outcome_folder: Path) -> None:
    rewards = rewards_of(outcome_folder)
    columns: list[str] = []
    metrics: list[str] = []
    batch = ["a question"] * 2, ["one", "two"]
    log = {
        "log_extra": lambda column, _: columns.append(column),
        "log_metric": lambda metric, _: metrics.append(metric),
    }
    for view in rewards.objectives():
        view(*batch, **log)
    assert len(columns) == len(set(columns)) == 8
    assert len(metrics) == len(set(metrics)) == 9
    rewards.objectives()[0](batch[0], list(batch[1]), **log)
    assert len(columns) == 16


def test_weights_that_the_prompt_gives_are_logged_as_their_mean() -> None:
    model = outcome_model()
    model.gate = Gate(32, 2)
    torch.nn.init.normal_(model.gate.layers[2].weight)
    assert "prm/weight/helpfulness" not in logged_metrics(model, WorstCase())
    logged = logged_metrics(model, Gated())
    assert logged["prm/weight/helpfulness"] + logged["prm/weight/toxicity"] == pytest.approx(1)
    scores = RewardScorer(model, objective_aggregation=Gated()).score(RESPONSES)
    mean = sum(score.gates["helpfulness"] for score in scores) / len(scores)
    assert logged["prm/weight/helpfulness"] == near(mean)


def logged_metrics(model: RewardModel, aggregation: ObjectiveAggregation) -> dict[str, float]:
    """Return what the aggregated reward of some responses logs."""
    scorer = RewardScorer(model)
    function = RewardFunction(scorer, objective_aggregation=aggregation)
    logged: dict[str, float] = {}
    prompts, responses = zip(*((one.prompt, one.response) for one in RESPONSES), strict=True)
    TRLRewards(function).aggregated()(
        prompts, responses, log_extra=lambda *_: None, log_metric=logged.__setitem__
    )
    return logged
