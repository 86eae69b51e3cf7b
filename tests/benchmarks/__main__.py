"""prm beside its peers: `python -m tests.benchmarks` (or `make bench`).

Every case runs its sides in turns, each in a process of its own, and measures the machine's matrix
products in the same rounds. Results go to a folder: `table.md`, `results.json` and `bars.png`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.context import BaseContext
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks import growing, machine, peers, report, scoring, startup, training
from tests.benchmarks.findings import CaseResult, evaluate
from tests.benchmarks.harness import Case, Side, measure
from tests.benchmarks.workloads import MODEL_S, SCALES, TINY, Scale, write_models

GROUPS: tuple[Callable[[Path, Scale, int], list[Case]], ...] = (
    training.cases,
    scoring.cases,
    growing.cases,
    startup.cases,
)

PAIRS, QUICK_PAIRS = 7, 2


def all_cases(models: Path, scale: Scale, pairs: int, device: machine.Device = "cpu") -> list[Case]:
    """Return the cases of the suite, in order."""
    if device == "cuda":
        return training.gpu_cases(models, scale, pairs)
    return [case for group in GROUPS for case in group(models, scale, pairs)]


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    options = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Measure prm beside its peers.",
    )
    names = [case.name for case in all_cases(Path(), MODEL_S, PAIRS)]
    options.add_argument(
        "--cases", nargs="+", choices=names, metavar="NAME", help="cases to run (default: all)"
    )
    options.add_argument("--list", action="store_true", help="list the cases and stop")
    options.add_argument(
        "--pairs",
        type=int,
        help=f"measured rounds of each case (default: {PAIRS}, with --quick {QUICK_PAIRS})",
    )
    options.add_argument(
        "--quick", action="store_true", help="a tiny model: shows that a case runs, not its speed"
    )
    options.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="where sides run; cuda has training cases only (default: cpu)",
    )
    options.add_argument(
        "--scale", choices=list(SCALES), default="S", help="size of the model (default: S)"
    )
    options.add_argument(
        "--threads",
        type=int,
        default=os.cpu_count(),
        help="threads of each side (default: all cores)",
    )
    options.add_argument(
        "--peers",
        type=Path,
        default=Path("runs/peers"),
        help="folder that peers are installed in, if they are not there yet (default: runs/peers)",
    )
    options.add_argument(
        "--output", type=Path, help="folder of the results (default: runs/bench/DATE-TIME)"
    )
    return options


def run(
    options: argparse.Namespace, context: BaseContext, say: Callable[[str], None]
) -> list[CaseResult]:
    """Run the chosen cases and write the results after each.

    Args:
        options: What `parser` gives.
        context: How the sides' processes are started.
        say: Called with what happens.
    """
    scale = TINY if options.quick else SCALES[options.scale]
    pairs = options.pairs or (QUICK_PAIRS if options.quick else PAIRS)
    output = options.output or Path("runs/bench") / time.strftime("%Y-%m-%d-%H%M%S")
    logs = output / "logs"
    about = machine.describe(options.threads, options.device) | {
        "model": scale.name,
        "linear_parameters": scale.linear_parameters,
        "pairs": pairs,
        "bandwidth": machine.bandwidth(options.device),
        "gemm": {},
    }
    results: list[CaseResult] = []
    with tempfile.TemporaryDirectory() as models:
        write_models(Path(models), scale)
        chosen = [
            case
            for case in all_cases(Path(models), scale, pairs, options.device)
            if options.cases is None or case.name in options.cases
        ]
        for number, case in enumerate(chosen, 1):
            say(f"{case.name} ({number} of {len(chosen)})")
            (logs / case.name).mkdir(parents=True, exist_ok=True)
            result = _run(case, scale, pairs, options, context, logs / case.name, say)
            results.append(result)
            about["gemm"] |= _gemm_rate(result)
            report.write(output, results, about, shlex.join(options.command))
    say(f"results: {output}")
    return results


def _run(
    case: Case,
    scale: Scale,
    pairs: int,
    options: argparse.Namespace,
    context: BaseContext,
    logs: Path,
    say: Callable[[str], None],
) -> CaseResult:
    limit = Side(
        machine.GEMM, partial(machine.gemm, scale=scale, dtype=case.dtype, device=options.device)
    )
    needed = [side.peer for side in case.sides if side.peer]
    folders = peers.install(needed, options.peers)
    sides = [limit, *case.sides]
    return evaluate(case, measure(sides, pairs, context, options.threads, folders, logs, say))


def _gemm_rate(result: CaseResult) -> dict[str, float]:
    laps = result.measured[machine.GEMM].laps
    if not laps:
        return {}
    return {result.case.dtype: median(lap.flops / lap.seconds for lap in laps)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the suite; 1 if a side failed or sides disagree, whatever the bars."""
    words = list(sys.argv[1:] if argv is None else argv)
    options = parser().parse_args(words)
    options.command = ["python", "-m", "tests.benchmarks", *words]
    if options.list:
        for case in all_cases(Path(), MODEL_S, PAIRS):
            print(f"{case.name:24} {case.title}")
        return 0
    os.environ |= _environment(options.threads)
    results = run(options, multiprocessing.get_context("spawn"), print)
    print(report.bars_table(results))
    failed = any(side.error for result in results for side in result.sides)
    return int(failed or not all(result.agree for result in results))


def _environment(threads: int) -> dict[str, Any]:
    """Return variables that the sides' processes inherit."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "WANDB_MODE": "offline",
    }


if __name__ == "__main__":
    sys.exit(main())
