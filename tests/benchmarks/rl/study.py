"""Studies: conditions times seeds, each run stored as it ends, so that a study can be continued."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from prm.atomic import write_text
from prm.rl.reward_function import RewardFunction
from tests.benchmarks.rl.grpo import Reward, Settings, train
from tests.benchmarks.rl.measure import Examiner
from tests.benchmarks.rl.policy import ROOT, policy_folder
from tests.benchmarks.rl.tasks import Task

Row = dict[str, Any]


@dataclass(frozen=True)
class Setup:
    """What a condition gives the trainer.

    Args:
        rewards: TRL's `reward_funcs`.
        callbacks: More callbacks of the trainer.
    """

    rewards: Reward | list[Reward]
    callbacks: Sequence[Any] = ()


@dataclass(frozen=True)
class Condition:
    """One way to train the policy.

    Args:
        name: For files and plots.
        setup: From a seed to what the trainer gets.
        proxy: Makes the reward that is reported beside gold, never shuffled.
        settings: Settings that differ from the study's.
    """

    name: str
    setup: Callable[[int], Setup]
    proxy: Callable[[], RewardFunction]
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """Conditions that start from the same policy.

    Args:
        name: For the folder of the results.
        task: What is trained on.
        conditions: What is compared.
        settings: How each policy is trained.
    """

    name: str
    task: Task
    conditions: Sequence[Condition]
    settings: Settings


@dataclass(frozen=True)
class Run:
    """A finished run: a condition with a seed.

    Args:
        condition: Name of the condition.
        seed: Seed of prompts, samples and shuffling.
        settings: The condition's settings.
        before: A row per held-out prompt, of the start policy.
        after: The same of the trained policy.
        curve: Means over some held-out prompts, probe by probe.
        log: What TRL logged, step by step.
        seconds: How long it took.
    """

    condition: str
    seed: int
    settings: dict[str, Any]
    before: list[Row]
    after: list[Row]
    curve: list[dict[str, float]]
    log: list[dict[str, float]]
    seconds: float


def run_study(
    study: Study, seeds: Sequence[int], folder: Path, policy: Path | None = None
) -> list[Run]:
    """Return all runs; those that a former call has stored under the same settings are read.

    Args:
        study: What to run.
        seeds: One run per seed and condition.
        folder: Where runs are stored.
        policy: The start policy; the task's own, trained now if need be, by default.
    """
    start = policy or policy_folder(study.task)
    pairs = [(seed, condition) for seed in seeds for condition in study.conditions]
    runs = []
    for number, (seed, condition) in enumerate(pairs, start=1):
        path = folder / "runs" / f"{condition.name}-{seed}.json"
        settings = Settings(**(asdict(study.settings) | condition.settings))
        found = _stored(path, settings)
        if found is None:
            print(f"{number} of {len(pairs)}: {condition.name}, seed {seed}", flush=True)
            found = _run(study.task, condition, seed, settings, start)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(asdict(found)) + "\n")
        runs.append(found)
    return runs


def _run(task: Task, condition: Condition, seed: int, settings: Settings, start: Path) -> Run:
    began = time.perf_counter()
    examiner = Examiner(task, start, condition.proxy(), seed)
    setup = condition.setup(seed)
    with tempfile.TemporaryDirectory() as scratch:
        found = train(examiner, setup.rewards, settings, scratch, setup.callbacks)
    seconds = time.perf_counter() - began
    return Run(condition.name, seed, asdict(settings), *found, seconds)


def _stored(path: Path, settings: Settings) -> Run | None:
    if not path.exists():
        return None
    found = Run(**json.loads(path.read_text(encoding="utf-8")))
    return found if found.settings == asdict(settings) else None


def of_condition(runs: Sequence[Run], name: str) -> Iterator[Run]:
    """Yield the runs of a condition, seed by seed."""
    return (run for run in runs if run.condition == name)


def main(study: Study, report: Callable[[Sequence[Run], Path, str], None]) -> int:
    """Run a study from the command line and write its report.

    Args:
        study: What to run.
        report: Called with the runs, the folder and the command that was given.
    """
    parser = argparse.ArgumentParser(prog=f"python -m tests.benchmarks.rl.{study.name}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--output", type=Path, default=ROOT / study.name)
    options = parser.parse_args()
    torch.set_num_threads(1)
    _quiet()
    runs = run_study(study, options.seeds, options.output)
    seeds = " ".join(map(str, options.seeds))
    report(runs, options.output, f"{parser.prog} --seeds {seeds}")
    print((options.output / "table.md").read_text(encoding="utf-8"))
    return 0


def _quiet() -> None:
    """Leave the terminal to the progress of the study."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    warnings.filterwarnings("ignore", ".*gradient_checkpointing.* is deprecated", FutureWarning)
