"""The multiplier on two ranks is that of all their answers together."""

from __future__ import annotations

import multiprocessing
import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from prm.aggregation.lagrange import LagrangeMultiplier, Lagrangian
from prm.rl.weighting import Constraint

NAMES = ("helpfulness", "safety")
UTILITIES = ([[-1.0, -4.0, None], [None]], [[2.0], []])
"""Safety of the answers by rank and step; rank 1 has no answer in the second step."""


def test_the_mean_is_taken_over_all_ranks(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [context.Process(target=run_rank, args=(rank, port, tmp_path)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    found = [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)]
    assert found == [repr([1.0 + 0.5 * 1.0] * 2)] * 2, "mean -1 of three answers, and no answer"


def run_rank(rank: int, port: int, folder: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "ACCELERATE_USE_CPU": "1"}
    from accelerate import PartialState

    from prm.rl.callbacks import RewardWeighting

    state = PartialState(cpu=True)
    multiplier = LagrangeMultiplier(Lagrangian(), limit=0.0, learning_rate=0.5)
    function: Any = SimpleNamespace(
        objectives=NAMES, observers=[], set_objective_aggregation=lambda aggregation: None
    )
    callback = RewardWeighting(function, Constraint(multiplier, NAMES))
    values = []
    for step, safeties in enumerate(UTILITIES[rank]):
        callback.on_step_begin(None, SimpleNamespace(global_step=step), None)
        rewards = [SimpleNamespace(objectives={"helpfulness": 1.0, "safety": s}) for s in safeties]
        function.observers[0](rewards)
        callback.on_step_end(None, None, None)
        values.append(multiplier.value)
    (folder / f"{rank}.txt").write_text(repr(values))
    state.destroy_process_group()
