"""Batches: packed trees with the labels of their reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from prm.data.items import LabeledItem
from prm.data.labels import Labeler, Labels
from prm.data.planning import MicroBatchPlan
from prm.trees.packing import ModelInput, OnDevice, Pack, pack

Packer = Callable[[Sequence[LabeledItem]], Pack]
"""Looks at all items of a data set, and returns what makes the input of some of them."""


@dataclass(slots=True)
class MicroBatch(OnDevice):
    """What one rank computes in one forward pass.

    Args:
        trees: The packed items, or what was read of them before.
        labels: Their labels; none that counts in a filler.
        records: Index of each item in its data set; empty in a filler.
    """

    trees: ModelInput
    labels: Labels
    records: tuple[int, ...]


@dataclass(slots=True)
class OptimizerBatch(OnDevice):
    """One rank's share of an optimizer batch.

    Args:
        micro_batches: What this rank computes.
        labels: Labels of the whole batch, over all ranks, from which losses are normalized.
        num_records: Items in the whole batch.
    """

    micro_batches: list[MicroBatch]
    labels: Labels
    num_records: int


def micro_batch(
    plan: MicroBatchPlan,
    items: Sequence[LabeledItem] | Mapping[int, LabeledItem],
    labeler: Labeler,
    pack: Pack = pack,
) -> MicroBatch:
    """Pack the items that a plan names."""
    chosen = [items[record] for record in plan.records]
    trees = pack([item.tree for item in chosen])
    labels = labeler(chosen, filler=plan.filler)
    return MicroBatch(trees, labels, () if plan.filler else plan.records)


def optimizer_batch(
    plans: Sequence[MicroBatchPlan],
    items: Sequence[LabeledItem],
    labeler: Labeler,
    rank: int = 0,
    num_ranks: int = 1,
    pack: Pack = pack,
) -> OptimizerBatch:
    """Pack one rank's micro-batches and collect the labels of all ranks'."""
    records = [record for plan in plans if not plan.filler for record in plan.records]
    own = plans[rank::num_ranks]
    needed = {*records, *(record for plan in own for record in plan.records)}
    chosen = {record: items[record] for record in needed}
    return OptimizerBatch(
        micro_batches=[micro_batch(plan, chosen, labeler, pack) for plan in own],
        labels=labeler([chosen[record] for record in records]),
        num_records=len(records),
    )
