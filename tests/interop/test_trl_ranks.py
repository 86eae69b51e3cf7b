"""A trainer on two ranks: every completion is scored and logged once."""

from __future__ import annotations

import multiprocessing
import os
import socket
from pathlib import Path

import pandas as pd
import pytest

from tests.interop.trl_runs import (
    THREE,
    TRL_WARNINGS,
    column,
    offline,
    rewards_of,
    same,
    three_objectives,
    train,
)

pytest.importorskip("trl")
pytestmark = [pytest.mark.slow, TRL_WARNINGS]


def run_rank(rank: int, port: int, folder: Path) -> None:
    """Train as one of two ranks; the first writes the table of completions that TRL gathered."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    rewards = rewards_of(folder / "model")
    run = train(folder / f"rank{rank}", rewards.objectives(), reward_weights=rewards.weights())
    if rank == 0:
        run.table().to_parquet(folder / "table.parquet")


def test_two_ranks(tmp_path: Path) -> None:
    three_objectives(tmp_path / "model")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=run_rank, args=(rank, port, tmp_path)) for rank in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=100)
    assert [process.exitcode for process in ranks] == [0, 0]
    table = pd.read_parquet(tmp_path / "table.parquet")
    scores = offline(tmp_path / "model", table)
    assert len(scores) == 32
    for name in THREE:
        assert table[name].tolist() == same(column(scores, "utilities", name))
        assert table[f"prm/score/{name}"].tolist() == same(column(scores, "scores", name))
