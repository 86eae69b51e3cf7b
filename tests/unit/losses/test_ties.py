"""Models with a tie as a third outcome, against their ratios written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from comparisons import targets_of
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from prm.losses.preference import BradleyTerry, PreferenceLoss
from prm.losses.ties import (
    Davidson,
    RaoKupper,
    davidson_log_probabilities,
    rao_kupper_log_probabilities,
)

both = pytest.mark.parametrize("cls", [Davidson, RaoKupper])
differences = st.lists(st.floats(-30, 30), min_size=1, max_size=6)


@given(differences, st.floats(-5, 5))
def test_davidson_equals_its_ratios(values: list[float], log_tie: float) -> None:
    d = torch.tensor(values, dtype=torch.float64)
    actual = davidson_log_probabilities(d, torch.tensor(log_tie, dtype=torch.float64)).exp()
    p, q = np.exp(values), np.ones(len(values))
    tie = math.exp(log_tie) * np.sqrt(p * q)
    expected = np.stack([p, tie, q], axis=-1) / (p + q + tie)[:, None]
    np.testing.assert_allclose(actual, expected, rtol=1e-9)
    np.testing.assert_allclose(actual.sum(-1), 1.0, rtol=1e-12)


@given(differences, st.floats(1e-3, 5))
def test_rao_kupper_equals_its_ratios(values: list[float], threshold: float) -> None:
    d = torch.tensor(values, dtype=torch.float64)
    actual = rao_kupper_log_probabilities(d, torch.tensor(threshold, dtype=torch.float64)).exp()
    p, q, theta = np.exp(values), 1.0, math.exp(threshold)
    tie = (theta**2 - 1) * p * q / ((p + theta * q) * (q + theta * p))
    expected = np.stack([p / (p + theta * q), tie, q / (q + theta * p)], axis=-1)
    np.testing.assert_allclose(actual, expected, rtol=1e-9)
    np.testing.assert_allclose(actual.sum(-1), 1.0, rtol=1e-9)


@both
def test_equal_responses_start_with_three_equal_outcomes(cls: type[PreferenceLoss]) -> None:
    values = cls().per_comparison(torch.zeros(4, 1), "value", 1, targets_of([0, 1], [0, 0]))
    assert values.tolist() == pytest.approx([math.log(3)] * 2, abs=2e-3)


@both
def test_a_tie_counts_and_pulls_together(cls: type[PreferenceLoss]) -> None:
    loss, tie = cls(), targets_of([0, 0])
    assert loss.weights(tie).tolist() == [1.0]
    columns = torch.tensor([[2.0], [0.0]], requires_grad=True)
    loss.sum(columns, "value", 1, tie).backward()
    assert columns.grad is not None
    assert columns.grad[0] > 0 > columns.grad[1]


@both
def test_minimize_turns_the_scores_around(cls: type[PreferenceLoss]) -> None:
    columns, pair = torch.tensor([[2.0], [0.5]]), targets_of([0, 1])
    maximize = cls().per_comparison(columns, "value", 1, pair)
    assert maximize < cls().per_comparison(columns, "value", -1, pair)
    torch.testing.assert_close(maximize, cls().per_comparison(-columns, "value", -1, pair))


@both
def test_frequent_ties_are_learned(cls: type[PreferenceLoss]) -> None:
    """Between equal responses the model converges to the observed share of ties, 2 of 3."""
    loss = cls()
    targets = targets_of([0, 1], [0, 0], [0, 0])
    optimizer = torch.optim.LBFGS(loss.parameters(), lr=0.5, max_iter=100)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        total = loss.sum(torch.zeros(6, 1), "value", 1, targets)
        total.backward()
        return total

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    tie = loss.per_comparison(torch.zeros(6, 1), "value", 1, targets)[1]
    assert math.exp(-tie.item()) == pytest.approx(2 / 3, abs=2e-2)


def test_without_ties_both_are_bradley_terry() -> None:
    columns, pair = torch.tensor([[2.0], [0.5]]), targets_of([0, 1])
    expected = BradleyTerry().per_comparison(columns, "value", 1, pair)
    davidson, rao_kupper = Davidson(), RaoKupper()
    with torch.no_grad():
        davidson.log_tie.fill_(-30.0)
        rao_kupper.raw_threshold.fill_(-30.0)
    torch.testing.assert_close(davidson.per_comparison(columns, "value", 1, pair), expected)
    torch.testing.assert_close(
        rao_kupper.per_comparison(columns, "value", 1, pair), expected, rtol=1e-2, atol=1e-3
    )
    assert rao_kupper.threshold > 0


def test_gradients_are_right() -> None:
    d = torch.tensor([-5.0, 0.0, 0.7, 5.0], dtype=torch.float64, requires_grad=True)
    scalar = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(davidson_log_probabilities, [d, scalar])
    assert torch.autograd.gradcheck(rao_kupper_log_probabilities, [d, scalar])


def test_threshold_is_the_softplus_of_its_parameter() -> None:
    loss = RaoKupper()
    expected = functional.softplus(torch.zeros(())).item() + 1e-3
    assert loss.threshold.item() == pytest.approx(expected)
