"""Gradients are exchanged once per optimizer step, or shard by shard with each micro-batch."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from prm.training.distributed import average_gradients, clip_gradients, gradient_sync

MICRO_BATCHES = 3


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """A process group of one gloo rank, which exchanges gradients with itself."""
    store = f"file://{tmp_path / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Communications(TorchDispatchMode):
    """Counts what ranks exchange, by the name of the operation."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note an operation of a process group."""
        if func.namespace == "c10d":
            self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def backward(run: Any, strategy: Any) -> Iterator[int]:
    """Run the micro-batches as `training_step` does; yield after each."""
    for index in range(MICRO_BATCHES):
        with gradient_sync(strategy, index == MICRO_BATCHES - 1):
            run(torch.ones(2, 4)).sum().backward()
        yield index


def test_ddp_exchanges_gradients_once(group: None) -> None:
    model = nn.Linear(4, 1)
    alone = copy.deepcopy(model)
    ddp = DistributedDataParallel(model)
    with Communications() as ranks:
        list(backward(ddp, SimpleNamespace(model=ddp)))
    list(backward(alone, SimpleNamespace(model=alone)))
    assert ranks.counts == {"allreduce_": 1}
    torch.testing.assert_close(model.weight.grad, alone.weight.grad)


def test_fsdp_keeps_no_whole_gradients_between_micro_batches(group: None) -> None:
    """The gradient of the shards appears with the exchange; a lone rank skips the transfer."""
    model: Any = nn.Linear(4, 1)
    alone = copy.deepcopy(model)
    fully_shard(model)
    run = backward(model, SimpleNamespace(model=model))
    assert [model.weight.grad is not None for _ in run] == [True] * MICRO_BATCHES
    list(backward(alone, SimpleNamespace(model=alone)))
    torch.testing.assert_close(model.weight.grad.full_tensor(), alone.weight.grad)


def test_the_norm_is_over_sharded_and_plain_gradients(group: None) -> None:
    """Those of a sharded model and of the losses that learn beside it."""
    model: Any = nn.Linear(4, 1)
    plain, unused = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(1))
    fully_shard(model)
    (model(torch.ones(2, 4)).sum() + 3 * plain.sum()).backward()
    average_gradients([plain, unused])
    norm = clip_gradients([*model.parameters(), plain, unused], 1.0)
    assert norm == pytest.approx((4 * 2**2 + 2**2 + 3 * 3**2) ** 0.5)
    assert plain.grad is not None
    torch.testing.assert_close(plain.grad, torch.full((3,), 3 / float(norm)), rtol=1e-5, atol=0)
    torch.testing.assert_close(
        model.bias.grad.full_tensor(), torch.full((1,), 2 / float(norm)), rtol=1e-5, atol=0
    )
