"""Batches: packed trees with their labels, whatever kind of record the labels belong to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, Self, TypeVar

import torch

from prm.data.planning import MicroBatchPlan
from prm.trees.packing import ModelInput, Pack, pack
from prm.trees.tree import TokenTree


class Targets(Protocol):
    """Labels of the reads of some items."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Return the labels on `device`."""


class Item(Protocol):
    """A tokenized record, or several that belong together."""

    @property
    def tree(self) -> TokenTree:
        """What the model reads."""


Packer = Callable[[Sequence[Item]], Pack]
"""Looks at all items of a data set, and returns what makes the input of some of them."""

AnyTargets = TypeVar("AnyTargets", bound=Targets)


class Labeler(Protocol):
    """Collects the labels of items, in the order of their reads."""

    def __call__(self, items: Sequence[Any], filler: bool = False) -> Any:
        """Return the labels of some items; those of a filler count for nothing."""


@dataclass(slots=True)
class MicroBatch(Generic[AnyTargets]):
    """What one rank computes in one forward pass.

    Args:
        trees: The packed items, or what was read of them before.
        targets: Their labels; none that counts in a filler.
        records: Index of each item in its data set; empty in a filler.
    """

    trees: ModelInput
    targets: AnyTargets
    records: tuple[int, ...]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> MicroBatch[AnyTargets]:
        """Return the batch on `device`."""
        return replace(
            self,
            trees=self.trees.to(device, non_blocking),
            targets=self.targets.to(device, non_blocking),
        )


@dataclass(slots=True)
class OptimizerBatch(Generic[AnyTargets]):
    """One rank's share of an optimizer batch.

    Args:
        micro_batches: What this rank computes.
        targets: Labels of the whole batch, over all ranks, from which losses are normalized.
        num_records: Items in the whole batch.
    """

    micro_batches: list[MicroBatch[AnyTargets]]
    targets: AnyTargets
    num_records: int

    def to(
        self, device: torch.device | str, non_blocking: bool = False
    ) -> OptimizerBatch[AnyTargets]:
        """Return the batch on `device`."""
        return replace(
            self,
            micro_batches=[batch.to(device, non_blocking) for batch in self.micro_batches],
            targets=self.targets.to(device, non_blocking),
        )


def micro_batch(
    plan: MicroBatchPlan,
    items: Sequence[Item] | Mapping[int, Item],
    labeler: Labeler,
    pack: Pack = pack,
) -> MicroBatch[Any]:
    """Pack the items that a plan names."""
    chosen = [items[record] for record in plan.records]
    trees = pack([item.tree for item in chosen])
    targets = labeler(chosen, filler=plan.filler)
    return MicroBatch(trees, targets, () if plan.filler else plan.records)


def optimizer_batch(
    plans: Sequence[MicroBatchPlan],
    items: Sequence[Item],
    labeler: Labeler,
    rank: int = 0,
    num_ranks: int = 1,
    pack: Pack = pack,
) -> OptimizerBatch[Any]:
    """Pack one rank's micro-batches and collect the labels of all ranks'."""
    records = [record for plan in plans if not plan.filler for record in plan.records]
    own = plans[rank::num_ranks]
    needed = {*records, *(record for plan in own for record in plan.records)}
    chosen = {record: items[record] for record in needed}
    return OptimizerBatch(
        micro_batches=[micro_batch(plan, chosen, labeler, pack) for plan in own],
        targets=labeler([chosen[record] for record in records]),
        num_records=len(records),
    )
