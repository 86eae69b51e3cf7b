"""Rankings against brute force over all orders, and ties against explicit loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from comparisons import targets_of
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp

from prm.losses.plackett_luce import PlackettLuce, plackett_luce
from prm.losses.preference import BradleyTerry

rankings = st.lists(st.integers(0, 1), min_size=1, max_size=5).map(
    lambda steps: [0, *itertools.accumulate(steps)]
)
"""Two to six ranks from 0, best first, with ties."""


def loss_by_loops(utilities: list[float], ranks: list[int]) -> float:
    total = 0.0
    for utility, rank in zip(utilities, ranks, strict=True):
        rivals = [u for u, other in zip(utilities, ranks, strict=True) if other >= rank]
        total += float(logsumexp(rivals)) - utility
    return total


@pytest.mark.parametrize("num_members", [2, 3, 4, 5])
def test_the_probabilities_of_all_orders_sum_to_one(num_members: int) -> None:
    utilities = torch.randn(num_members, dtype=torch.float64) * 3
    orders = torch.tensor(list(itertools.permutations(range(num_members))))
    table = utilities[orders]
    ranks = torch.arange(num_members).expand_as(table)
    losses = plackett_luce(table, ranks, torch.ones_like(ranks).bool())
    assert losses.neg().exp().sum().item() == pytest.approx(1.0, rel=1e-12)


@given(st.lists(rankings, min_size=1, max_size=4), st.floats(0.1, 20))
def test_it_equals_explicit_loops(ranks: list[list[int]], scale: float) -> None:
    targets = targets_of(*ranks)
    columns = torch.randn(targets.read.numel(), 1) * scale
    pieces = np.split(columns.double().numpy()[:, 0], np.cumsum([len(r) for r in ranks])[:-1])
    expected = [loss_by_loops(u.tolist(), r) for u, r in zip(pieces, ranks, strict=True)]
    actual = PlackettLuce().per_comparison(columns, "value", 1, targets)
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-5)


def test_a_pair_is_bradley_terry() -> None:
    targets = targets_of([0, 1], [0, 1])
    columns = torch.tensor([[2.0], [0.5], [-1.0], [3.0]])
    for sign in (1, -1):
        torch.testing.assert_close(
            PlackettLuce().per_comparison(columns, "value", sign, targets),
            BradleyTerry().per_comparison(columns, "value", sign, targets),
        )


def test_a_tie_pulls_together() -> None:
    columns = torch.tensor([[2.0], [1.0], [-1.0]], requires_grad=True)
    PlackettLuce().sum(columns, "value", 1, targets_of([0, 0, 0])).backward()
    assert columns.grad is not None
    assert columns.grad[0] > 0 > columns.grad[2]
    equal = torch.zeros(3, 1)
    loss = PlackettLuce().sum(equal, "value", 1, targets_of([0, 0, 0])).item()
    assert loss == pytest.approx(3 * math.log(3))


def test_permuting_the_losers_changes_the_loss() -> None:
    targets = targets_of([0, 1], [0, 1, 2])
    columns = torch.tensor([[2.0], [0.5], [-1.0], [3.0], [1.0]])
    losses = PlackettLuce().per_comparison(columns, "value", 1, targets)
    permuted = PlackettLuce().per_comparison(columns[[0, 3, 2, 1, 4]], "value", 1, targets)
    assert not torch.isclose(losses, permuted).any()


def test_gradients_are_right() -> None:
    utilities = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    ranks = torch.tensor([[0, 1, 1], [0, 1, 0]])
    present = torch.tensor([[True, True, True], [True, True, False]])
    assert torch.autograd.gradcheck(lambda u: plackett_luce(u, ranks, present), [utilities])
