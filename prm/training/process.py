"""`ProcessRewardTask`: the Lightning module that trains process reward models."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from prm.aggregation.steps import named_aggregation
from prm.errors import ConfigError
from prm.models.sources import BackboneSource
from prm.records import Chain, Record
from prm.spec import StepFormat
from prm.training.losses import StepLosses
from prm.training.objectives import StepObjective
from prm.training.task import RewardTask


class ProcessRewardTask(RewardTask):
    """Trains a `ProcessRewardModel` on labeled chains.

    Args:
        backbone: Where model and tokenizer come from.
        objectives: Step objectives; one, correctness with binary cross-entropy, if not given.
        chain_reward: The objective whose aggregated score is the reward; needed with several.
        step_format: How steps become tokens.
        aggregation: Step aggregation stored with the model, by short name.
        **options: The options of `RewardTask`.
    """

    monitored = "val/step_auroc"

    def __init__(
        self,
        backbone: BackboneSource,
        objectives: list[StepObjective] | None = None,
        chain_reward: str = "",
        step_format: StepFormat = StepFormat(),  # noqa: B008
        aggregation: str | dict[str, Any] = "min",
        **options: Any,
    ) -> None:
        steps = objectives or [StepObjective()]
        spec_options = {
            "step_heads": tuple(objective.spec for objective in steps),
            "chain_reward": chain_reward,
            "step_format": step_format,
            "step_aggregation": named_aggregation(aggregation),
        }
        super().__init__(backbone, spec_options, **options)
        self.objectives = steps
        self.loss = self.batch_loss([StepLosses(steps, self.spec)])

    def prepare_losses(self, records: Iterable[Record]) -> None:
        fit_step_losses(self.objectives, records)


def fit_step_losses(objectives: Sequence[StepObjective], records: Iterable[Record]) -> None:
    """Give each loss what it needs to know about the training labels.

    Raises:
        ConfigError: An objective has no label.
    """
    for objective in objectives:
        labels = torch.from_numpy(np.fromiter(_labels(records, objective.name), np.float32))
        if labels.isnan().all():
            raise ConfigError(
                f"no training chain has a label of objective {objective.name!r}",
                fix="Name the objectives as the chains' labels are named",
            )
        objective.loss.fit_balance(labels)


def _labels(records: Iterable[Record], objective: str) -> Iterator[float]:
    """Yield the labels of an objective, NaN where there is none."""
    for record in records:
        if isinstance(record, Chain):
            for value in record.labels.get(objective, ()):
                yield math.nan if value is None else value
