"""The trainers of TRL, run for real on a tiny policy, with each form of our rewards."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from prm.aggregation.objectives import WeightedSum
from prm.rl.reward_function import RewardFunction
from prm.rl.trl import TRLRewards
from prm.scoring.scorer import RewardScorer
from tests.interop.trl_runs import (
    PROMPTS,
    THREE,
    TRL_WARNINGS,
    WEIGHTS,
    Which,
    column,
    count_forwards,
    mean,
    offline,
    rewards_of,
    same,
    steps,
    three_objectives,
    train,
)

pytest.importorskip("trl")
pytestmark = TRL_WARNINGS

APPLICABLE = [None, ["helpfulness", "length"], ["safety"], []]


@pytest.fixture(scope="module")
def outcome_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return three_objectives(tmp_path_factory.mktemp("outcome") / "model")


@pytest.fixture(scope="module")
def process_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return steps(tmp_path_factory.mktemp("process") / "model")


@pytest.mark.parametrize("which", ["grpo", "rloo"])
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_separate_objectives(
    which: Which, asynchronous: bool, outcome_folder: Path, tmp_path: Path
) -> None:
    rewards = rewards_of(outcome_folder, asynchronous=asynchronous)
    forwards = count_forwards(rewards)
    run = train(tmp_path, rewards.objectives(), which, reward_weights=rewards.weights())
    for logged, table in run.batches():
        scores = offline(outcome_folder, table)
        for name in THREE:
            utilities = column(scores, "utilities", name)
            assert table[name].tolist() == same(utilities)
            assert table[f"prm/utility/{name}"].tolist() == same(utilities)
            assert table[f"prm/score/{name}"].tolist() == same(column(scores, "scores", name))
            assert logged[f"rewards/{name}/mean"] == mean(utilities)
            assert f"prm/weight/{name}" not in logged
        assert table["prm/reward"].tolist() == same(column(scores, "reward"))
        assert logged["reward"] == mean(column(scores, "reward"))
    assert forwards == [len(table) for table in run.tables]


@pytest.mark.parametrize("which", ["grpo", "rloo"])
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_aggregated_reward(
    which: Which, asynchronous: bool, outcome_folder: Path, tmp_path: Path
) -> None:
    rewards = rewards_of(outcome_folder, asynchronous=asynchronous)
    forwards = count_forwards(rewards)
    run = train(tmp_path, rewards.aggregated(), which)
    for logged, table in run.batches():
        scores = offline(outcome_folder, table)
        assert table["aggregated"].tolist() == same(column(scores, "reward"))
        assert logged["reward"] == mean(column(scores, "reward"))
        assert logged["prm/reward"] == mean(column(scores, "reward"))
        for name in THREE:
            assert logged[f"prm/utility/{name}"] == mean(column(scores, "utilities", name))
            assert logged[f"prm/score/{name}"] == mean(column(scores, "scores", name))
            assert logged[f"prm/weight/{name}"] == WEIGHTS[name]
    assert forwards == [len(table) for table in run.tables]


def test_gdpo_normalizes_each_objective(outcome_folder: Path, tmp_path: Path) -> None:
    rewards = rewards_of(outcome_folder)
    run = train(
        tmp_path,
        rewards.objectives(),
        reward_weights=rewards.weights(),
        multi_objective_aggregation="normalize_then_sum",
    )
    for _, table in run.batches():
        assert table["advantages"].tolist() == pytest.approx(gdpo(table), abs=1e-4)


def gdpo(table: pd.DataFrame) -> list[float]:
    """Return the advantages of arXiv 2601.05242: z-scores by group and objective, summed."""
    groups = table.groupby("prompt", sort=False)[list(THREE)]
    scaled = (table[list(THREE)] - groups.transform("mean")) / (groups.transform("std") + 1e-4)
    total = (scaled * WEIGHTS).sum(axis=1, min_count=1)
    advantages = (total - total.mean()) / (total.std() + 1e-4)
    return advantages.fillna(0.0).tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("aggregated", [False, True], ids=["separate", "aggregated"])
def test_process_model(aggregated: bool, process_folder: Path, tmp_path: Path) -> None:
    rewards = rewards_of(process_folder)
    run = train(tmp_path, rewards.aggregated() if aggregated else rewards.objectives(), max_steps=3)
    name = "aggregated" if aggregated else "correctness"
    scorer = RewardScorer.from_pretrained(process_folder, "cpu")
    table = run.table()
    for row in table.to_dict("records"):
        steps = [step.strip() for step in row["completion"].split("\n") if step.strip()]
        if not steps:
            assert math.isnan(row[name])
            continue
        score = scorer.score((row["prompt"], steps))[0]
        assert row[name] == pytest.approx(score.reward, abs=1e-5)
        assert row["prm/steps/correctness"] == pytest.approx(score.probabilities, abs=1e-5)
    assert max(map(len, table["prm/steps/correctness"])) > 1


def test_conversations(outcome_folder: Path, tmp_path: Path) -> None:
    rewards = rewards_of(outcome_folder)
    prompts = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    run = train(tmp_path, rewards.aggregated(), prompts=prompts)
    table = run.table()
    table["prompt"] = [list(messages) for messages in table["prompt"]]
    table["completion"] = [messages[0]["content"] for messages in table["completion"]]
    scorer = RewardScorer.from_pretrained(outcome_folder, "cpu")
    for row in table.to_dict("records"):
        record = {"prompt": row["prompt"], "response": row["completion"]}
        reward = scorer.score(record)[0].reward if row["completion"].strip() else math.nan
        assert row["aggregated"] == pytest.approx(reward, abs=1e-5, nan_ok=True)


def test_objectives_that_do_not_apply_are_none(outcome_folder: Path, tmp_path: Path) -> None:
    rewards = rewards_of(outcome_folder, column="about")
    run = train(tmp_path, rewards.objectives(), columns={"about": APPLICABLE})
    table = run.table()
    scores = offline(outcome_folder, table)
    for row, score in zip(table.to_dict("records"), scores, strict=True):
        names = dict(zip(PROMPTS, APPLICABLE, strict=True))[row["prompt"]]
        for name in THREE:
            applies = score is not None and (names is None or name in names)
            reward = score.utilities[name] if applies else None
            assert [row[name]] == same([reward])
        if names == [] or score is None:
            assert row["advantages"] == 0


@pytest.mark.parametrize("missing", ["nan", "renormalize"])
def test_aggregated_reward_of_objectives_that_apply(
    missing: Any, outcome_folder: Path, tmp_path: Path
) -> None:
    aggregation = WeightedSum(dict(WEIGHTS), missing=missing)
    function = RewardFunction(outcome_folder, device="cpu", objective_aggregation=aggregation)
    run = train(tmp_path, TRLRewards(function).aggregated(), columns={"objectives": APPLICABLE})
    table = run.table()
    for row, score in zip(table.to_dict("records"), offline(outcome_folder, table), strict=True):
        names = dict(zip(PROMPTS, APPLICABLE, strict=True))[row["prompt"]]
        if score is None or names == [] or (missing == "nan" and names is not None):
            assert math.isnan(row["aggregated"])
            assert row["advantages"] == 0
            continue
        kept = {name: WEIGHTS[name] for name in names or THREE}
        total = sum(weight * score.utilities[name] for name, weight in kept.items())
        reward = total * sum(WEIGHTS.values()) / sum(kept.values())
        assert row["aggregated"] == pytest.approx(reward, abs=1e-5)


def test_the_completions_table_holds_scores_and_steps(process_folder: Path, tmp_path: Path) -> None:
    rewards = rewards_of(process_folder)
    run = train(tmp_path, rewards.aggregated(), log_completions=True)
    for index, shown in enumerate(run.tables, start=1):
        file = tmp_path / f"completions/completions_{index:05d}.parquet"
        written = pd.read_parquet(file)
        assert written["prm/score/correctness"].tolist() == same(shown["aggregated"])
        for row, expected in zip(
            written.to_dict("records"), shown["prm/steps/correctness"], strict=True
        ):
            assert list(row["prm/steps/correctness"]) == expected
            assert (row["prm/reason"] == "") == bool(expected)
