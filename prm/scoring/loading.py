"""`ScorerOptions`: what to load, as plain values that can travel to another process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from prm.aggregation.objectives import ObjectiveAggregation
    from prm.aggregation.steps import StepAggregation
    from prm.scoring.scorer import RewardScorer
    from prm.spec import Shaping


@dataclass(frozen=True)
class ScorerOptions:
    """Arguments of `RewardScorer.from_pretrained`.

    Args:
        path: The model folder.
        device: Where the model runs.
        dtype: Type of the backbone's weights.
        step_aggregation: Step aggregation in place of the spec's.
        max_tokens: Tokens in one forward pass.
        objective_aggregation: Objective aggregation in place of the spec's.
        shaping: Shaping of the reward in place of the spec's.
    """

    path: Path
    device: str = "auto"
    dtype: torch.dtype | None = None
    step_aggregation: StepAggregation | None = None
    max_tokens: int = 16384
    objective_aggregation: ObjectiveAggregation | None = None
    shaping: Shaping | None = None

    def load(self) -> RewardScorer:
        """Load the model; raises as `RewardScorer.from_pretrained`."""
        from prm.scoring.scorer import RewardScorer

        return RewardScorer.from_pretrained(
            self.path,
            self.device,
            self.dtype,
            self.step_aggregation,
            self.max_tokens,
            self.objective_aggregation,
            self.shaping,
        )
