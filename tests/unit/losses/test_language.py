"""The next-token loss equals plain cross-entropy, whatever the chunk size."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from prm.errors import ConfigError
from prm.losses.language import LanguageModelLoss, NextTokenLogits, next_token_loss

HIDDEN, VOCABULARY, TOKENS = 8, 13, 11


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor, Tensor]:
    states = torch.randn(TOKENS, HIDDEN, requires_grad=True)
    embeddings = torch.randn(VOCABULARY, HIDDEN, requires_grad=True)
    return states, embeddings, torch.randint(VOCABULARY, (TOKENS,))


def by(embeddings: Tensor) -> NextTokenLogits:
    return lambda states: states @ embeddings.T


def test_it_equals_cross_entropy_over_a_full_forward(
    inputs: tuple[Tensor, Tensor, Tensor],
) -> None:
    states, embeddings, ids = inputs
    sources = torch.arange(TOKENS - 1)
    loss = next_token_loss(states, by(embeddings), ids[1:], sources)
    logits = states @ embeddings.T
    expected = functional.cross_entropy(logits[:-1], ids[1:], reduction="sum")
    torch.testing.assert_close(loss, expected)
    for actual, wanted in zip(
        torch.autograd.grad(loss, [states, embeddings]),
        torch.autograd.grad(expected, [states, embeddings]),
        strict=True,
    ):
        torch.testing.assert_close(actual, wanted)


def test_a_token_is_predicted_from_its_own_source(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    states, embeddings, _ = inputs
    loss = next_token_loss(states, by(embeddings), torch.tensor([5, 5]), torch.tensor([3, 0]))
    by_hand = -torch.log_softmax(states @ embeddings.T, -1)[[3, 0], 5].sum()
    torch.testing.assert_close(loss, by_hand)


@pytest.mark.parametrize("chunk", [1, 3, 10, 100])
def test_the_chunk_size_does_not_matter(inputs: tuple[Tensor, Tensor, Tensor], chunk: int) -> None:
    states, embeddings, ids = inputs
    sources = torch.arange(TOKENS - 1)
    whole = next_token_loss(states, by(embeddings), ids[1:], sources)
    chunked = next_token_loss(states, by(embeddings), ids[1:], sources, chunk)
    torch.testing.assert_close(chunked, whole)
    torch.testing.assert_close(
        torch.autograd.grad(chunked, states), torch.autograd.grad(whole, states)
    )


def test_no_target_is_zero_and_still_connected(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    states, embeddings, _ = inputs
    none = torch.zeros(0, dtype=torch.int64)
    loss = next_token_loss(states, by(embeddings), none, none)
    loss.backward()
    assert loss.item() == 0.0
    assert states.grad is not None
    assert embeddings.grad is not None
    assert not states.grad.any()
    assert not embeddings.grad.any()


def test_half_precision_is_summed_in_float32(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    states, embeddings, ids = inputs
    args = ids[1:], torch.arange(TOKENS - 1)
    loss = next_token_loss(states.bfloat16(), by(embeddings.bfloat16()), *args)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(
        loss, next_token_loss(states, by(embeddings), *args), rtol=0.05, atol=0.05
    )


def test_which_tokens_count() -> None:
    labels = torch.tensor([1.0, 0.0, 0.5, 0.49, math.nan])
    correct = LanguageModelLoss(tokens="good").selected_steps(labels)
    assert correct.tolist() == [True, False, True, False, False]
    assert LanguageModelLoss(tokens="all").selected_steps(labels).all()


@pytest.mark.parametrize(
    "options",
    [{"loss_weight": 0.0}, {"loss_weight": -1.0}, {"loss_weight": math.nan}, {"tokens": "prompt"}],
)
def test_wrong_options_are_errors(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        LanguageModelLoss(**options)
