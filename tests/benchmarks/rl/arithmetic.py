"""Does a policy learn arithmetic from the process model? Run after `make demo`:

    python -m tests.benchmarks.rl.arithmetic --seeds 1 2 3

A tiny policy that makes a mistake in every other chain is trained with GRPO. Gold is exact: a chain
is correct if it is the solution, step by step. Conditions:

- `process`: the reward of the process model, its weakest step, alone;
- `process-kl`: the same with three times the penalty on the divergence from the start policy;
- `process-steps`: as `process`, and one point for as many steps as the problem has operations;
- `shuffled` and `shuffled-kl`: as `process-steps` and `process-kl`, the rewards permuted over the
  batch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prm.rl.reward_function import RewardFunction
from prm.rl.trl import TRLRewards
from tests.benchmarks.rl.grpo import Reward, Settings, Shuffled
from tests.benchmarks.rl.plots import draw_curves, figure, probes, save
from tests.benchmarks.rl.report import write
from tests.benchmarks.rl.study import Condition, Run, Setup, Study, main
from tests.benchmarks.rl.tasks import EASY_ARITHMETIC, arithmetic_gold

MODEL = "runs/arithmetic/model"


def process_model() -> RewardFunction:
    """Return the reward of the process model; an empty chain has no right step."""
    return RewardFunction(MODEL, empty=0.0, device="cpu")


def num_steps(prompts: Sequence[str], completions: Sequence[str], **_: Any) -> list[float]:
    """Return 1 for each completion with as many steps as its problem has operations, else 0."""
    return [
        arithmetic_gold(prompt, completion)["complete"]
        for prompt, completion in zip(prompts, completions, strict=True)
    ]


def process(seed: int) -> Setup:
    """Train on the process model alone."""
    return Setup(TRLRewards(process_model()).aggregated())


def process_and_steps(seed: int) -> Setup:
    """Train on the process model and on the number of steps."""
    return Setup([TRLRewards(process_model()).aggregated(), num_steps])


def shuffled(seed: int) -> Setup:
    """Train on the same rewards without information."""
    rewards: list[Reward] = [TRLRewards(process_model()).aggregated(), num_steps]
    return Setup([Shuffled(reward, seed) for reward in rewards])


def shuffled_process(seed: int) -> Setup:
    """Train on the reward of the process model without information."""
    return Setup(Shuffled(TRLRewards(process_model()).aggregated(), seed))


STUDY = Study(
    "arithmetic",
    EASY_ARITHMETIC,
    (
        Condition("process", process, process_model),
        Condition("process-kl", process, process_model, {"beta": 0.1}),
        Condition("process-steps", process_and_steps, process_model),
        Condition("shuffled", shuffled, process_model),
        Condition("shuffled-kl", shuffled_process, process_model, {"beta": 0.1}),
    ),
    Settings(num_steps=120, beta=0.03),
)

GOLD = ("gold/correct", "gold/complete")
OTHERS = ("proxy", "kl", "length")
COLORS = {
    "process": "tab:red",
    "process-kl": "tab:orange",
    "process-steps": "tab:green",
    "shuffled": "tab:gray",
    "shuffled-kl": "tab:brown",
}
PANELS = {"gold/correct": "gold: correct chains", "proxy": "proxy reward", "length": "words"}


def report(runs: Sequence[Run], folder: Path, command: str) -> None:
    """Write results, table and plot."""
    write(folder, runs, command, GOLD, OTHERS)
    drawn, panels = figure(len(PANELS))
    for axes, (name, title) in zip(panels, PANELS.items(), strict=True):
        draw_curves(axes, runs, COLORS, probes(name))
        axes.set_title(title)
    panels[0].legend(fontsize="small")
    save(drawn, folder / "arithmetic.png")


if __name__ == "__main__":
    sys.exit(main(STUDY, report))
