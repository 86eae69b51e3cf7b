"""`JointRewardTask`: process and outcome heads on one backbone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prm.aggregation.objectives import ObjectiveAggregation
from prm.aggregation.steps import named_aggregation
from prm.models.reward_model import RewardModel
from prm.models.sources import BackboneSource
from prm.records import Record
from prm.spec import ResponseFormat, StepFormat
from prm.training.losses import ResponseLosses, StepLosses
from prm.training.objectives import ResponseObjective, StepObjective
from prm.training.outcome import fit_normalizers, fit_response_losses
from prm.training.process import fit_step_losses
from prm.training.task import RewardTask


class JointRewardTask(RewardTask):
    """Trains a `JointRewardModel` on chains, comparisons and ratings.

    Args:
        backbone: Where model and tokenizer come from; a decoder.
        responses: The objectives of whole responses.
        steps: Step objectives; one, correctness with binary cross-entropy, if not given.
        chain_reward: The step objective whose aggregated score is a chain's reward.
        step_format: How steps become tokens.
        step_aggregation: How a chain's steps become one score, by short name.
        aggregation: How the objectives of responses become one reward. See `OutcomeRewardTask`.
        response_format: How responses become tokens, and where they are read.
        learn_weights: Learn how much each loss counts. See `UncertaintyWeights`.
        **options: The options of `RewardTask`.
    """

    monitored = "val/ranking"

    def __init__(
        self,
        backbone: BackboneSource,
        responses: list[ResponseObjective],
        steps: list[StepObjective] | None = None,
        chain_reward: str = "",
        step_format: StepFormat = StepFormat(),  # noqa: B008
        step_aggregation: str | dict[str, Any] = "min",
        aggregation: ObjectiveAggregation | None = None,
        response_format: ResponseFormat = ResponseFormat(),  # noqa: B008
        learn_weights: bool = False,
        **options: Any,
    ) -> None:
        step_objectives = steps or [StepObjective()]
        spec_options = {
            "step_heads": tuple(objective.spec for objective in step_objectives),
            "response_heads": tuple(objective.spec for objective in responses),
            "chain_reward": chain_reward,
            "step_format": step_format,
            "step_aggregation": named_aggregation(step_aggregation),
            "objective_aggregation": aggregation,
            "response_format": response_format,
        }
        super().__init__(backbone, spec_options, **options)
        self.steps = step_objectives
        self.responses = responses
        losses = StepLosses(self.steps, self.spec), ResponseLosses(responses, self.spec)
        self.loss = self.batch_loss(losses, learn_weights)

    def prepare_losses(self, records: Iterable[Record]) -> None:
        fit_step_losses(self.steps, records)
        fit_response_losses(self.responses, records)

    def finish(self, model: RewardModel) -> None:
        """Fit the normalizers of the objectives that have one."""
        fit_normalizers(self.responses, model, self)
