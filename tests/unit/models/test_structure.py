"""Decoder layers are found in any family, and compiled ones compute what they did."""

from __future__ import annotations

import shutil

import pytest
import torch
from tiny_models import CHAINS, TREE_FAMILIES, tiny_backbone, tiny_model

from prm.models.structure import compile_layers, decoder_layers
from prm.trees.packing import pack


@pytest.mark.parametrize("family", [*TREE_FAMILIES, "gpt2"])
def test_the_layers_of_any_family_are_found(family: str) -> None:
    assert len(decoder_layers(tiny_backbone(family))) == 2


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("default")  # torch's own, while it compiles
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for a CPU needs g++")
def test_compiled_layers_compute_the_same_and_compile_once() -> None:
    model, expected = tiny_model(), tiny_model()
    trees = [model.builder.build(chain).tree for chain in CHAINS]
    compile_layers(model.backbone.model)
    for count in (len(trees), 1, 2, 3):
        packed = pack(trees[:count])
        torch.testing.assert_close(
            model(packed).columns, expected(packed).columns, atol=1e-5, rtol=1e-5
        )
        if count == len(trees):
            compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled
    for one in (model, expected):
        one(pack(trees)).columns.sum().backward()
    for name, parameter in expected.named_parameters():
        torch.testing.assert_close(model.get_parameter(name).grad, parameter.grad, msg=name)
