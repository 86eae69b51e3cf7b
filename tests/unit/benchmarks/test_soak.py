"""The soak of the server: what it compares, and what it calls a failure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import soak
from tests.benchmarks.soak_clients import Load, Question

PHASE = {
    "replies_compared": 10,
    "tokens_per_second": 900.0,
    "tokens_per_processor_second": 800.0,
    "p50_seconds": 0.5,
    "p99_seconds": 0.9,
    "largest_error": 1e-7,
    "outcomes": {"good: 200": 10},
    "problems": [],
}
OFFLINE = {"tokens_per_second": 1000.0, "tokens_per_processor_second": 1000.0}
FOUND: dict[str, Any] = {
    "offline": [OFFLINE, OFFLINE],
    "saturated": PHASE,
    "mixed": PHASE,
    "end": {"exit_code": 0, "answered": 3, "arrived": 3, "problems": [], "failures": 0},
    "memory_mb": [(0.0, 100.0), (1.0, 101.0)],
}


def test_table_shows_the_share_of_the_offline_scorer() -> None:
    assert "| saturated | 10 | 900 | 90.0% | 800 | 80.0% | 0.500 | 0.900 | 1.0e-07 |" in soak.table(
        FOUND
    )
    assert soak.problems(FOUND) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"saturated": {**PHASE, "problems": ["a wrong reward"]}},
        {"end": {**FOUND["end"], "arrived": 2}},
        {"end": {**FOUND["end"], "exit_code": 1}},
        {"end": {**FOUND["end"], "failures": 1}},
        {"end": {**FOUND["end"], "problems": ["closed"]}},
    ],
)
def test_what_must_not_happen_is_listed(changes: dict[str, Any]) -> None:
    assert len(soak.problems({**FOUND, **changes})) == 1
    assert "PROBLEM" in soak.table({**FOUND, **changes})


@pytest.mark.parametrize(
    ("rewards", "num_problems"),
    [([0.5, None], 0), ([0.5 + 1e-6, None], 0), ([0.6, None], 1), ([None, None], 1), ([0.5], 1)],
)
def test_replies_are_compared(rewards: Sequence[float | None], num_problems: int) -> None:
    load = Load(0, [Question(b"", [0.5, None], 1)])
    body = json.dumps({"results": [{"reward": reward} for reward in rewards]}).encode()
    load._compare(Question(b"", [0.5, None], 1), body)
    assert len(load.tally.problems) == num_problems


@pytest.mark.slow
def test_a_short_soak_finds_nothing_wrong(tmp_path: Path) -> None:
    found = soak.soak(soak.write_model(tmp_path), seconds=6, clients=24, requests=24)
    assert soak.problems(found) == []
    assert found["mixed"]["replies_compared"] > 0
