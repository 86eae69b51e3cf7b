"""Normalizers: formulas, floors, order, symmetry, missing scores, JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prm.aggregation.named import class_of
from prm.aggregation.normalize import (
    NORMALIZERS,
    Identity,
    Normalizer,
    Quantile,
    ZScore,
    from_dict,
    to_dict,
)
from prm.errors import ConfigError, DataError

every = pytest.mark.parametrize("cls", NORMALIZERS.values(), ids=lambda cls: cls.__name__)
REFERENCE = torch.randn(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3

samples = st.lists(st.floats(-100, 100).map(lambda x: round(x, 3)), min_size=2, unique=True)


@every
def test_missing_scores_stay_missing(cls: type[Normalizer]) -> None:
    with_gaps = torch.cat([REFERENCE, torch.full((20,), math.nan)])
    normalizer = cls.fit(with_gaps)
    assert normalizer == cls.fit(REFERENCE)
    utilities = normalizer(torch.tensor([[1.0, math.nan], [math.nan, -2.0]]))
    assert utilities.isnan().tolist() == [[False, True], [True, False]]


@every
def test_scores_are_mapped_each_on_its_own(cls: type[Normalizer]) -> None:
    normalizer = cls.fit(REFERENCE)
    scores = torch.linspace(-20, 20, 24).reshape(2, 3, 4)
    utilities = normalizer(scores)
    assert utilities.shape == scores.shape
    assert utilities.dtype == torch.float32
    assert normalizer(scores.bfloat16()).dtype == torch.float32
    assert normalizer(scores.double()).dtype == torch.float64
    torch.testing.assert_close(normalizer(scores[1, 2, 3]), utilities[1, 2, 3])
    torch.testing.assert_close(normalizer(scores.mT), utilities.mT)
    assert normalizer(scores[:0]).shape == (0, 3, 4)


@every
def test_json_rebuilds_an_equal_normalizer(cls: type[Normalizer]) -> None:
    normalizer = cls.fit(REFERENCE, source="replies of the base model")
    again = from_dict(json.loads(json.dumps(to_dict(normalizer))))
    assert again == normalizer
    assert hash(again) == hash(normalizer)
    scores = torch.linspace(-30, 30, 100)
    assert again(scores).equal(normalizer(scores))
    if cls is not Identity:
        assert again.parameters()["num"] == 500
        assert again.parameters()["source"] == "replies of the base model"


@every
def test_extremes_are_finite_and_have_a_gradient(cls: type[Normalizer]) -> None:
    scores = torch.tensor([-1e4, 0.3, 1e4], requires_grad=True)
    utilities = cls.fit(REFERENCE)(scores)
    utilities.sum().backward()
    assert utilities.isfinite().all()
    assert scores.grad is not None
    assert (scores.grad > 0).all()


@given(st.sampled_from(list(NORMALIZERS.values())), samples, st.lists(st.floats(-200, 200)))
def test_every_normalizer_keeps_the_order(
    cls: type[Normalizer], reference: list[float], scores: list[float]
) -> None:
    normalizer = cls.fit(torch.tensor(reference, dtype=torch.float64))
    ordered = torch.tensor(scores, dtype=torch.float64).mul(100).round().div(100).unique()
    assert (normalizer(ordered).diff() > 0).all()


@given(st.sampled_from([ZScore, Quantile]), samples)
def test_negated_references_give_the_negated_map(
    cls: type[Normalizer], reference: list[float]
) -> None:
    scores = torch.tensor(reference, dtype=torch.float64)
    grid = torch.linspace(-150, 150, 61, dtype=torch.float64)
    expected = -cls.fit(scores)(grid)
    torch.testing.assert_close(cls.fit(-scores)(-grid), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("cls", [Identity, ZScore])
def test_an_affine_map_is_scale_and_shift(cls: type[Normalizer]) -> None:
    normalizer = cls.fit(REFERENCE + 7)
    affine = normalizer.affine()
    assert affine is not None
    scale, shift = affine
    scores = torch.linspace(-5, 5, 11, dtype=torch.float64)
    torch.testing.assert_close(normalizer(scores), scale * scores + shift)
    assert Quantile.fit(REFERENCE).affine() is None


def test_z_scores_have_mean_zero_and_deviation_one() -> None:
    utilities = ZScore.fit(REFERENCE)(REFERENCE)
    assert utilities.mean().item() == pytest.approx(0, abs=1e-12)
    assert utilities.std().item() == pytest.approx(1)


def test_the_noise_of_a_head_that_hardly_varies_is_not_blown_up() -> None:
    noise = 5 + 1e-5 * REFERENCE
    assert ZScore.fit(noise)(noise).abs().max() < 0.02
    assert ZScore.fit(noise, floor=1e-9)(noise).abs().max() > 2
    assert ZScore.fit(torch.full((10,), 3.0))(torch.tensor([3.0, 3.02])).tolist() == pytest.approx(
        [0.0, 2.0], abs=1e-4
    )


def test_quantiles_are_mid_quantiles() -> None:
    """Every distinct reference score maps to (below + equal / 2) / n."""
    scores = torch.tensor([1.0, 1.0, 1.0, 2.0, 5.0, 5.0, 6.0, 9.0])
    utilities = Quantile.fit(scores)(torch.tensor([1.0, 2.0, 5.0, 6.0, 9.0]))
    expected = [1.5 / 8, 3.5 / 8, 5 / 8, 6.5 / 8, 7.5 / 8]
    assert utilities.sigmoid().tolist() == pytest.approx(expected)


def test_between_and_beyond_the_points_the_map_is_linear() -> None:
    normalizer = Quantile([[0.0, -1.0], [1.0, 1.0], [4.0, 2.0]])
    scores = torch.tensor([-4.0, 0.0, 0.25, 1.0, 2.5, 4.0, 8.0])
    assert normalizer(scores).tolist() == [-4.0, -1.0, -0.5, 1.0, 1.5, 2.0, 5.0]


def test_few_points_follow_the_whole_reference() -> None:
    generator = torch.Generator().manual_seed(1)
    reference = torch.randn(20_000, generator=generator).exp()
    whole = Quantile.fit(reference, max_points=20_000)
    few = Quantile.fit(reference, max_points=64)
    assert len(few.points) <= 64
    assert few.points[0] == whole.points[0]
    assert few.points[-1] == whole.points[-1]
    gap = few(reference).sigmoid() - whole(reference).sigmoid()
    assert gap.abs().max() < 0.01


@pytest.mark.parametrize("cls", [ZScore, Quantile])
@pytest.mark.parametrize("scores", [[], [1.0], [1.0, math.nan], [1.0, math.inf, 2.0]])
def test_too_few_or_infinite_references_are_refused(
    cls: type[Normalizer], scores: list[float]
) -> None:
    with pytest.raises(DataError, match="reference scores"):
        cls.fit(torch.tensor(scores))


def test_equal_references_have_no_quantiles() -> None:
    with pytest.raises(DataError, match="at least two different reference scores, got 3 equal"):
        Quantile.fit(torch.ones(3))


@pytest.mark.parametrize(
    "data",
    [
        {"name": "z_score", "mean": math.nan, "std": 1.0},
        {"name": "z_score", "mean": 0.0, "std": -1.0},
        {"name": "z_score", "mean": 0.0, "std": 1.0, "floor": 0.0},
        {"name": "z_score", "mean": 0.0},
        {"name": "identity", "mean": 0.0},
        {"name": "quantile", "points": [[0.0, 0.0]]},
        {"name": "quantile", "points": [[0.0, 0.0], [1.0, 0.0]]},
        {"name": "quantile", "points": [[0.0, 0.0, 0.0], [1.0, 1.0]]},
        {"name": "quantile", "points": [[0.0, 0.0], [1.0, math.inf]]},
        {"name": "rank"},
        {},
    ],
)
def test_wrong_parameters_are_errors(data: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        from_dict(data)


def test_a_class_is_found_by_either_name() -> None:
    found = [class_of(NORMALIZERS, "normalizer", name) for name in ("quantile", "Quantile")]
    assert found == [Quantile, Quantile]
    assert class_of(NORMALIZERS, "normalizer", "z_score") is ZScore


def test_parameters_are_a_copy() -> None:
    normalizer = Quantile([[0.0, -1.0], [1.0, 1.0]])
    normalizer.parameters()["points"][0][0] = 5.0
    assert normalizer.points == [[0.0, -1.0], [1.0, 1.0]]


def utilities_of(normalizer: Normalizer, *scores: float) -> Tensor:
    return normalizer(torch.tensor(scores))


def test_parameters_change_the_result() -> None:
    base = utilities_of(ZScore(0.0, 0.1), 1.0)
    assert utilities_of(ZScore(0.5, 0.1), 1.0) != base
    assert utilities_of(ZScore(0.0, 0.2), 1.0) != base
    assert utilities_of(ZScore(0.0, 0.1, floor=0.5), 1.0) != base
