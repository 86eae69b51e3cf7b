"""Batches: packed trees with their labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from prm.data.packing import PackedTrees, pack
from prm.data.planning import MicroBatchPlan
from prm.data.tokenize import TokenizedChain
from prm.records import Chain


@dataclass(frozen=True, slots=True)
class LabeledChain:
    """A chain beside what the model reads of it."""

    chain: Chain
    tokens: TokenizedChain


@dataclass(slots=True)
class StepLabels:
    """Labels of the reads of some chains.

    Args:
        labels: Probability in [0, 1], NaN where unlabeled, shape `[read, objective]`, float32.
        chain: Index of the chain among these chains, shape `[read]`.
        step: Index of the step in its chain, shape `[read]`.
        num_tokens: Tokens of the step, marker included, shape `[read]`.
    """

    labels: Tensor
    chain: Tensor
    step: Tensor
    num_tokens: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> StepLabels:
        """Return the labels on `device`."""
        names = ("labels", "chain", "step", "num_tokens")
        return StepLabels(
            **{name: getattr(self, name).to(device, non_blocking=non_blocking) for name in names}
        )


@dataclass(slots=True)
class MicroBatch:
    """What one rank computes in one forward pass.

    Args:
        trees: The packed chains.
        targets: Their labels; all NaN in a filler.
        records: Index of each chain in its data set; empty in a filler.
    """

    trees: PackedTrees
    targets: StepLabels
    records: tuple[int, ...]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> MicroBatch:
        """Return the batch on `device`."""
        return replace(
            self,
            trees=self.trees.to(device, non_blocking),
            targets=self.targets.to(device, non_blocking),
        )


@dataclass(slots=True)
class OptimizerBatch:
    """One rank's share of an optimizer batch.

    Args:
        micro_batches: What this rank computes.
        targets: Labels of the whole batch, over all ranks, from which losses are normalized.
        num_records: Chains in the whole batch.
    """

    micro_batches: list[MicroBatch]
    targets: StepLabels
    num_records: int

    def to(self, device: torch.device | str, non_blocking: bool = False) -> OptimizerBatch:
        """Return the batch on `device`."""
        return replace(
            self,
            micro_batches=[batch.to(device, non_blocking) for batch in self.micro_batches],
            targets=self.targets.to(device, non_blocking),
        )


def step_labels(chains: Sequence[LabeledChain], objectives: Sequence[str]) -> StepLabels:
    """Return the labels of the reads of `chains`, one column per objective name."""
    rows: list[list[float]] = []
    owners: list[int] = []
    steps: list[int] = []
    sizes: list[int] = []
    for index, item in enumerate(chains):
        columns = [item.chain.labels.get(name) for name in objectives]
        for step in item.tokens.steps:
            values = [None if column is None else column[step] for column in columns]
            rows.append([math.nan if value is None else value for value in values])
        owners.extend([index] * len(item.tokens.steps))
        steps.extend(item.tokens.steps)
        sizes.extend(_step_sizes(item.tokens))
    return StepLabels(
        labels=torch.tensor(rows, dtype=torch.float32).reshape(len(rows), len(objectives)),
        chain=torch.tensor(owners, dtype=torch.int64),
        step=torch.tensor(steps, dtype=torch.int64),
        num_tokens=torch.tensor(sizes, dtype=torch.int64),
    )


def micro_batch(
    plan: MicroBatchPlan, chains: Sequence[LabeledChain], objectives: Sequence[str]
) -> MicroBatch:
    """Pack the chains that a plan names."""
    chosen = [chains[record] for record in plan.records]
    targets = step_labels(chosen, objectives)
    if plan.filler:
        targets.labels.fill_(math.nan)
    trees = pack([item.tokens.tree for item in chosen])
    return MicroBatch(trees, targets, () if plan.filler else plan.records)


def optimizer_batch(
    plans: Sequence[MicroBatchPlan],
    chains: Sequence[LabeledChain],
    objectives: Sequence[str],
    rank: int = 0,
    num_ranks: int = 1,
) -> OptimizerBatch:
    """Pack one rank's micro-batches and collect the labels of all ranks'."""
    records = [record for plan in plans if not plan.filler for record in plan.records]
    return OptimizerBatch(
        micro_batches=[micro_batch(plan, chains, objectives) for plan in plans[rank::num_ranks]],
        targets=step_labels([chains[record] for record in records], objectives),
        num_records=len(records),
    )


def _step_sizes(tokens: TokenizedChain) -> list[int]:
    sizes = []
    for segment in tokens.tree.segments:
        first = 0
        for read in segment.reads:
            sizes.append(read + 1 - first)
            first = read + 1
    return sizes
