from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.findings import CaseResult, evaluate
from tests.benchmarks.harness import Bar, Case, Lap, Laps, Measured, Side
from tests.benchmarks.machine import GEMM
from tests.benchmarks.report import bars_table, sides_table, write


def nothing(laps: Laps) -> None:
    """A side that is never run."""


SIDES = tuple(Side(name, nothing) for name in ("prm", "slow", "fast"))

MACHINE = {
    "cpu": "a processor",
    "cores": 2,
    "threads": 2,
    "memory_gib": 8.0,
    "python": "3.11",
    "versions": {"torch": "2"},
    "model": "S",
    "linear_parameters": 27_262_976,
    "pairs": 3,
    "bandwidth": 5e10,
    "load_before": 0.25,
    "gemm": {"bf16": 4e11},
}


def measured(
    *seconds: float, flops: float = 100.0, check: float = 1.0, peak: int = 2**30
) -> Measured:
    laps = [Lap(each, 10, flops, flops / 10, check) for each in seconds]
    return Measured(laps, peak)


def result(*bars: Bar, **sides: Measured) -> CaseResult:
    found = {
        GEMM: measured(1, 1, 1, flops=200),
        "prm": measured(1, 2, 1),
        "slow": measured(4, 8, 4, peak=2**31),
        "fast": measured(3, 4, 3),
    } | sides
    return evaluate(Case("case", "a case", SIDES, bars), found)


def test_speed_is_against_the_fastest_side_of_each_round() -> None:
    (finding,) = result(Bar("speed", 2.5, ("slow", "fast"))).findings
    assert finding.result is not None
    assert (finding.result.value, finding.result.low, finding.result.high) == (3, 2, 3)
    assert finding.met


def test_work_over_gemm_is_by_round() -> None:
    found = result(Bar("gemm", 0.6))
    assert found.findings[0].result is not None
    assert found.findings[0].result.value == 0.5
    assert found.findings[0].met is False
    assert [side.attention_share for side in found.sides] == [0.1] * 3


def test_memory_is_a_ratio_of_peaks() -> None:
    (finding,) = result(Bar("memory", 0.55, ("slow",))).findings
    assert finding.result is not None
    assert finding.result.value == 0.5
    assert finding.met


def test_sides_that_compute_something_else_are_reported() -> None:
    bars = (Bar("speed", 2.0, ("slow",)),)
    assert result(*bars).agree
    assert result(*bars, slow=measured(4, 8, 4, check=1.0005)).agree
    other = result(*bars, slow=measured(4, 8, 4, check=1.1))
    assert not other.agree
    assert "results differ" in bars_table([other])


def test_side_that_did_not_run_is_in_the_table_with_its_reason() -> None:
    found = result(Bar("speed", 2.0, ("slow",)), slow=Measured(error="no network"))
    assert found.findings[0].met is None
    assert "| ≥ 2 | not run: slow: no network |  |" in bars_table([found])
    assert "| case | slow | not run: no network |" in sides_table([found])


def test_tables_show_bar_measure_interval_and_verdict() -> None:
    bars = (Bar("speed", 2.5, ("slow", "fast")), Bar("gemm", 0.6), Bar("memory", None, ("slow",)))
    found = result(*bars)
    first, second, third = bars_table([found]).splitlines()[2:]
    assert first == (
        "| case | speed against the faster of slow and fast | ≥ 2.5 | 3.00 [2.00, 3.00] | yes |"
    )
    assert second == "| case | executed work over GEMM | ≥ 60% | 50% [25%, 50%] | no |"
    assert third == "| case | peak memory against slow |  | 0.50 |  |"
    assert "| case | fast | 3 | 3 | 17% | 10% | 1.00 | 0 |" in sides_table([found])


@pytest.mark.parametrize("bars", [(Bar("speed", 2.5, ("slow",)),), ()], ids=["bar", "none"])
def test_files_of_a_run(bars: tuple[Bar, ...], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write(tmp_path / "run", [result(*bars)], MACHINE, "python -m tests.benchmarks")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "results.json",
        "table.md",
        "bars.png",
    }
    page = (tmp_path / "run" / "table.md").read_text(encoding="utf-8")
    assert "GEMM 400 GFLOP/s bf16; copy 50 GB/s; load before the run 0.2. torch 2" in page
