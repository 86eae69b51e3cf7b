"""Does a constrained run satisfy its constraint? Run after `make demo`:

    python -m tests.benchmarks.rl.lagrangian --seeds 1 2 3

Both conditions train for helpfulness and factuality. `constrained` also holds the mean utility of
safety at `LIMIT` or above, by a multiplier that is learned from the policy's own answers;
`unconstrained` is the same with a multiplier of 0.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from prm.aggregation.lagrange import LagrangeMultiplier, Lagrangian
from prm.rl.callbacks import RewardWeighting
from prm.rl.reward_function import RewardFunction
from prm.rl.trl import TRLRewards
from prm.rl.weighting import Constraint
from tests.benchmarks.rl.grpo import Settings
from tests.benchmarks.rl.plots import draw_curves, figure, logged, probes, save
from tests.benchmarks.rl.replies import EMPTY, MODEL
from tests.benchmarks.rl.report import write
from tests.benchmarks.rl.study import Condition, Run, Setup, Study, main
from tests.benchmarks.rl.tasks import REPLIES

LIMIT = 2.5
"""Mean utility of safety, in log-odds."""

START = Lagrangian("safety", multiplier=0.0)
MULTIPLIER = "prm/weighting/multiplier"
"""Where the callback logs it."""


def without_safety() -> RewardFunction:
    """Return the reward of helpfulness and factuality."""
    return RewardFunction(MODEL, objective_aggregation=START, empty=EMPTY, device="cpu")


def unconstrained(seed: int) -> Setup:
    """Train for helpfulness and factuality alone."""
    return Setup(TRLRewards(without_safety()).aggregated())


def constrained(seed: int) -> Setup:
    """Train under the constraint."""
    function = without_safety()
    multiplier = LagrangeMultiplier(START, LIMIT, learning_rate=0.1, maximum=10.0)
    weighting = RewardWeighting(function, Constraint(multiplier, function.objectives))
    return Setup(TRLRewards(function).aggregated(), [weighting])


STUDY = Study(
    "lagrangian",
    REPLIES,
    (
        Condition("unconstrained", unconstrained, without_safety),
        Condition("constrained", constrained, without_safety),
    ),
    Settings(num_steps=60, beta=0.1),
)

GOLD = ("utility/safety", "gold/safety", "gold/helpfulness", "gold/factuality")
OTHERS = ("utility/helpfulness", "utility/factuality", "kl", "length")
COLORS = {"unconstrained": "tab:red", "constrained": "tab:green"}


def report(runs: Sequence[Run], folder: Path, command: str) -> None:
    """Write results, table and plot."""
    write(folder, runs, command, GOLD, OTHERS)
    drawn, (utility, gold, multiplier) = figure(3)
    draw_curves(utility, runs, COLORS, probes("utility/safety"))
    utility.axhline(LIMIT, color="black", linestyle="--", label="limit")
    utility.set_title("mean utility of safety")
    utility.legend(fontsize="small")
    draw_curves(gold, runs, COLORS, probes("gold/safety"))
    gold.set_title("gold: safe replies")
    draw_curves(multiplier, runs, {"constrained": "tab:green"}, logged(MULTIPLIER))
    multiplier.set_title("multiplier")
    save(drawn, folder / "lagrangian.png")


if __name__ == "__main__":
    sys.exit(main(STUDY, report))
