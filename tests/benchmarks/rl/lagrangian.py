"""Does a constrained run satisfy its constraint? Run after `make demo`:

    python -m tests.benchmarks.rl.lagrangian --seeds 1 2 3

Both conditions train for helpfulness and factuality. `constrained` must also keep the mean utility
of safety at `REQUIRED` or above, by a multiplier that is learned from the policy's own answers;
`unconstrained` is the same with a multiplier of 0.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from prm.aggregation.lagrange import LagrangeMultiplier, Lagrangian
from prm.rl.callbacks import RewardWeighting
from prm.rl.reward_function import RewardFunction
from prm.rl.trl import TRLRewards
from prm.rl.weighting import Constraint
from tests.benchmarks.rl.grpo import Settings
from tests.benchmarks.rl.plots import draw_curves, figure, logged, probes, save
from tests.benchmarks.rl.replies import EMPTY, MODEL
from tests.benchmarks.rl.report import write
from tests.benchmarks.rl.study import Condition, Run, Setup, Study, main, of_condition
from tests.benchmarks.rl.tasks import REPLIES

REQUIRED, LIMIT = 2.0, 2.5
"""Mean utility of safety, in log-odds: the constraint, and what the multiplier is given.

A multiplier answers late, so that the policy moves around its limit, above and below.
"""

START = Lagrangian("safety", multiplier=0.0)
UTILITY, MULTIPLIER = "prm/utility/safety", "prm/weighting/multiplier"
"""What TRL's log calls them."""


def without_safety() -> RewardFunction:
    """Return the reward of helpfulness and factuality."""
    return RewardFunction(MODEL, objective_aggregation=START, empty=EMPTY, device="cpu")


def unconstrained(seed: int) -> Setup:
    """Train for helpfulness and factuality alone."""
    return Setup(TRLRewards(without_safety()).aggregated())


def constrained(seed: int) -> Setup:
    """Train under the constraint."""
    function = without_safety()
    multiplier = LagrangeMultiplier(START, LIMIT, learning_rate=0.3, maximum=1.5)
    weighting = RewardWeighting(function, Constraint(multiplier, function.objectives))
    return Setup(TRLRewards(function).aggregated(), [weighting])


STUDY = Study(
    "lagrangian",
    REPLIES,
    (
        Condition("unconstrained", unconstrained, without_safety),
        Condition("constrained", constrained, without_safety),
    ),
    Settings(num_steps=100, beta=0.1),
)

GOLD = ("utility/safety", "gold/safety", "gold/helpfulness", "gold/factuality")
OTHERS = ("utility/helpfulness", "utility/factuality", "kl", "length")
COLORS = {"unconstrained": "tab:red", "constrained": "tab:green"}


def second_half(runs: Sequence[Run]) -> str:
    """Say what the policy's own answers got while it was trained, after half of the steps."""
    lines = ["Utility of safety in the second half of training, lowest step and mean, by seed:\n"]
    for condition in COLORS:
        found = []
        for run in of_condition(runs, condition):
            utilities = [row[UTILITY] for row in run.log if UTILITY in row]
            later = utilities[len(utilities) // 2 :]
            found.append(f"{min(later):.2f} and {fmean(later):.2f}")
        lines.append(f"- {condition}: {', '.join(found)}")
    return "\n".join(lines)


def report(runs: Sequence[Run], folder: Path, command: str) -> None:
    """Write results, table and plot."""
    write(folder, runs, command, GOLD, OTHERS)
    with (folder / "table.md").open("a", encoding="utf-8") as page:
        page.write(f"\n{second_half(runs)}\n")
    drawn, (utility, gold, multiplier) = figure(3)
    draw_curves(utility, runs, COLORS, probes("utility/safety"))
    utility.axhline(REQUIRED, color="black", linestyle="--")
    utility.set_title("utility of safety; dashed: required")
    draw_curves(gold, runs, COLORS, probes("gold/safety"))
    gold.set_title("gold: safe replies")
    gold.legend(fontsize="small", loc="center right")
    draw_curves(multiplier, runs, {"constrained": "tab:green"}, logged(MULTIPLIER))
    multiplier.set_title("multiplier")
    save(drawn, folder / "lagrangian.png")


if __name__ == "__main__":
    sys.exit(main(STUDY, report))
