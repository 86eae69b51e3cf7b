"""What is trained: step objectives, and the loss of an optimizer batch made of micro-batches."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from prm.data.batches import MicroBatch, StepLabels
from prm.losses.language import LanguageModelLoss, next_token_loss
from prm.losses.process import BCE, ProcessLoss, StepTargets
from prm.models.reward_model import ModelOutput
from prm.records import CORRECTNESS
from prm.spec import RewardSpec

LANGUAGE_MODEL = "language_model"
"""Name of the next-token loss among the losses."""


class StepObjective:
    """One step objective to train.

    Args:
        name: Name of the objective; `labels` of chains are looked up by it.
        loss: Its loss.
        loss_weight: Factor of its loss.
    """

    def __init__(
        self, name: str = CORRECTNESS, loss: ProcessLoss | None = None, loss_weight: float = 1.0
    ) -> None:
        self.name = name
        self.loss = loss or BCE()
        self.loss_weight = loss_weight


class BatchLoss:
    """The loss of an optimizer batch: `sum_n w_n S_n / T_n` over the named losses n.

    `S_n` is summed over micro-batches and ranks, `T_n` comes from the labels of the whole batch, so
    the loss does not depend on how the batch is cut.

    Args:
        objectives: The step objectives, in column order.
        language_model: The next-token regularizer, if there is one.
        spec: The reward spec, for columns and the reward objective.
    """

    def __init__(
        self,
        objectives: Sequence[StepObjective],
        language_model: LanguageModelLoss | None,
        spec: RewardSpec,
    ) -> None:
        self.objectives = objectives
        self.language_model = language_model
        self.columns = spec.columns
        names = [objective.name for objective in spec.objectives]
        self.reward_column = names.index(spec.reward_objective)
        self.loss_weights = {objective.name: objective.loss_weight for objective in objectives}
        if language_model is not None:
            self.loss_weights[LANGUAGE_MODEL] = language_model.loss_weight

    def totals(self, targets: StepLabels) -> dict[str, Tensor]:
        """Return `T_n` by name, from the labels of the whole optimizer batch."""
        totals = {
            objective.name: objective.loss.weights(_column(targets, index)).sum()
            for index, objective in enumerate(self.objectives)
        }
        if all(total == 0 for total in totals.values()):
            warnings.warn("an optimizer batch without any label; its loss is 0", stacklevel=2)
        if self.language_model is not None:
            selected = self.language_model.selected_reads(targets.labels[:, self.reward_column])
            totals[LANGUAGE_MODEL] = targets.num_tokens[selected].sum().float()
        return totals

    def sums(
        self, batch: MicroBatch, output: ModelOutput, output_embeddings: Tensor | None
    ) -> dict[str, Tensor]:
        """Return a micro-batch's part of `S_n` by name.

        Args:
            batch: The micro-batch.
            output: What the model gives for it.
            output_embeddings: Shape `[vocabulary, hidden]`; needed with a language model.
        """
        sums = {
            objective.name: objective.loss.sum(
                output.columns[:, self.columns[objective.name]], _column(batch.targets, index)
            )
            for index, objective in enumerate(self.objectives)
        }
        if self.language_model is not None:
            assert output_embeddings is not None
            selected = self.language_model.selected_reads(
                batch.targets.labels[:, self.reward_column]
            )
            sums[LANGUAGE_MODEL] = _language_sum(batch, output, output_embeddings, selected)
        return sums

    def mean(self, sums: dict[str, Tensor], totals: dict[str, Tensor]) -> Tensor:
        """Return `sum_n w_n S_n / T_n`; a loss whose total is 0 adds 0."""
        parts = [
            self.loss_weights[name] * value / totals[name].clamp(min=1e-8)
            for name, value in sums.items()
        ]
        return torch.stack(parts).sum()


def _column(targets: StepLabels, index: int) -> StepTargets:
    return StepTargets(targets.labels[:, index], targets.chain, targets.step)


def _language_sum(
    batch: MicroBatch, output: ModelOutput, output_embeddings: Tensor, selected: Tensor
) -> Tensor:
    """Sum the next-token loss over the tokens of the selected steps; a filler has none."""
    trees = batch.trees
    if not batch.records:
        selected = torch.zeros_like(selected)
    in_step = trees.token_read >= 0
    tokens = torch.zeros_like(in_step)
    tokens[in_step] = selected[trees.token_read[in_step]]
    targets = tokens.nonzero().squeeze(-1)
    return next_token_loss(
        output.states, output_embeddings, trees.input_ids[targets], trees.previous[targets]
    )
