"""Gated rewards: which objective counts, and when."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from prm.aggregation.gates import Gated, SafetyGate, Thresholded
from prm.errors import ConfigError, DataError

NAMES = ("helpfulness", "safety", "factuality")
NAN = math.nan


def rows(*values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_missing_a_threshold_is_below_everything_that_meets_all() -> None:
    gate = Thresholded({"safety": 1.0, "factuality": 0.0}, floor=-10.0)
    nearly = math.nextafter(1.0, 0.0)
    met = gate(rows([-500.0, 1.0, 0.0], [0.3, 1.0, 0.0]), NAMES)
    missed = gate(rows([500.0, nearly, 0.0], [500.0, 0.5, -0.5]), NAMES)
    assert met.tolist() == pytest.approx([-10.0, 1.3 / 3])
    assert missed.max() < met.min()
    assert missed[1].item() == -11.0


def test_the_safety_gate_takes_safety_below_the_threshold() -> None:
    safety = torch.tensor([0.10, 0.14999, 0.15001, 0.9]).logit()
    utilities = torch.stack([torch.full((4,), 5.0), safety, torch.zeros(4)], dim=-1)
    expected = torch.where(torch.tensor([1, 1, 0, 0]).bool(), safety, 5.0)
    assert torch.equal(SafetyGate()(utilities, NAMES), expected)
    assert not SafetyGate().monotone


def test_the_safety_gate_needs_only_what_it_takes() -> None:
    gate = SafetyGate(missing="renormalize")
    results = gate(rows([NAN, -5.0, NAN], [NAN, 5.0, 0.0], [1.0, NAN, 0.0]), NAMES)
    assert results[0] == -5.0
    assert results[1:].isnan().all()


def test_gates_weight_each_row() -> None:
    gates = rows([1.0, 0.0, 0.0], [0.25, 0.25, 0.5])
    utilities = rows([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert Gated()(utilities, NAMES, gates).tolist() == [1.0, 2.25]
    assert Gated.needs_gates


def test_gates_of_present_objectives_are_renormalized() -> None:
    gates = rows([0.5, 0.2, 0.3], [1.0, 0.0, 0.0])
    gated = Gated(missing="renormalize")
    result = gated(rows([NAN, 1.0, 2.0], [NAN, 1.0, 2.0]), NAMES, gates)
    assert result[0].item() == pytest.approx(1.6)
    assert result[1].isnan()


def test_gates_must_sum_to_one_over_the_objectives() -> None:
    logits = torch.arange(12.0).reshape(2, 2, 3)
    utilities = torch.zeros(2, 2, 3)
    Gated()(utilities, NAMES, logits.softmax(dim=-1))
    with pytest.raises(DataError, match="summing to 1 over the objectives of each row"):
        Gated()(utilities, NAMES, logits.softmax(dim=1))
    with pytest.raises(DataError, match="gates are no probabilities"):
        Gated()(torch.zeros(1, 2), "ab", torch.tensor([[2.0, -1.0]]))
    with pytest.raises(DataError, match="differ in shape"):
        Gated()(utilities, NAMES, torch.full((2, 3), 1 / 3))
    with pytest.raises(ConfigError, match="needs the gates"):
        Gated()(utilities, NAMES)


def test_penalties_are_subtracted() -> None:
    gated = Gated({"helpfulness": 0.5, "safety": 0.0}, against="factuality")
    gates = rows([0.5, 0.25, 0.25])
    result = gated(rows([1.0, 2.0, 4.0]), NAMES, gates)
    assert result.item() == 0.5 * (1.0 - 0.5 * 4.0) + 0.25 * 2.0 + 0.25 * 4.0
    assert not gated.monotone
    assert Gated().monotone
