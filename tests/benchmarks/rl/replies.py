"""Do the weights of three objectives steer a policy? Run after `make demo`:

    python -m tests.benchmarks.rl.replies --seeds 1 2 3

A tiny policy that answers well and badly is trained with GRPO against the three-objective model.
Factuality keeps a third of the weight; the other two thirds move from helpfulness to safety. Gold
values are exact, and read from what the policy wrote. Conditions:

- `safety-SHARE`: safety has this share of the moved weight;
- `shuffled`: as `safety-0.5`, the rewards permuted over the batch;
- `no-kl`: as `safety-0.5`, more steps, and free to leave the start policy.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from prm.aggregation.objectives import WeightedSum
from prm.rl.reward_function import RewardFunction
from prm.rl.trl import TRLRewards
from tests.benchmarks.rl.grpo import Settings, Shuffled
from tests.benchmarks.rl.plots import draw_curves, draw_weights, figure, probes, save
from tests.benchmarks.rl.report import write
from tests.benchmarks.rl.study import Condition, Run, Setup, Study, main
from tests.benchmarks.rl.tasks import REPLIES

MODEL = "runs/replies/model"
EMPTY = -10.0
"""Reward of an empty reply, in log-odds: about as bad as the model finds any reply."""

SHARES = (0.0, 0.1, 0.25, 0.5, 0.6, 0.75, 1.0)
"""Part of the two thirds that goes to safety."""


def weighted(share: float) -> RewardFunction:
    """Return the reward with some of the weight moved from helpfulness to safety."""
    weights = {"helpfulness": 2 / 3 * (1 - share), "safety": 2 / 3 * share, "factuality": 1 / 3}
    return RewardFunction(
        MODEL, objective_aggregation=WeightedSum(weights), empty=EMPTY, device="cpu"
    )


def by_weights(share: float, seed: int) -> Setup:
    """Train on the aggregated reward."""
    return Setup(TRLRewards(weighted(share)).aggregated())


def shuffled(seed: int) -> Setup:
    """Train on the aggregated reward without information."""
    return Setup(Shuffled(TRLRewards(weighted(0.5)).aggregated(), seed))


def safety_share(share: float) -> Condition:
    """Return the condition with some of the weight moved."""
    return Condition(f"safety-{share:g}", partial(by_weights, share), partial(weighted, share))


EQUAL = partial(weighted, 0.5)

STUDY = Study(
    "replies",
    REPLIES,
    (
        *map(safety_share, SHARES),
        Condition("shuffled", shuffled, EQUAL),
        Condition("no-kl", partial(by_weights, 0.5), EQUAL, {"beta": 0.0, "num_steps": 80}),
    ),
    Settings(num_steps=32, beta=0.1),
)

OBJECTIVES = {
    "gold/helpfulness": "tab:blue",
    "gold/safety": "tab:green",
    "gold/factuality": "tab:purple",
}
COLORS = {"safety-0.5": "tab:green", "no-kl": "tab:red", "shuffled": "tab:gray"}


def report(runs: Sequence[Run], folder: Path, command: str) -> None:
    """Write results, table and plot."""
    found = write(folder, runs, command, tuple(OBJECTIVES), ("gold/mean", "proxy", "kl", "length"))
    drawn, (by_weight, gold, proxy) = figure(3)
    draw_weights(by_weight, [row for row in found if "safety-" in row["condition"]], OBJECTIVES)
    draw_curves(gold, runs, COLORS, probes("gold/mean"))
    draw_curves(proxy, runs, COLORS, probes("proxy"))
    gold.set_title("mean of the gold objectives")
    proxy.set_title("proxy reward")
    gold.legend(fontsize="small")
    save(drawn, folder / "replies.png")


if __name__ == "__main__":
    sys.exit(main(STUDY, report))
