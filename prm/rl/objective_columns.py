"""The values of completions by objective: as a dictionary of numbers, or as tensors of a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from prm.rl.reward_function import CompletionReward


def known_objectives(reward: CompletionReward, missing: float) -> dict[str, float]:
    """Return the value of each objective, and `missing` where there is none."""
    return {name: missing if value is None else value for name, value in reward.objectives.items()}


def objective_columns(
    rewards: Sequence[CompletionReward], prefix: str = "", missing: float = math.nan
) -> dict[str, Tensor]:
    """Return each objective's values, shape `[batch]`, under its name.

    Args:
        rewards: What the reward function said about each completion, at least one.
        prefix: Text before each name, such as NeMo-RL's `reward/`.
        missing: What stands for a value that is missing. A NaN spreads to every completion that is
            normalized together with it.
    """
    rows = [known_objectives(reward, missing) for reward in rewards]
    return {f"{prefix}{name}": torch.tensor([row[name] for row in rows]) for name in rows[0]}
