"""The harness with sides of its own, and one case of the suite from end to end."""

from __future__ import annotations

import json
import multiprocessing
import time
from multiprocessing.context import BaseContext
from pathlib import Path

import pytest

from tests.benchmarks import __main__ as suite
from tests.benchmarks import peers
from tests.benchmarks.harness import Laps, Side, Worker, measure
from tests.benchmarks.workloads import TINY


@pytest.fixture(scope="module")
def context() -> BaseContext:
    """Processes forked from a server that has imported everything."""
    chosen = multiprocessing.get_context("forkserver")
    modules = ["tests.benchmarks.scoring", "prm.scoring.scorer", "prm.scoring.session"]
    chosen.set_forkserver_preload([*modules, "transformers.models.qwen2.modeling_qwen2"])
    return chosen


def count(laps: Laps, path: Path, name: str) -> None:
    """Write a line per repetition."""
    laps.start()
    while True:
        with path.open("a", encoding="utf-8") as lines:
            lines.write(name + "\n")
        laps.done(tokens=1, check=2.0)


def fail(laps: Laps) -> None:
    """Break in the second repetition."""
    laps.start()
    laps.done()
    raise ValueError("broken")


def slow(laps: Laps) -> None:
    """Take a while."""
    laps.start()
    while True:
        time.sleep(0.05)
        laps.done()


class Recorded:
    """A side with a name that can be sent to a process."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name

    def __call__(self, laps: Laps) -> None:
        count(laps, self.path, self.name)


def test_sides_take_turns_and_the_warm_up_is_not_counted(
    context: BaseContext, tmp_path: Path
) -> None:
    path = tmp_path / "turns"
    sides = [Side(name, Recorded(path, name)) for name in "ab"]
    found = measure(sides, 2, context, 1, {}, tmp_path)
    assert path.read_text(encoding="utf-8").split() == ["a", "b", "b", "a", "a", "b"]
    assert [len(side.laps) for side in found.values()] == [2, 2]
    assert all(side.peak_bytes > 2**20 for side in found.values())
    assert found["a"].laps[0].check == 2.0


def test_side_that_breaks_leaves_the_others_running(context: BaseContext, tmp_path: Path) -> None:
    found = measure([Side("a", fail), Side("b", slow)], 2, context, 1, {}, tmp_path)
    assert found["a"].error == "ValueError: broken"
    assert found["a"].laps == []
    assert [lap.seconds >= 0.05 for lap in found["b"].laps] == [True, True]
    assert "broken" in (tmp_path / "0.log").read_text(encoding="utf-8")


def test_side_without_its_peer_is_not_started(context: BaseContext, tmp_path: Path) -> None:
    sides = [Side("a", slow), Side("b", slow, peer="trl-1.16")]
    found = measure(sides, 1, context, 1, {"trl-1.16": "no such release"}, tmp_path)
    assert found["b"].error == "no such release"
    assert len(found["a"].laps) == 1


def test_process_that_dies_is_reported(context: BaseContext, tmp_path: Path) -> None:
    worker = Worker(Side("a", slow), context, None, 1, tmp_path / "log")
    assert worker.ask() == "ready"
    worker.kill()
    with pytest.raises(RuntimeError, match="the process ended"):
        worker.ask("run")


def test_peer_that_cannot_be_installed_has_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    found = peers.install(["trl-1.13"], tmp_path)
    assert str(found["trl-1.13"]).startswith("trl==1.13.0 cannot be installed: ")


def test_installed_peer_is_not_installed_again(tmp_path: Path) -> None:
    (tmp_path / "trl-1.13" / "trl-1.13.0.dist-info").mkdir(parents=True)
    assert peers.install(["trl-1.13"], tmp_path) == {"trl-1.13": tmp_path / "trl-1.13"}


def test_cases_have_names_of_their_own_and_prm_first() -> None:
    cases = suite.all_cases(Path("models"), TINY, 2)
    names = [case.name for case in cases]
    assert len(set(names)) == len(names)
    for case in cases:
        sides = [side.name for side in case.sides]
        assert sides[0].startswith("prm")
        assert all(set(bar.against) <= set(sides[1:]) for bar in case.bars)


def test_one_case_from_end_to_end(context: BaseContext, tmp_path: Path) -> None:
    words = [
        "--quick",
        "--threads",
        "1",
        "--output",
        str(tmp_path),
        "--cases",
        "growing-chain-fp32",
    ]
    options = suite.parser().parse_args([*words, "--output", str(tmp_path)])
    options.command = ["python", "-m", "tests.benchmarks", *words]
    (result,) = suite.run(options, context, lambda _: None)
    assert result.agree
    assert not any(side.error for side in result.sides)
    record = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    (case,) = record["cases"]
    assert len(case["measured"]["prm session"]["laps"]) == suite.QUICK_PAIRS
    assert record["machine"]["gemm"]["fp32"] > 0
    assert "growing" in (tmp_path / "table.md").read_text(encoding="utf-8")
    assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")
