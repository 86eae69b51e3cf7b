"""A trainer of TRL whose reward model is behind `prm serve`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from prm.rl.reward_function import RewardFunction
from prm.rl.trl import TRLRewards
from prm.scoring.scorer import RewardScorer
from tests.interop.trl_runs import (
    THREE,
    TRL_WARNINGS,
    column,
    count_forwards,
    offline,
    same,
    three_objectives,
    train,
)

pytest.importorskip("trl")
pytest.importorskip("fastapi")
pytestmark = TRL_WARNINGS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return three_objectives(tmp_path_factory.mktemp("served") / "model")


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    from prm.serve.app import create_app
    from prm.serve.pool import ModelPool
    from tests.interop.serving import listening

    scorer = RewardScorer.from_pretrained(folder, "cpu")
    with listening(create_app(ModelPool({"replies": scorer}))) as url:
        yield url


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_rewards_from_a_server(
    asynchronous: bool, folder: Path, address: str, tmp_path: Path
) -> None:
    rewards = TRLRewards(RewardFunction(address), asynchronous=asynchronous)
    forwards = count_forwards(rewards)
    run = train(tmp_path, rewards.objectives(), reward_weights=rewards.weights())
    table = run.table()
    scores = offline(folder, table)
    for name in THREE:
        assert table[name].tolist() == same(column(scores, "utilities", name))
    assert table["prm/reward"].tolist() == same(column(scores, "reward"))
    assert forwards == [8, 8]
