"""The learning-rate schedule and the parameter groups."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from prm.errors import ConfigError
from prm.training.optim import Schedule, parameter_groups


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule("constant", 0, 0.0), [1, 1, 1, 1, 1]),
        (Schedule("linear", 0, 0.0), [1, 0.75, 0.5, 0.25, 0]),
        (Schedule("linear", 2, 0.5), [0.5, 1, 1, 0.75, 0.5]),
        (Schedule("cosine", 0, 0.0), [1, 0.853553, 0.5, 0.146447, 0]),
        (Schedule("cosine", 0, 0.2), [1, 0.882843, 0.6, 0.317157, 0.2]),
        (Schedule("constant", 0.5, 0.0), [0.5, 1, 1, 1, 1]),
    ],
)
def test_factors_by_hand(schedule: Schedule, expected: list[float]) -> None:
    assert [schedule.factor(step, 4) for step in range(5)] == pytest.approx(expected, abs=1e-6)


schedules = st.builds(
    Schedule,
    decay=st.sampled_from(["constant", "linear", "cosine"]),
    warmup=st.floats(0, 1) | st.integers(0, 20).map(float),
    final=st.floats(0, 1),
)


@given(schedules, st.integers(1, 60))
def test_factors_rise_to_the_peak_and_never_pass_it(schedule: Schedule, num_steps: int) -> None:
    factors = [schedule.factor(step, num_steps) for step in range(num_steps + 3)]
    assert all(0 <= factor <= 1 + 1e-12 for factor in factors)
    assert factors[0] > 0 or schedule.warmup == 0
    peak = factors.index(max(factors))
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)


@given(st.integers(2, 200))
def test_the_decay_ends_with_the_run(num_steps: int) -> None:
    schedule = Schedule("linear", warmup=0.1, final=0.1)
    assert schedule.factor(num_steps, num_steps) == pytest.approx(0.1)
    assert schedule.factor(10 * num_steps, num_steps) == pytest.approx(0.1)
    assert schedule.factor(num_steps - 1, num_steps) > 0.1


def test_the_scheduler_sets_the_rate_of_every_group() -> None:
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": [parameters[0]], "lr": 1.0}, {"params": [parameters[1]], "lr": 10.0}]
    optimizer = torch.optim.SGD(groups)
    scheduler = Schedule("linear", 0, 0.0).scheduler(optimizer, 4)
    rates = []
    for _ in range(3):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    assert rates == [[1.0, 10.0], [0.75, 7.5], [0.5, 5.0]]


@pytest.mark.parametrize(
    "options",
    [
        {"warmup": -1},
        {"warmup": math.nan},
        {"final": 1.1},
        {"final": -0.1},
        {"final": math.nan},
        {"decay": "exponential"},
    ],
)
def test_wrong_schedules_are_errors(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="schedule"):
        Schedule(**options)


def modules() -> tuple[nn.Module, nn.Module]:
    backbone = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.LayerNorm(4))
    return backbone, nn.Linear(4, 1)


def test_every_trainable_parameter_is_in_one_group() -> None:
    backbone, heads = modules()
    groups = parameter_groups(backbone, [heads], 0.1, 5.0, 0.01)
    members = [id(p) for group in groups for p in group["params"]]
    assert sorted(members) == sorted(id(p) for m in (backbone, heads) for p in m.parameters())
    assert [(g["lr"], g["weight_decay"], len(g["params"])) for g in groups] == [
        (0.1, 0.01, 2),
        (0.1, 0.0, 3),
        (0.5, 0.01, 1),
        (0.5, 0.0, 1),
    ]


def test_frozen_parameters_are_left_out() -> None:
    backbone, heads = modules()
    backbone.requires_grad_(False)
    groups = parameter_groups(backbone, [heads], 0.1, 1.0, 0.01)
    assert sum(len(group["params"]) for group in groups) == 2
    heads.requires_grad_(False)
    with pytest.raises(ConfigError, match="nothing is trainable"):
        parameter_groups(backbone, [heads], 0.1, 1.0, 0.01)
