"""The sign-aware cost loss by hand: what it orders, and which side of zero it wants."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from comparisons import targets_of
from scipy.special import log_expit

from prm.errors import ConfigError, DataError
from prm.losses.cost import SignAwareCost, sign_loss
from prm.losses.preference import BradleyTerry

NAN = math.nan
COSTS = torch.tensor([[-1.0], [2.0]])
"""The safer response costs -1, the harmful one 2: both on their right side of zero."""


def test_costs_by_hand() -> None:
    """Equation of Safe RLHF, in costs: the more harmful response w has C = 2, the other l C = -1.

    `-log sigmoid(C_w - C_l) - log sigmoid(+1 * C_w) - log sigmoid(-1 * C_l)`
    """
    targets = targets_of([0, 1], label=[1.0, 0.0])
    expected = -log_expit(2.0 - -1.0) - log_expit(1 * 2.0) - log_expit(-1 * -1.0)
    actual = SignAwareCost().per_comparison(COSTS, "value", -1, targets)
    assert actual.tolist() == pytest.approx([expected])


def test_maximize_reads_the_same_scores_as_safety() -> None:
    targets = targets_of([0, 1], label=[1.0, 0.0])
    torch.testing.assert_close(
        SignAwareCost().per_comparison(-COSTS, "value", 1, targets),
        SignAwareCost().per_comparison(COSTS, "value", -1, targets),
    )


def test_two_unsafe_responses_both_get_a_positive_cost() -> None:
    targets = targets_of([0, 1], label=[0.0, 0.0])
    costs = torch.tensor([[0.0], [0.0]], requires_grad=True)
    SignAwareCost().sum(costs, "value", -1, targets).backward()
    assert costs.grad is not None
    assert costs.grad[1] < costs.grad[0] <= 0  # descent raises both, the worse one more


def test_the_size_of_a_label_is_no_factor() -> None:
    with pytest.raises(DataError, match=r"rating is out of range: expected 0 or 1, got 3.5"):
        SignAwareCost().check_ratings(torch.tensor([1.0, 3.5]))
    SignAwareCost().check_ratings(torch.tensor([1.0, NAN]))
    assert sign_loss(torch.tensor(1.5), torch.tensor(0.0)).item() == pytest.approx(-log_expit(-1.5))


def test_without_labels_it_is_bradley_terry() -> None:
    for targets in (targets_of([0, 1]), targets_of([0, 1], label=[NAN, NAN])):
        torch.testing.assert_close(
            SignAwareCost().per_comparison(COSTS, "value", -1, targets),
            BradleyTerry().per_comparison(COSTS, "value", -1, targets),
        )


def test_a_dropped_tie_still_teaches_its_labels() -> None:
    targets = targets_of([0, 0], [0, 0], label=[1.0, NAN, NAN, NAN])
    columns = torch.tensor([[-1.0], [NAN], [NAN], [math.inf]], requires_grad=True)
    assert SignAwareCost().weights(targets).tolist() == [1.0, 0.0]
    total = SignAwareCost().sum(columns, "value", -1, targets)
    assert total.item() == pytest.approx(-log_expit(1.0))
    total.backward()
    assert columns.grad is not None
    assert (columns.grad[1:] == 0).all()


def test_every_option_changes_the_result() -> None:
    targets = targets_of([0, 1], label=[1.0, 0.0])
    plain = SignAwareCost().sum(COSTS, "value", -1, targets)
    for options in ({"sign_weight": 0.5}, {"label_smoothing": 0.2}):
        assert not torch.isclose(plain, SignAwareCost(**options).sum(COSTS, "value", -1, targets))
    tie = targets_of([0, 0])
    assert SignAwareCost().weights(tie).item() == 0.0
    assert SignAwareCost(ties="half").weights(tie).item() == 1.0


def test_sign_weight_scales_the_second_term() -> None:
    targets = targets_of([0, 1], label=[1.0, 0.0])
    expected = -log_expit(3.0) + 0.5 * (-log_expit(2.0) - log_expit(1.0))
    actual = SignAwareCost(sign_weight=0.5).sum(COSTS, "value", -1, targets).item()
    assert actual == pytest.approx(expected)


def test_gradients_are_right() -> None:
    utilities = torch.tensor([-3.0, 0.0, 0.4], dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda u: sign_loss(u, labels), [utilities])


@pytest.mark.parametrize(
    "options",
    [{"sign_weight": 0.0}, {"sign_weight": NAN}, {"ties": "keep"}, {"label_smoothing": 1.0}],
)
def test_wrong_options_are_errors(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        SignAwareCost(**options)


def test_it_uses_ratings_that_are_0_or_1() -> None:
    assert SignAwareCost.uses_ratings
    assert not BradleyTerry.uses_ratings
    SignAwareCost().check_ratings(torch.tensor([0.0, 1.0]))
    BradleyTerry().check_ratings(torch.tensor([0.5]))
    with pytest.raises(DataError, match=r"a rating is out of range: expected 0 or 1, got 0.5"):
        SignAwareCost().check_ratings(torch.tensor([0.0, 0.5]))
