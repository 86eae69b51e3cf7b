"""Attention over trees: every kernel equals the dense mask, forward and backward."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from prm.errors import ModelError
from prm.models import tree_attention as kernels
from prm.models.tree_attention import (
    Kernel,
    TreeLayout,
    _block_bounds,
    choose_kernel,
    dense_attention,
    dense_mask,
    flex_attention,
    segment_attention,
    tree_attention,
)
from prm.trees.packing import pack
from prm.trees.tree import Segment, TokenTree

DIM = 16


@st.composite
def layouts(draw: st.DrawFn) -> TreeLayout:
    """Layouts of one to three random trees, up to four segments deep."""
    trees = []
    for _ in range(draw(st.integers(1, 3))):
        segments, depths = [Segment(tuple(range(draw(st.integers(1, 6)))))], [0]
        for _ in range(draw(st.integers(0, 6))):
            parents = [index for index, depth in enumerate(depths) if depth < 4]
            parent = draw(st.sampled_from(parents))
            segments.append(Segment(tuple(range(draw(st.integers(1, 5)))), parent))
            depths.append(depths[parent] + 1)
        trees.append(TokenTree(tuple(segments)))
    packed = pack(trees)
    return TreeLayout(packed.starts, packed.stops, packed.subtree_ends, packed.longest_path)


FORKED = TreeLayout([0, 3, 5, 6, 8, 12], [3, 5, 6, 8, 12, 13], [12, 8, 6, 8, 12, 13], 6)
"""A prompt of 3 with branches of 2 (forked again) and 4, beside a tree of 1."""


def qkv(layout: TreeLayout, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(layout.num_tokens)
    shape = (1, 2, layout.num_tokens, DIM)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for _ in range(3)]


def test_the_dense_mask_by_hand() -> None:
    layout = TreeLayout([0, 2, 3], [2, 3, 5], [5, 3, 5], 4)
    assert dense_mask(layout, torch.device("cpu")).int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 0, 1, 0],
        [1, 1, 0, 1, 1],
    ]


@given(layouts(), st.sampled_from([torch.float64, torch.float32]))
@settings(max_examples=50)
def test_segments_equal_the_dense_mask(layout: TreeLayout, dtype: torch.dtype) -> None:
    inputs = qkv(layout, dtype)
    expected = dense_attention(*inputs, layout, 0.3)
    actual = segment_attention(*inputs, layout, 0.3)
    tolerance = {"rtol": 1e-5, "atol": 1e-5 if dtype == torch.float32 else 1e-12}
    torch.testing.assert_close(actual, expected, **tolerance)
    weight = torch.randn_like(expected)
    for one, other in zip(
        torch.autograd.grad(actual, inputs, weight),
        torch.autograd.grad(expected, inputs, weight),
        strict=True,
    ):
        torch.testing.assert_close(one, other, **tolerance)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@given(layouts())
@settings(max_examples=8)
def test_flex_equals_the_dense_mask(layout: TreeLayout) -> None:
    with torch.no_grad():
        inputs = [tensor.detach() for tensor in qkv(layout, torch.float32)]
        expected = dense_attention(*inputs, layout, 0.3)
        torch.testing.assert_close(
            flex_attention(*inputs, layout, 0.3), expected, rtol=1e-5, atol=1e-5
        )


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_skips_and_masks_the_right_blocks() -> None:
    """Segments longer than blocks, ending inside and at the edges of them, with shared keys."""
    prompt = Segment(tuple(range(200)))
    long = TokenTree((prompt, *(Segment(tuple(range(size)), 0) for size in (128, 300, 56))))
    packed = pack([long, TokenTree((Segment(tuple(range(140))),))])
    layout = TreeLayout(packed.starts, packed.stops, packed.subtree_ends, packed.longest_path)
    query, key, value = (tensor.detach() for tensor in qkv(layout, torch.float32))
    key, value = key[:, :1], value[:, :1]
    expected = dense_attention(query, key.expand_as(query), value.expand_as(query), layout, 0.3)
    actual = flex_attention(query, key, value, layout, 0.3)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@given(layouts())
@settings(max_examples=20)
def test_blocks_agree_with_the_dense_mask(layout: TreeLayout) -> None:
    with mock.patch.object(kernels, "BLOCK", 4):
        some, all_ = _block_bounds(layout.visible_until(torch.device("cpu")))
    padding = -layout.num_tokens % 4
    mask = functional.pad(dense_mask(layout, torch.device("cpu")), (0, padding, 0, padding))
    blocks = mask.unflatten(0, (-1, 4)).unflatten(2, (-1, 4))
    assert (some | ~blocks.any(dim=3).any(dim=1)).all()
    assert torch.equal(all_, blocks.all(dim=3).all(dim=1))


def test_bfloat16_is_as_close_as_its_precision() -> None:
    exact = qkv(FORKED, torch.float32)
    rounded = [tensor.detach().bfloat16().requires_grad_() for tensor in exact]
    expected = dense_attention(*exact, FORKED, 0.25)
    actual = segment_attention(*rounded, FORKED, 0.25)
    assert actual.dtype == torch.bfloat16
    torch.testing.assert_close(actual.float(), expected, rtol=0.03, atol=0.03)
    for one, other in zip(
        torch.autograd.grad(actual.float().sum(), rounded),
        torch.autograd.grad(expected.sum(), exact),
        strict=True,
    ):
        torch.testing.assert_close(one.float(), other, rtol=0.05, atol=0.06)


def test_large_scores_do_not_overflow() -> None:
    inputs = [tensor.detach() * 100 for tensor in qkv(FORKED, torch.float32)]
    actual = segment_attention(*inputs, FORKED, 1.0)
    assert actual.isfinite().all()
    torch.testing.assert_close(actual, dense_attention(*inputs, FORKED, 1.0), rtol=1e-3, atol=1e-2)


def call(layout: TreeLayout | None, inputs: list[Tensor], **options: Any) -> Tensor:
    arguments = {"scaling": 0.3, "tree_layout": layout, "attention_mask": None, **options}
    return tree_attention(nn.Module(), *inputs, **arguments)[0]


def test_grouped_queries_repeat_their_keys() -> None:
    query, key, value = qkv(FORKED)
    key, value = key[:, :1], value[:, :1]
    actual = call(FORKED, [query, key, value])
    expected = dense_attention(query, key.expand_as(query), value.expand_as(query), FORKED, 0.3)
    torch.testing.assert_close(actual, expected.transpose(1, 2))


def test_the_default_scale_is_that_of_the_head() -> None:
    inputs = qkv(FORKED)
    torch.testing.assert_close(
        call(FORKED, inputs, scaling=None), call(FORKED, inputs, scaling=DIM**-0.5)
    )


def test_mixed_precision_takes_the_type_of_the_values() -> None:
    """Under autocast, rotary embeddings leave queries and keys in float32."""
    query, key, value = qkv(FORKED, torch.float32)
    mixed = call(FORKED, [query, key, value.bfloat16()])
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(
        mixed, call(FORKED, [query.bfloat16(), key.bfloat16(), value.bfloat16()])
    )


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"softcap": 30.0}, "softcap"),
        ({"s_aux": torch.zeros(2)}, "s_aux"),
        ({"position_bias": torch.zeros(1)}, "position_bias"),
        ({"dropout": 0.1}, "dropout"),
        ({"is_causal": False}, "not causal"),
        ({"attention_mask": torch.zeros(1)}, "an attention mask"),
        ({"tree_layout": None}, "no tree layout"),
    ],
)
def test_what_a_tree_cannot_serve_is_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ModelError, match=problem):
        call(FORKED, qkv(FORKED), **options)


@pytest.mark.parametrize("kernel", ["segments", "dense"])
@pytest.mark.parametrize(("key_width", "value_width"), [(DIM, 8), (8, DIM)])
def test_values_may_have_another_width_than_keys(
    kernel: Kernel, key_width: int, value_width: int
) -> None:
    """As in multi-head latent attention."""
    query, key, value = qkv(FORKED)
    inputs = [query[..., :key_width], key[..., :key_width], value[..., :value_width]]
    layout = TreeLayout(FORKED.starts, FORKED.stops, FORKED.subtree_ends, 6, kernel)
    scores = inputs[0] @ inputs[1].mT * key_width**-0.5
    mask = dense_mask(FORKED, query.device)
    expected = scores.masked_fill(~mask, -torch.inf).softmax(dim=-1) @ inputs[2]
    actual = call(layout, inputs, scaling=None)
    assert actual.shape == (1, FORKED.num_tokens, 2, value_width)
    torch.testing.assert_close(actual, expected.transpose(1, 2))
    gradients = torch.autograd.grad(expected.square().sum(), (query, key, value))
    for one, other in zip(
        gradients, torch.autograd.grad(actual.square().sum(), (query, key, value)), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_a_sliding_window_is_noted() -> None:
    layout = TreeLayout(FORKED.starts, FORKED.stops, FORKED.subtree_ends, 6)
    call(layout, qkv(layout), sliding_window=4)
    assert layout.windows == {4}


@pytest.mark.parametrize(
    ("kernel", "device", "dtype", "dim", "chosen"),
    [
        ("auto", "cpu", torch.float32, 8, "segments"),
        ("auto", "cuda", torch.bfloat16, 64, "flex"),
        ("auto", "cuda", torch.bfloat16, 8, "dense"),
        ("auto", "cuda", torch.float64, 64, "dense"),
        ("auto", "mps", torch.float32, 64, "dense"),
        ("dense", "cpu", torch.float32, 64, "dense"),
    ],
)
def test_kernel_by_device(
    kernel: Kernel, device: str, dtype: torch.dtype, dim: int, chosen: str
) -> None:
    layout = TreeLayout([0], [1], [1], 1, kernel)
    query = mock.Mock(device=torch.device(device), dtype=dtype, shape=(1, 2, 1, dim))
    assert choose_kernel(layout, query) == chosen


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 3e-2)])
def test_flex_on_cuda_equals_the_dense_mask(dtype: torch.dtype, tolerance: float) -> None:
    dense_inputs = [item.detach().cuda().to(dtype).requires_grad_() for item in qkv(FORKED)]
    flex_inputs = [item.detach().clone().requires_grad_() for item in dense_inputs]
    expected = dense_attention(*dense_inputs, FORKED, 0.25)
    actual = flex_attention(*flex_inputs, FORKED, 0.25)
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)
    weights = torch.randn_like(expected)
    (expected * weights).sum().backward()
    (actual * weights).sum().backward()
    for one, other in zip(flex_inputs, dense_inputs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=tolerance, rtol=tolerance)
