"""Shaping: what it does to a score, what it refuses, and how a spec stores it."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prm.errors import SpecError
from prm.spec import RewardSpec, Shaping
from prm.spec.stored import RENAMED
from tests.outcome_models import outcome_spec

SCORES = [-3.0, -0.5, 0.0, 1.0, 4.0]


def shaped(shaping: Shaping, *scores: float) -> list[float]:
    return shaping(torch.tensor(scores, dtype=torch.float64)).tolist()


def test_by_default_nothing_happens() -> None:
    assert shaped(Shaping(), *SCORES) == SCORES
    assert Shaping().affine() == (1.0, 0.0)


@pytest.mark.parametrize(
    ("shaping", "expected"),
    [
        (Shaping(center=1.0), -1.0),
        (Shaping(scale=4.0), 0.0),
        (Shaping(center=1.0, scale=4.0), -0.25),
        (Shaping(center=1.0, squash="sigmoid"), 1 / (1 + math.e)),
        (Shaping(center=1.0, scale=4.0, squash="tanh"), math.tanh(-0.25)),
        (Shaping(center=1.0, clip=(-0.5, 2.0)), -0.5),
        (Shaping(center=-9.0, clip=(-0.5, 2.0)), 2.0),
        (Shaping(center=-9.0, squash="sigmoid", clip=(0.0, 0.75)), 0.75),
    ],
    ids=repr,
)
def test_the_reward_of_0_by_hand(shaping: Shaping, expected: float) -> None:
    assert shaped(shaping, 0.0) == pytest.approx([expected], abs=1e-12)


def test_a_missing_score_stays_missing() -> None:
    for shaping in (Shaping(), Shaping(squash="tanh", clip=(-0.5, 0.5)), Shaping(clip=(0, 1))):
        assert math.isnan(shaped(shaping, math.nan)[0])


@given(
    low=st.floats(-50, 50),
    rise=st.floats(0, 50),
    center=st.floats(-5, 5),
    scale=st.floats(0.01, 10),
    squash=st.sampled_from(["none", "sigmoid", "tanh"]),
    clip=st.none() | st.tuples(st.floats(-3, 0), st.floats(0.1, 3)),
)
def test_a_higher_score_never_gets_a_lower_reward(
    low: float, rise: float, center: float, scale: float, squash: Any, clip: Any
) -> None:
    shaping = Shaping(center, scale, squash, clip)
    first, second = shaped(shaping, low, low + rise)
    assert first <= second
    if clip is not None:
        assert clip[0] <= first <= second <= clip[1]
    if (line := shaping.affine()) is not None:
        assert line[0] > 0
        assert line[0] * low + line[1] == pytest.approx(first, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("shaping", [Shaping(squash="tanh"), Shaping(clip=(-99, 99))], ids=repr)
def test_what_bends_has_no_slope(shaping: Shaping) -> None:
    assert shaping.affine() is None


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"scale": 0}, "scale of shaping is wrong"),
        ({"scale": -1.0}, "scale of shaping is wrong"),
        ({"scale": "2"}, "scale of shaping is wrong"),
        ({"center": math.nan}, "center of shaping is wrong"),
        ({"center": True}, "center of shaping is wrong"),
        ({"squash": "relu"}, "squash is wrong"),
        ({"clip": (1.0, 1.0)}, "clip of shaping is wrong"),
        ({"clip": (1.0, -1.0)}, "clip of shaping is wrong"),
        ({"clip": (-1.0, math.inf)}, "clip of shaping is wrong"),
        ({"clip": [1.0]}, "clip of shaping is wrong"),
        ({"clip": 5.0}, "clip of shaping is wrong"),
    ],
)
def test_what_would_not_be_a_shaping_is_refused(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        Shaping(**fields)


@pytest.mark.parametrize(
    "shaping", [Shaping(), Shaping(1, 2, "tanh"), Shaping(clip=(-10, 10))], ids=repr
)
def test_a_spec_stores_it(shaping: Shaping) -> None:
    for spec in (RewardSpec(shaping=shaping), outcome_spec(shaping=shaping)):
        assert RewardSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize("version", [1, 2])
def test_a_spec_of_an_older_version_shapes_nothing(version: int) -> None:
    data = json.loads(RewardSpec().to_json())
    del data["shaping"]
    for old, new in RENAMED.items():
        data[old] = data.pop(new)
    assert RewardSpec.from_dict(data | {"version": version}).shaping == Shaping()


def test_an_unknown_field_is_named() -> None:
    data = json.loads(RewardSpec().to_json()) | {"shaping": {"power": 2}}
    with pytest.raises(SpecError, match="unknown fields of Shaping: power"):
        RewardSpec.from_dict(data)


def test_rewards_are_shaped_and_utilities_are_not() -> None:
    plain = outcome_spec()
    spec = outcome_spec(shaping=Shaping(center=0.5, scale=2.0))
    scores = torch.tensor([[1.0, -2.0], [0.0, 3.0]])
    torch.testing.assert_close(spec.rewards(scores), (plain.rewards(scores) - 0.5) / 2)
    torch.testing.assert_close(spec.utilities(scores), plain.utilities(scores))
