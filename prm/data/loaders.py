"""Loaders: plans to packed batches, in the training process or ahead of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader, Dataset

from prm.data.batches import LabeledChain, MicroBatch, OptimizerBatch, micro_batch, optimizer_batch
from prm.data.planning import MicroBatchPlan, TrainingPlan


class TrainingLoader:
    """Yields one rank's optimizer batches, from the trainer's position to the end of the epoch.

    Args:
        plan: The plan of all epochs.
        chains: The tokenized training chains.
        objectives: Names of the objectives, in column order.
        rank: This rank.
        position: Returns the epoch and the optimizer batch in it to start from.
        num_workers: Processes that pack ahead.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        chains: Sequence[LabeledChain],
        objectives: Sequence[str],
        rank: int,
        position: Callable[[], tuple[int, int]],
        num_workers: int,
    ) -> None:
        self.plan = plan
        self.chains = chains
        self.objectives = objectives
        self.rank = rank
        self.position = position
        self.num_workers = num_workers

    def __len__(self) -> int:
        return self.plan.num_steps

    def __iter__(self) -> Iterator[OptimizerBatch]:
        epoch, start = self.position()
        batches = _TrainingBatches(self.plan, self.chains, self.objectives, self.rank, epoch, start)
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
        chains: The tokenized chains.
        objectives: Names of the objectives, in column order.
        num_workers: Processes that pack ahead.
    """

    def __init__(
        self,
        plans: Sequence[MicroBatchPlan],
        chains: Sequence[LabeledChain],
        objectives: Sequence[str],
        num_workers: int,
    ) -> None:
        self.batches = _EvaluationBatches(plans, chains, objectives)
        self.num_workers = num_workers

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[MicroBatch]:
        return iter(DataLoader(self.batches, batch_size=None, num_workers=self.num_workers))


class _TrainingBatches(Dataset[OptimizerBatch]):
    def __init__(
        self,
        plan: TrainingPlan,
        chains: Sequence[LabeledChain],
        objectives: Sequence[str],
        rank: int,
        epoch: int,
        start: int,
    ) -> None:
        self.plan, self.chains, self.objectives = plan, chains, objectives
        self.rank, self.epoch, self.start = rank, epoch, start

    def __len__(self) -> int:
        return self.plan.num_steps - self.start

    def __getitem__(self, index: int) -> OptimizerBatch:
        plans = self.plan.step(self.epoch, self.start + index)
        return optimizer_batch(plans, self.chains, self.objectives, self.rank, self.plan.num_ranks)


class _EvaluationBatches(Dataset[MicroBatch]):
    def __init__(
        self,
        plans: Sequence[MicroBatchPlan],
        chains: Sequence[LabeledChain],
        objectives: Sequence[str],
    ) -> None:
        self.plans, self.chains, self.objectives = plans, chains, objectives

    def __len__(self) -> int:
        return len(self.plans)

    def __getitem__(self, index: int) -> MicroBatch:
        return micro_batch(self.plans[index], self.chains, self.objectives)
