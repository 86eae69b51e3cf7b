"""Losses of ratings against numpy and scipy, and what they refuse."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, log_expit, logit
from scipy.stats import norm

from prm.errors import ConfigError, DataError
from prm.losses.rating import (
    BinaryCrossEntropy,
    CumulativeLink,
    GaussianLikelihood,
    MeanSquaredError,
    Pinball,
    RatingLoss,
    cumulative_link_loss,
    gaussian_loss,
    pinball_loss,
)

NAN = math.nan
scores = st.lists(st.floats(-50, 50), min_size=1, max_size=6)

# Values


def test_squared_error_keeps_the_units() -> None:
    columns, values = torch.tensor([[3.5], [-1.0]]), torch.tensor([4.0, 2.0])
    assert MeanSquaredError().per_response(columns, "value", values).tolist() == [0.25, 9.0]


@given(scores, st.floats(0, 1))
def test_binary_cross_entropy_equals_scipy(logits: list[float], label: float) -> None:
    columns = torch.tensor(logits)[:, None]
    labels = torch.full((len(logits),), label)
    x, y = columns[:, 0].double().numpy(), labels.double().numpy()
    expected = -y * log_expit(x) - (1 - y) * log_expit(-x)
    actual = BinaryCrossEntropy().per_response(columns, "value", labels)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_gaussian_likelihood_equals_scipy() -> None:
    columns, values = torch.randn(8, 2) * 2, torch.randn(8)
    deviations = np.log1p(np.exp(columns[:, 1].numpy())) + 1e-3
    expected = -norm.logpdf(values.numpy(), columns[:, 0].numpy(), deviations)
    actual = GaussianLikelihood().per_response(columns, "gaussian", values)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_pinball_equals_numpy() -> None:
    levels = (0.1, 0.25, 0.9)
    columns, values = torch.randn(8, 3), torch.randn(8)
    errors = values.double().numpy()[:, None] - columns.double().numpy()
    expected = np.where(errors >= 0, errors * levels, errors * (np.array(levels) - 1)).mean(axis=1)
    actual = Pinball(levels).per_response(columns, "quantile", values)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_pinball_is_lowest_at_the_quantiles() -> None:
    values = torch.randn(999)
    grid = torch.linspace(-2.5, 2.5, 501)
    for level in (0.1, 0.5, 0.9):
        losses = torch.stack(
            [pinball_loss(x.expand(999, 1), values, torch.tensor([level])).mean() for x in grid]
        )
        best = grid[losses.argmin()].item()
        assert best == pytest.approx(torch.quantile(values, level).item(), abs=0.02)


@given(scores, st.integers(2, 7))
def test_level_probabilities_equal_numpy_and_sum_to_one(
    latent: list[float], num_levels: int
) -> None:
    thresholds = np.linspace(-2, 3, num_levels - 1)
    s = torch.tensor(latent, dtype=torch.float64)
    below = np.concatenate(
        [np.zeros((len(latent), 1)), expit(thresholds - s.numpy()[:, None]), np.ones((len(s), 1))],
        axis=1,
    )
    probabilities = np.stack(
        [
            cumulative_link_loss(s, torch.full((len(latent),), level), torch.tensor(thresholds))
            .neg()
            .exp()
            for level in range(num_levels)
        ],
        axis=1,
    )
    np.testing.assert_allclose(probabilities, np.diff(below, axis=1), atol=1e-12)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-9)


def test_two_levels_are_binary_cross_entropy() -> None:
    columns, values = torch.randn(6, 1), torch.tensor([0.0, 1, 1, 0, 0, 1])
    torch.testing.assert_close(
        CumulativeLink(2).per_response(columns, "value", values),
        BinaryCrossEntropy().per_response(columns, "value", values),
    )


def test_a_higher_level_wants_a_higher_score() -> None:
    loss = CumulativeLink(5)
    grid = torch.linspace(-6, 6, 241)[:, None]
    best = [
        grid[loss.per_response(grid, "value", torch.full((241,), float(level))).argmin()].item()
        for level in range(5)
    ]
    assert best == sorted(best)
    assert len(set(best)) == 5


# What labels decide


def test_fitted_thresholds_are_the_log_odds_of_the_frequencies() -> None:
    values = torch.tensor([0.0] * 10 + [1.0] * 60 + [3.0] * 30 + [NAN] * 7)
    loss = CumulativeLink(4)
    loss.fit(values)
    counts = np.array([10, 60, 0, 30]) + 0.5
    expected = logit(np.cumsum(counts)[:-1] / counts.sum())
    np.testing.assert_allclose(loss.thresholds.detach(), expected, rtol=1e-4)
    at_zero = loss.per_response(torch.zeros(4, 1), "value", torch.arange(4.0)).neg().exp()
    np.testing.assert_allclose(at_zero.detach(), counts / counts.sum(), rtol=1e-3)


def test_thresholds_are_ordered_and_learned() -> None:
    loss = CumulativeLink(6)
    with torch.no_grad():
        loss.raw_thresholds.copy_(torch.tensor([3.0, -50.0, 1.0, -50.0, 2.0]))
    assert (loss.thresholds.diff() > 0).all()
    loss.sum(torch.zeros(6, 1), "value", torch.arange(6.0)).backward()
    assert loss.raw_thresholds.grad is not None
    assert loss.raw_thresholds.grad.isfinite().all()


def test_balanced_classes_count_the_same() -> None:
    loss = BinaryCrossEntropy(positive_weight="balanced")
    values = torch.tensor([1.0, 0.0, 0.0, 0.0, NAN])
    with pytest.raises(ConfigError, match="not fitted"):
        loss.weights(values)
    loss.fit(values)
    assert loss.positive_weight == 3.0
    assert loss.weights(values).tolist() == [3.0, 1.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("values", [[1.0], [0.0, NAN], []])
def test_balanced_needs_both_classes(values: list[float]) -> None:
    with pytest.raises(ConfigError, match="both classes"):
        BinaryCrossEntropy(positive_weight="balanced").fit(torch.tensor(values))


@pytest.mark.parametrize(
    ("loss", "right", "wrong"),
    [
        (MeanSquaredError(), [-3.0, 1e6, NAN], math.inf),
        (MeanSquaredError(low=0, high=4), [0.0, 2.5, 4.0, NAN], 4.5),
        (MeanSquaredError(low=1), [1.0, 99.0], 0.5),
        (BinaryCrossEntropy(), [0.0, 0.3, 1.0, NAN], 1.5),
        (BinaryCrossEntropy(), [0.0], -1.0),
        (CumulativeLink(5), [0.0, 4.0, NAN], 5.0),
        (CumulativeLink(5), [1.0], 2.5),
        (Pinball(), [-7.0, NAN], -math.inf),
        (GaussianLikelihood(), [-7.0, NAN], math.inf),
    ],
    ids=str,
)
def test_check_names_the_value(loss: RatingLoss, right: list[float], wrong: float) -> None:
    loss.check(torch.tensor(right))
    with pytest.raises(DataError, match=f"rating is out of range.*got {wrong}"):
        loss.check(torch.tensor([*right, wrong]))


# Options


def test_every_option_changes_the_result() -> None:
    columns, values = torch.tensor([[2.0]]), torch.tensor([1.0])
    plain = BinaryCrossEntropy().sum(columns, "value", values)
    smooth = BinaryCrossEntropy(label_smoothing=0.2).sum(columns, "value", values)
    assert smooth.item() == pytest.approx(-0.9 * log_expit(2.0) - 0.1 * log_expit(-2.0))
    weighted = BinaryCrossEntropy(positive_weight=3.0).sum(columns, "value", values)
    assert weighted.item() == pytest.approx(3 * plain.item())
    two_levels = torch.tensor([[0.0, 1.0]])
    assert not torch.isclose(
        Pinball((0.1, 0.9)).sum(two_levels, "quantile", values),
        Pinball((0.2, 0.9)).sum(two_levels, "quantile", values),
    )
    levels = [CumulativeLink(n).sum(columns, "value", values) for n in (2, 3)]
    assert not torch.isclose(*levels)


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (MeanSquaredError, {"low": 1.0, "high": 1.0}),
        (MeanSquaredError, {"low": NAN}),
        (BinaryCrossEntropy, {"label_smoothing": 1.0}),
        (BinaryCrossEntropy, {"positive_weight": 0.0}),
        (BinaryCrossEntropy, {"positive_weight": "balance"}),
        (CumulativeLink, {"num_levels": 1}),
        (Pinball, {"levels": [0.5]}),
        (Pinball, {"levels": [0.9, 0.1]}),
        (Pinball, {"levels": [0.0, 0.5]}),
        (Pinball, {"levels": [0.5, NAN]}),
    ],
)
def test_wrong_options_are_errors(cls: type[Any], options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="is wrong"):
        cls(**options)


def test_one_value_per_read() -> None:
    for values in (torch.zeros(3, 1), torch.zeros(2)):
        with pytest.raises(ConfigError, match="one value per read"):
            MeanSquaredError().per_response(torch.zeros(3, 1), "value", values)


def test_gradients_are_right() -> None:
    s = torch.tensor([-5.0, 0.1, 0.7, 5.0], dtype=torch.float64, requires_grad=True)
    thresholds = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64, requires_grad=True)
    levels = torch.tensor([0, 1, 2, 3])
    assert torch.autograd.gradcheck(
        lambda a, b: cumulative_link_loss(a, levels, b), [s, thresholds]
    )
    y = torch.tensor([0.3, -1.0, 2.0, 4.0], dtype=torch.float64)
    deviations = torch.tensor([0.5, 1.0, 2.0, 0.1], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: gaussian_loss(a, b, y), [s, deviations])
    quantiles = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    q = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a: pinball_loss(a, y, q), [quantiles])


def test_options_are_shown() -> None:
    assert repr(MeanSquaredError(high=4)) == "MeanSquaredError(low=None, high=4)"
    assert "levels=(0.1, 0.5, 0.9)" in repr(Pinball())


def test_losses_say_whose_scores_are_ratings() -> None:
    losses = (MeanSquaredError, Pinball, GaussianLikelihood, BinaryCrossEntropy, CumulativeLink)
    assert [loss.in_label_units for loss in losses] == [True, True, True, False, False]
