"""Learned weights of objectives: the formula, its parts, its optimum."""

from __future__ import annotations

import math

import pytest
import torch

from prm.errors import ConfigError
from prm.losses.uncertainty import UncertaintyWeights


def weights_at(*log_variances: float) -> UncertaintyWeights:
    weights = UncertaintyWeights(["help.fulness", "safety"][: len(log_variances)])
    with torch.no_grad():
        weights.log_variances.copy_(torch.tensor(log_variances))
    return weights


def term(weights: UncertaintyWeights, name: str, loss: torch.Tensor) -> torch.Tensor:
    return weights.factor(name) * loss + weights.penalty([name])


def test_at_the_start_every_objective_counts_one() -> None:
    weights = UncertaintyWeights(["a", "b"])
    assert weights.factor("b").item() == 1.0
    assert weights.penalty(["a", "b"]).item() == 0.0


def test_the_term_by_hand_and_from_its_parts() -> None:
    weights = weights_at(0.5, -1.0)
    loss = torch.tensor(3.0)
    assert term(weights, "safety", loss).item() == pytest.approx(3 * math.e - 0.5)
    parts = weights.factor("safety") * (loss / 2) + weights.factor("safety") * (loss / 2)
    torch.testing.assert_close(parts + weights.penalty(["safety"]), term(weights, "safety", loss))
    assert weights.penalty(["help.fulness", "safety"]).item() == pytest.approx(-0.25)


def test_the_optimum_is_where_twice_the_loss_is_the_variance() -> None:
    weights = weights_at(math.log(2 * 0.7))
    term(weights, "help.fulness", torch.tensor(0.7)).backward()
    assert weights.log_variances.grad is not None
    assert weights.log_variances.grad.item() == pytest.approx(0.0, abs=1e-6)


def test_no_objective_is_zero_with_a_graph() -> None:
    weights = weights_at(0.5, -1.0)
    penalty = weights.penalty([])
    penalty.backward()
    assert penalty.item() == 0.0
    assert weights.log_variances.grad is not None
    assert not weights.log_variances.grad.any()


def test_names_are_checked() -> None:
    for names in ([], ["a", "a"]):
        with pytest.raises(ConfigError, match="each once"):
            UncertaintyWeights(names)
    with pytest.raises(ConfigError, match="expected one of a, b, got c"):
        UncertaintyWeights(["a", "b"]).factor("c")
