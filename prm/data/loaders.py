"""Loaders: plans to packed batches, in the training process or ahead of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from torch.utils.data import DataLoader

from prm.data.batches import MicroBatch, OptimizerBatch, Packer, micro_batch, optimizer_batch
from prm.data.items import LabeledItem
from prm.data.labels import Labeler
from prm.data.planning import MicroBatchPlan, TrainingPlan
from prm.trees.packing import Pack


@dataclass(eq=False)
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

    plan: TrainingPlan
    items: Sequence[LabeledItem]
    labeler: Labeler
    rank: int
    position: Callable[[], tuple[int, int]]
    num_workers: int
    packer: Packer

    @cached_property
    def pack(self) -> Pack:
        """What packs the items."""
        return self.packer(self.items)

    def __len__(self) -> int:
        return self.plan.num_steps

    def __iter__(self) -> Iterator[OptimizerBatch]:
        epoch, start = self.position()
        collate = partial(
            _training_batch, self.plan, self.items, self.labeler, self.rank, self.pack, epoch
        )
        yield from _batches(range(start, self.plan.num_steps), collate, self.num_workers)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the position is the trainer's; Lightning asks what can be resumed."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing: the position is the trainer's."""


@dataclass(eq=False)
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

    plans: Sequence[MicroBatchPlan]
    items: Sequence[LabeledItem]
    labeler: Labeler
    num_workers: int
    packer: Packer

    @cached_property
    def pack(self) -> Pack:
        """What packs the items."""
        return self.packer(self.items)

    def __len__(self) -> int:
        return len(self.plans)

    def __iter__(self) -> Iterator[MicroBatch]:
        collate = partial(micro_batch, items=self.items, labeler=self.labeler, pack=self.pack)
        return _batches(self.plans, collate, self.num_workers)


def _training_batch(
    plan: TrainingPlan,
    items: Sequence[LabeledItem],
    labeler: Labeler,
    rank: int,
    pack: Pack,
    epoch: int,
    step: int,
) -> OptimizerBatch:
    return optimizer_batch(plan.step(epoch, step), items, labeler, rank, plan.num_ranks, pack)


def _batches(plans: Any, collate: Callable[[Any], Any], num_workers: int) -> Iterator[Any]:
    return iter(DataLoader(plans, batch_size=None, num_workers=num_workers, collate_fn=collate))
