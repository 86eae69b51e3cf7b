"""Gradients over shared prompts are those of the dense float64 reference, and of paths alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from tiny_models import CHAINS, TREE_FAMILIES, UNROLLED_FAMILIES, tiny_model
from torch import Tensor

from prm.models.reward_model import RewardModel
from prm.training.build import checkpoint_activations
from prm.trees.packing import PackedTrees, pack
from prm.trees.tree import TokenTree

READS = sum(len(chain.completions) for chain in CHAINS)


def gradients(model: RewardModel, batches: list[PackedTrees]) -> dict[str, Tensor]:
    """Return the gradients of a weighted sum of all scores."""
    weights = torch.linspace(-1, 1, READS).split([len(batch.reads) for batch in batches])
    for batch, weight in zip(batches, weights, strict=True):
        (model(batch).columns.sigmoid() * weight[:, None]).sum().backward()
    return {
        name: value.grad.double()
        for name, value in model.named_parameters()
        if value.grad is not None
    }


def error(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the largest difference of any gradient, relative to the largest gradient."""
    assert actual.keys() == expected.keys()
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    return max(float((actual[name] - expected[name]).abs().max()) for name in expected) / scale


def reference(family: str, trees: Sequence[TokenTree]) -> dict[str, Tensor]:
    model = tiny_model(family, kernel="dense")
    model.backbone.double()
    return gradients(model, [pack(trees)])


@pytest.mark.parametrize("family", TREE_FAMILIES)
def test_packed_gradients_equal_the_dense_reference(family: str) -> None:
    model = tiny_model(family)
    trees = [model.builder.build(chain).tree for chain in CHAINS]
    assert error(gradients(model, [pack(trees)]), reference(family, trees)) < 1e-5


@pytest.mark.parametrize("family", TREE_FAMILIES)
def test_bfloat16_gradients_are_as_close_as_under_a_dense_mask(family: str) -> None:
    segments, dense = tiny_model(family), tiny_model(family, kernel="dense")
    trees = [segments.builder.build(chain).tree for chain in CHAINS]
    errors = []
    for model in (segments, dense):
        model.backbone.bfloat16()
        errors.append(error(gradients(model, [pack(trees)]), reference(family, trees)))
    assert errors[0] <= 3 * errors[1] < 0.3


@pytest.mark.parametrize("family", TREE_FAMILIES)
def test_recomputed_activations_give_the_same_gradients(family: str) -> None:
    kept, recomputed = tiny_model(family).train(), tiny_model(family).train()
    checkpoint_activations(recomputed.backbone.model)
    trees = [kept.builder.build(chain).tree for chain in CHAINS]
    assert error(gradients(recomputed, [pack(trees)]), gradients(kept, [pack(trees)])) < 1e-6


@pytest.mark.parametrize("family", [*TREE_FAMILIES, *UNROLLED_FAMILIES])
def test_packed_gradients_are_the_sum_of_those_alone(family: str) -> None:
    fields = {"sliding_window": None} if family == "mistral" else UNROLLED_FAMILIES.get(family, {})
    packed, alone = tiny_model(family, **fields), tiny_model(family, **fields)
    trees = [packed.builder.build(chain).tree for chain in CHAINS]
    actual = gradients(packed, [pack(trees)])
    expected = gradients(alone, [pack([tree]) for tree in trees])
    assert error(actual, expected) < 1e-5
