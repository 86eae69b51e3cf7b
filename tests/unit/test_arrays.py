"""Everything with tensors moves to a device in one call."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from prm.data.batches import MicroBatch, OptimizerBatch
from prm.data.labels import Labels, ResponseLabels, StepLabels
from prm.losses.preference import PreferenceTargets
from prm.trees.packing import CachedReads, pack
from prm.trees.tree import Segment, TokenTree


def example() -> OptimizerBatch:
    none = torch.zeros(0)
    pair = PreferenceTargets(
        *(torch.tensor(values) for values in ([0, 1], [0, 0], [0, 1], [1.0], [0.5], [1.0, 2.0]))
    )
    labels = Labels(
        StepLabels(none, none, none, none),
        ResponseLabels(torch.zeros(2, 1), (pair, pair), torch.ones(2).bool(), torch.ones(2)),
        none,
        torch.arange(2),
    )
    trees = pack([TokenTree((Segment((7, 8), reads=(1,)),))])
    batches = [MicroBatch(trees, labels, (0,)), MicroBatch(CachedReads(none, 3), labels, ())]
    return OptimizerBatch(batches, labels, 1)


def leaves(value: Any) -> list[Any]:
    if dataclasses.is_dataclass(value):
        return [x for f in dataclasses.fields(value) for x in leaves(getattr(value, f.name))]
    if isinstance(value, list | tuple):
        return [x for item in value for x in leaves(item)]
    return [value]


def test_all_tensors_of_a_batch_move_and_all_else_stays() -> None:
    batch = example()
    before, after = leaves(batch), leaves(batch.to("meta"))
    tensors = [isinstance(x, torch.Tensor) for x in before]
    assert sum(tensors) > 20
    assert all(x.device.type == "meta" for x, yes in zip(after, tensors, strict=True) if yes)
    others = [(x, y) for x, y, yes in zip(before, after, tensors, strict=True) if not yes]
    assert others
    assert all(x == y for x, y in others)
    assert not any(x.device.type == "meta" for x, yes in zip(before, tensors, strict=True) if yes)
