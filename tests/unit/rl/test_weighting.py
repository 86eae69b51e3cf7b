"""Weightings: which aggregation a training step has, and what a resumed run needs."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from prm.aggregation.lagrange import LagrangeMultiplier, Lagrangian
from prm.aggregation.objectives import (
    Gated,
    ObjectiveAggregation,
    SafetyGate,
    Thresholded,
    WeightedSum,
)
from prm.errors import ConfigError
from prm.rl.weighting import ByHand, Constraint, Weighting, WeightSchedule, numbers

NAMES = ("helpfulness", "safety")
EQUAL = {"helpfulness": 1.0, "safety": 1.0}
POINTS = {100: {"weights.safety": 3.0}, 0: {"weights.safety": 1.0}, 200: {"weights.safety": 2.0}}


def constraint(**options: Any) -> Constraint:
    options = {"limit": 0.0, "learning_rate": 0.5} | options
    return Constraint(LagrangeMultiplier(Lagrangian(multiplier=1.0), **options), NAMES)


@pytest.mark.parametrize(
    ("interpolation", "expected"),
    [("linear", [1.0, 2.0, 3.0, 2.5, 2.0, 2.0]), ("constant", [1.0, 1.0, 3.0, 3.0, 2.0, 2.0])],
)
def test_a_schedule_goes_through_its_points(interpolation: Any, expected: list[float]) -> None:
    schedule = WeightSchedule(WeightedSum(EQUAL), NAMES, POINTS, interpolation)
    steps = [0, 50, 100, 150, 200, 10_000]
    assert [schedule.values(step)["weights.safety"] for step in steps] == expected
    assert schedule.aggregation(50) == WeightedSum({"helpfulness": 1.0, "safety": expected[1]})


@pytest.mark.parametrize("interpolation", ["linear", "constant"])
def test_a_schedule_holds_its_first_value_before_its_first_point(interpolation: Any) -> None:
    points = {10: {"weights.safety": 5.0}, 20: {"weights.safety": 1.0}}
    schedule = WeightSchedule(WeightedSum(EQUAL), NAMES, points, interpolation)
    assert schedule.values(3)["weights.safety"] == 5.0


def test_weights_that_were_left_out_can_be_scheduled() -> None:
    schedule = WeightSchedule(WeightedSum(), NAMES, {0: {"weights.safety": 2.0}})
    assert schedule.values(0) == {"weights.helpfulness": 0.5, "weights.safety": 2.0}


@pytest.mark.parametrize(
    ("aggregation", "name", "values"),
    [
        (SafetyGate(), "threshold", (0.15, 0.45)),
        (Thresholded({"safety": 0.0}), "thresholds.safety", (0.0, 1.0)),
        (Thresholded({"safety": 0.0}), "floor", (-10.0, -20.0)),
        (Lagrangian(multiplier=0.0), "multiplier", (0.0, 2.0)),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_gates_are_scheduled_as_weights_are(
    aggregation: ObjectiveAggregation, name: str, values: tuple[float, float]
) -> None:
    schedule = WeightSchedule(aggregation, NAMES, {0: {name: values[0]}, 10: {name: values[1]}})
    assert schedule.values(5)[name] == pytest.approx(sum(values) / 2)
    assert schedule.aggregation(0) == aggregation.with_overrides({name: values[0]}, NAMES)


@pytest.mark.parametrize(
    ("points", "problem"),
    [
        ({}, "points of a schedule"),
        ({-1: {"weights.safety": 1.0}}, "points of a schedule"),
        ({0: {}}, "at least one parameter"),
        ({0: {"weights.safety": 1.0}, 5: {"weights.helpfulness": 1.0}}, "point 5 of a schedule"),
        ({0: {"weights.humor": 1.0}}, "do not fit the objectives"),
        ({0: {"threshold": 1.0}}, "no parameter 'threshold'"),
        ({0: {"weights.safety": 1.0}, 5: {"weights.safety": math.inf}}, "a finite number"),
        ({0: {"weights.safety": "2"}}, "a finite number"),
        ({0: {"missing": "error"}}, "a finite number"),
    ],
)
def test_a_schedule_that_cannot_be_followed_is_refused(points: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        WeightSchedule(WeightedSum(EQUAL), NAMES, points)


def test_an_unknown_interpolation_is_refused() -> None:
    interpolation: Any = "cubic"
    with pytest.raises(ConfigError, match="linear or constant"):
        WeightSchedule(WeightedSum(EQUAL), NAMES, POINTS, interpolation)


def test_the_multiplier_follows_the_sign_of_the_violation() -> None:
    weighting = constraint()
    weighting.observe({"helpfulness": 5.0, "safety": -1.0})
    assert weighting.values(1)["multiplier"] == pytest.approx(1.5)
    weighting.observe({"helpfulness": 5.0, "safety": 2.0})
    assert weighting.values(2)["multiplier"] == pytest.approx(0.5)
    weighting.observe({"helpfulness": 5.0, "safety": 9.0})
    assert weighting.values(3)["multiplier"] == 0.0


def test_the_multiplier_waits_for_its_delay_and_stops_at_its_maximum() -> None:
    weighting = constraint(delay=2, maximum=2.0)
    found = []
    for _ in range(5):
        weighting.observe({"safety": -1.0})
        found.append(weighting.values(0)["multiplier"])
    assert found == [1.0, 1.0, 1.5, 2.0, 2.0]


def test_a_step_without_known_costs_changes_nothing() -> None:
    weighting = constraint()
    before = weighting.state_dict()
    weighting.observe({"helpfulness": 1.0})
    weighting.observe({})
    assert weighting.state_dict() == before


def test_a_constraint_gives_the_reward_of_its_multiplier() -> None:
    weighting = constraint()
    weighting.observe({"safety": -1.0})
    assert weighting.aggregation(1) == Lagrangian(multiplier=1.5)


def test_by_hand_everything_can_be_changed() -> None:
    weighting = ByHand(WeightedSum(), NAMES)
    weighting.override({"weights.safety": 4})
    assert weighting.values(7) == {"weights.helpfulness": 0.5, "weights.safety": 4.0}
    weighting.set(SafetyGate(threshold=0.3))
    assert weighting.aggregation(8) == SafetyGate(threshold=0.3)
    with pytest.raises(ConfigError):
        weighting.set(WeightedSum({"humor": 1.0}))
    assert weighting.values(9) == {"threshold": 0.3}


@pytest.mark.parametrize("kind", ["schedule", "constraint", "by hand"])
def test_a_resumed_weighting_goes_on_where_it_was(kind: str) -> None:
    def made() -> Weighting:
        if kind == "schedule":
            return WeightSchedule(WeightedSum(EQUAL), NAMES, POINTS)
        return constraint(delay=1) if kind == "constraint" else ByHand(WeightedSum(), NAMES)

    whole, first, second = made(), made(), made()
    costs = [-1.0, -0.5, 0.25, -2.0, 1.0]
    for weighting in (whole, first):
        if isinstance(weighting, ByHand):
            weighting.override({"weights.safety": 4})
    for cost in costs:
        whole.observe({"safety": cost})
    for cost in costs[:2]:
        first.observe({"safety": cost})
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for cost in costs[2:]:
        second.observe({"safety": cost})
    assert second.aggregation(5) == whole.aggregation(5)


def test_numbers_are_those_that_a_reader_of_logs_needs() -> None:
    assert numbers(Lagrangian(multiplier=2.0), ("a", "safety", "b")) == {
        "weights.a": 0.5,
        "weights.b": 0.5,
        "multiplier": 2.0,
    }
    assert numbers(Gated(), NAMES) == {}
