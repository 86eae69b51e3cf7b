"""`unit_score`: any score as a number in [0, 1], for trainers that ask for one."""

from __future__ import annotations

import math

from prm.scoring.chains import ChainScore
from prm.scoring.responses import ResponseScore
from prm.spec import RewardSpec


def unit_score(score: ChainScore | ResponseScore, spec: RewardSpec) -> float | None:
    """Return a score in [0, 1] that orders responses as the reward does, before it is shaped.

    Args:
        score: The score.
        spec: The spec in force: an aggregated probability stays as it is, every other reward `R`
            becomes `sigmoid(R)`.

    Returns:
        The number, `None` if there is no reward.
    """
    if score.reward is None:
        return None
    if isinstance(score, ResponseScore):
        return _sigmoid(score.reward)
    aggregated = score.scores.get(score.reward_objective)
    value = score.reward if aggregated is None else aggregated
    if spec.step_aggregation.unit == "probability":
        return min(max(value, 0.0), 1.0)
    return _sigmoid(value)


def _sigmoid(value: float) -> float:
    return (1 + math.tanh(value / 2)) / 2
