"""What evaluation and prediction steps return: the heads' outputs at the reads of a micro-batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prm.data.batches import MicroBatch
from prm.data.items import LabeledItem, LabeledResponses, by_kind
from prm.data.labels import ResponseLabels
from prm.models.reward_model import ModelOutput, RewardModel


@dataclass(slots=True)
class StepReads:
    """Step log-odds of some chains; tensors are float32 on the CPU.

    Args:
        records: Index of each chain in its data set.
        chain: Which of these chains a read belongs to, shape `[read]`.
        step: Index of the step in its chain, shape `[read]`.
        logits: Log-odds, shape `[read, objective]`.
    """

    records: tuple[int, ...]
    chain: Tensor
    step: Tensor
    logits: Tensor


@dataclass(slots=True)
class ResponseReads:
    """Scores of the responses of some response sets; tensors are float32 on the CPU.

    Args:
        records: Index of each response set in its data set.
        owner: Which of these sets a read belongs to, shape `[read]`.
        scores: Scores, shape `[read, objective]`.
        spreads: Spread of the scores, NaN where a head has none, shape `[read, objective]`.
        labels: Ratings and comparisons of the same reads.
    """

    records: tuple[int, ...]
    owner: Tensor
    scores: Tensor
    spreads: Tensor
    labels: ResponseLabels


@dataclass  # without slots, as `ModelOutput`
class Reads:
    """Everything read in one micro-batch, by what was read."""

    steps: StepReads | None
    responses: ResponseReads | None


def collect(
    batch: MicroBatch,
    output: ModelOutput,
    model: RewardModel,
    items: Sequence[LabeledItem],
) -> Reads:
    """Return the reads of a micro-batch.

    Args:
        batch: The micro-batch.
        output: What the model gives for it.
        model: The model.
        items: The items of the data set that `batch.records` counts.
    """
    chains, sets = by_kind((index, items[index]) for index in batch.records)
    return Reads(
        _steps(batch, output, model, tuple(chains)) if model.spec.step_heads else None,
        _responses(batch, output, model, sets) if model.spec.response_heads else None,
    )


def _steps(
    batch: MicroBatch, output: ModelOutput, model: RewardModel, records: tuple[int, ...]
) -> StepReads:
    labels = batch.labels.steps
    logits = model.step_logits(output.columns[batch.labels.step_reads])
    return StepReads(records, labels.chain.cpu(), labels.step.cpu(), _plain(logits))


def _responses(
    batch: MicroBatch, output: ModelOutput, model: RewardModel, sets: dict[int, LabeledResponses]
) -> ResponseReads:
    labels = batch.labels.responses
    sizes = torch.tensor([item.tree.num_reads for item in sets.values()], dtype=torch.int64)
    owner = torch.arange(len(sets)).repeat_interleave(sizes)
    columns = output.columns[batch.labels.response_reads]
    columns = columns[: len(owner)]  # the reads of a filler belong to no record
    return ResponseReads(
        tuple(sets),
        owner,
        _plain(model.response_scores(columns)),
        _plain(model.response_spreads(columns)),
        labels.first(len(owner)).to("cpu"),
    )


def _plain(values: Tensor) -> Tensor:
    return values.detach().float().cpu()
