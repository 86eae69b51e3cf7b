"""What evaluation and prediction steps return: the heads' outputs at the reads of a micro-batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prm.data.batches import MicroBatch
from prm.data.items import LabeledItem, by_kind
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
        labels: Ratings and comparisons of the same reads.
    """

    records: tuple[int, ...]
    owner: Tensor
    scores: Tensor
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
    labels = batch.labels
    steps, responses = None, None
    if model.spec.step_heads:
        logits = _plain(model.step_logits(output.columns[labels.step_reads]))
        place = labels.steps.chain.cpu(), labels.steps.step.cpu()
        steps = StepReads(tuple(chains), *place, logits)
    if model.spec.response_heads:
        sizes = torch.tensor([item.tree.num_reads for item in sets.values()], dtype=torch.int64)
        owner = torch.arange(len(sets)).repeat_interleave(sizes)
        columns = output.columns[labels.response_reads]
        columns = columns[: len(owner)]  # the reads of a filler belong to no record
        scores = _plain(model.response_scores(columns))
        own = labels.responses.first(len(owner)).to("cpu")
        responses = ResponseReads(tuple(sets), owner, scores, own)
    return Reads(steps, responses)


def _plain(values: Tensor) -> Tensor:
    return values.detach().float().cpu()
