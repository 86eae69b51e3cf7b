"""Heads compute and stay in float32, whatever the backbone does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import CHAINS, columns_packed, tiny_model

from prm.models.heads import Heads

kinds: Any = pytest.mark.parametrize("kind", ["linear", "mlp"])


@kinds
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_casting_the_model_leaves_heads_exactly_as_they_were(kind: Any, dtype: torch.dtype) -> None:
    model = tiny_model(head=kind)
    before = {name: tensor.clone() for name, tensor in model.heads.state_dict().items()}
    model.to(dtype)
    assert next(model.backbone.parameters()).dtype == dtype
    for name, tensor in model.heads.state_dict().items():
        assert tensor.dtype == torch.float32
        assert tensor.equal(before[name])


def test_casting_by_method_and_back() -> None:
    heads = Heads(8, 2)
    weight = heads.layers.weight.clone()
    assert heads.half().bfloat16().float().layers.weight.equal(weight)
    assert heads.double().layers.weight.dtype == torch.float64


@kinds
def test_autocast_does_not_reach_the_heads(kind: Any) -> None:
    heads, states = Heads(8, 2, kind), torch.randn(5, 8)
    with torch.autocast("cpu", torch.bfloat16):
        columns = heads(states)
    assert columns.dtype == torch.float32
    assert columns.equal(heads(states))


def test_a_half_precision_backbone_gives_float32_columns() -> None:
    columns = columns_packed(tiny_model().to(torch.bfloat16), CHAINS)
    assert all(part.dtype == torch.float32 for part in columns)


def test_close_rewards_do_not_tie() -> None:
    heads = Heads(4, 1)
    states = torch.eye(4)[:1] + torch.tensor([[0.0], [1e-3]])
    with torch.no_grad():
        heads.layers.weight.fill_(1.0)
        heads.layers.bias.fill_(8.0)
    first, second = heads(states).flatten().tolist()
    assert second > first


@kinds
def test_shapes_and_start(kind: Any) -> None:
    heads = Heads(64, 3, kind)
    assert heads(torch.randn(7, 64)).shape == (7, 3)
    assert heads(torch.zeros(0, 64)).shape == (0, 3)
    assert heads(torch.randn(100, 64)).abs().max() < 1
