"""Loaders: plans to packed batches, in the training process or ahead of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch.utils.data import DataLoader, Dataset

from prm.data.batches import (
    MicroBatch,
    OptimizerBatch,
    Packer,
    micro_batch,
    optimizer_batch,
)
from prm.data.items import LabeledItem
from prm.data.labels import Labeler
from prm.data.planning import MicroBatchPlan, TrainingPlan
from prm.trees.packing import Pack


class TrainingLoader:
    """Yields one rank's optimizer batches, from the trainer's position to the end of the epoch.

    Args:
        plan: The plan of all epochs.
        items: The tokenized training items.
        labeler: Collects their labels.
        rank: This rank.
        position: Returns the epoch and the optimizer batch in it to start from.
        num_workers: Processes that pack ahead.
        packer: Asked once, before the first batch, for what packs the items.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        items: Sequence[LabeledItem],
        labeler: Labeler,
        rank: int,
        position: Callable[[], tuple[int, int]],
        num_workers: int,
        packer: Packer,
    ) -> None:
        self.plan = plan
        self.items = items
        self.labeler = labeler
        self.rank = rank
        self.position = position
        self.num_workers = num_workers
        self.packer = packer

    @cached_property
    def pack(self) -> Pack:
        """What packs the items."""
        return self.packer(self.items)

    def __len__(self) -> int:
        return self.plan.num_steps

    def __iter__(self) -> Iterator[OptimizerBatch]:
        epoch, start = self.position()
        batches = _TrainingBatches(
            self.plan, self.items, self.labeler, self.rank, epoch, start, self.pack
        )
        yield from DataLoader(batches, batch_size=None, num_workers=self.num_workers)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the position is the trainer's; Lightning asks what can be resumed."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing: the position is the trainer's."""


class EvaluationLoader:
    """Yields one rank's micro-batches in order.

    It is no `DataLoader`: Lightning would give that a distributed sampler, and each rank would then
    see a part of its part.

    Args:
        plans: This rank's plans.
        items: The tokenized items.
        labeler: Collects their labels.
        num_workers: Processes that pack ahead.
        packer: Asked once, before the first batch, for what packs the items.
    """

    def __init__(
        self,
        plans: Sequence[MicroBatchPlan],
        items: Sequence[LabeledItem],
        labeler: Labeler,
        num_workers: int,
        packer: Packer,
    ) -> None:
        self.plans, self.items, self.labeler = plans, items, labeler
        self.num_workers = num_workers
        self.packer = packer

    @cached_property
    def pack(self) -> Pack:
        """What packs the items."""
        return self.packer(self.items)

    def __len__(self) -> int:
        return len(self.plans)

    def __iter__(self) -> Iterator[MicroBatch]:
        batches = _EvaluationBatches(self.plans, self.items, self.labeler, self.pack)
        return iter(DataLoader(batches, batch_size=None, num_workers=self.num_workers))


@dataclass(frozen=True)
class _TrainingBatches(Dataset[OptimizerBatch]):
    plan: TrainingPlan
    items: Sequence[LabeledItem]
    labeler: Labeler
    rank: int
    epoch: int
    start: int
    pack: Pack

    def __len__(self) -> int:
        return self.plan.num_steps - self.start

    def __getitem__(self, index: int) -> OptimizerBatch:
        plans = self.plan.step(self.epoch, self.start + index)
        return optimizer_batch(
            plans, self.items, self.labeler, self.rank, self.plan.num_ranks, self.pack
        )


@dataclass(frozen=True)
class _EvaluationBatches(Dataset[MicroBatch]):
    plans: Sequence[MicroBatchPlan]
    items: Sequence[LabeledItem]
    labeler: Labeler
    pack: Pack

    def __len__(self) -> int:
        return len(self.plans)

    def __getitem__(self, index: int) -> MicroBatch:
        return micro_batch(self.plans[index], self.items, self.labeler, self.pack)
