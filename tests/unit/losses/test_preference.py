"""Comparisons as targets, and the pairwise losses of decided pairs against scipy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from comparisons import targets_of
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import erfcx, log_expit
from scipy.stats import norm
from torch import Tensor

from prm.errors import ConfigError, DataError
from prm.losses.preference import BradleyTerry, PreferenceTargets, bradley_terry, pairs_of
from prm.losses.probit import GaussianPreference, log_normal_cdf, probit

NAN = math.nan
SCORES = torch.tensor([[2.0], [0.5], [-1.0], [3.0]])
"""Two pairs: the first as labeled (difference 1.5), the second the wrong way around (-4)."""


def losses_of(loss: BradleyTerry, targets: PreferenceTargets, sign: int = 1) -> list[float]:
    values: list[float] = loss.per_comparison(SCORES, "value", sign, targets).tolist()
    return values


# Targets


def test_pairs_are_every_member_with_every_later_one_of_its_comparison() -> None:
    rankings = [[0, 1], [0, 0, 1, 2], [0, 0]]
    pairs = pairs_of(targets_of(*rankings))
    expected, start = [], 0
    for number, ranks in enumerate(rankings):
        for i, j in itertools.combinations(range(len(ranks)), 2):
            expected.append((start + i, start + j, number, ranks[i] == ranks[j]))
        start += len(ranks)
    fields = (pairs.first, pairs.second, pairs.comparison, pairs.tied)
    assert list(zip(*(field.tolist() for field in fields), strict=True)) == expected


def test_no_comparison_has_no_pair() -> None:
    assert pairs_of(targets_of()).first.numel() == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"read": torch.zeros(2, 1, dtype=torch.int64)},
        {"rank": torch.zeros(3, dtype=torch.int64)},
        {"strength": torch.zeros(1, 1)},
        {"share": torch.zeros(2)},
        {"label": torch.zeros(1)},
    ],
)
def test_targets_of_another_shape_are_refused(fields: dict[str, Tensor]) -> None:
    pair = targets_of([0, 1])
    given = {name: getattr(pair, name) for name in PreferenceTargets.__slots__}
    with pytest.raises(ConfigError, match="one dimension"):
        PreferenceTargets(**given | fields)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (targets_of([1, 0]), "out of order"),
        (targets_of([0, 1], strength=[-2.0]), "strength .* got -2"),
        (targets_of([0, 1], share=[1.5]), "share .* got 1.5"),
    ],
)
def test_check_names_what_is_wrong(targets: PreferenceTargets, message: str) -> None:
    with pytest.raises(DataError, match=message):
        targets.check()


def test_check_accepts_what_is_right_and_what_is_unknown() -> None:
    targets_of([0, 1], [0, 0], [0, 1, 1], strength=[0.0, NAN, NAN], share=[1.0, 0.5, NAN]).check()
    targets_of([0, 1], label=[3.5, NAN]).check()


def test_targets_move_with_all_their_fields() -> None:
    moved = targets_of([0, 1], label=[1.0, NAN]).to("meta")
    assert all(getattr(moved, name).is_meta for name in PreferenceTargets.__slots__)


# Bradley-Terry


def test_bradley_terry_has_one_value_per_comparison() -> None:
    values = losses_of(BradleyTerry(), targets_of([0, 1], [0, 1]))
    assert values == pytest.approx([-log_expit(1.5), -log_expit(-4.0)])


def test_permuting_the_losers_changes_the_loss() -> None:
    targets = targets_of([0, 1], [0, 1])
    permuted = SCORES[[0, 3, 2, 1]]
    whole = BradleyTerry().sum(SCORES, "value", 1, targets)
    assert not torch.isclose(whole, BradleyTerry().sum(permuted, "value", 1, targets))


def test_minimize_turns_the_scores_around() -> None:
    values = losses_of(BradleyTerry(), targets_of([0, 1], [0, 1]), sign=-1)
    assert values == pytest.approx([-log_expit(-1.5), -log_expit(4.0)])


def test_ties_are_dropped_or_half_a_win_each() -> None:
    tie = targets_of([0, 1], [0, 0])
    assert BradleyTerry().weights(tie).tolist() == [1.0, 0.0]
    half = BradleyTerry(ties="half")
    assert half.weights(tie).tolist() == [1.0, 1.0]
    expected = -(log_expit(4.0) + log_expit(-4.0)) / 2
    assert losses_of(half, tie)[1] == pytest.approx(expected)


def test_a_ranking_is_the_mean_over_its_pairs() -> None:
    values = SCORES[:, 0].double().numpy()
    for ties, counted in [
        ("drop", [(0, 1), (0, 2), (0, 3), (1, 3), (2, 3)]),
        ("half", list(itertools.combinations(range(4), 2))),
    ]:
        loss = BradleyTerry(ties=ties)  # type: ignore[arg-type]
        targets = targets_of([0, 1, 1, 2])
        expected = []
        for i, j in counted:
            d = values[i] - values[j]
            tied = (i, j) == (1, 2)
            expected.append(-(log_expit(d) + log_expit(-d)) / 2 if tied else -log_expit(d))
        assert losses_of(loss, targets) == pytest.approx([np.mean(expected)])
        assert loss.weights(targets).tolist() == [1.0]


def test_label_smoothing_moves_the_target_towards_one_half() -> None:
    smooth = losses_of(BradleyTerry(label_smoothing=0.2), targets_of([0, 1], [0, 1]))
    assert smooth[0] == pytest.approx(-0.9 * log_expit(1.5) - 0.1 * log_expit(-1.5))


def test_votes_are_soft_targets_also_of_a_tie() -> None:
    targets = targets_of([0, 1], [0, 0], share=[0.75, 0.5])
    voted = BradleyTerry(votes=True)
    assert voted.weights(targets).tolist() == [1.0, 1.0]
    assert losses_of(voted, targets) == pytest.approx(
        [
            -0.75 * log_expit(1.5) - 0.25 * log_expit(-1.5),
            -0.5 * log_expit(-4.0) - 0.5 * log_expit(4.0),
        ]
    )
    ignored = BradleyTerry()
    assert ignored.weights(targets).tolist() == [1.0, 0.0]
    assert losses_of(ignored, targets)[0] == pytest.approx(-log_expit(1.5))
    unknown = targets_of([0, 1], [0, 0])
    assert voted.weights(unknown).tolist() == [1.0, 0.0]
    assert losses_of(voted, unknown)[0] == pytest.approx(-log_expit(1.5))


def test_a_margin_belongs_to_its_own_pair() -> None:
    targets = targets_of([0, 1], [0, 1], strength=[2.0, NAN])
    values = losses_of(BradleyTerry(strength="margin"), targets)
    assert values == pytest.approx([-log_expit(1.5 - 2.0), -log_expit(-4.0)])
    assert losses_of(BradleyTerry(), targets)[0] == pytest.approx(-log_expit(1.5))


def test_a_scale_is_the_weight_of_its_pair() -> None:
    targets = targets_of([0, 1], [0, 1], strength=[3.0, NAN])
    loss = BradleyTerry(strength="scale")
    assert loss.weights(targets).tolist() == [3.0, 1.0]
    total = loss.sum(SCORES, "value", 1, targets).item()
    assert total == pytest.approx(-3 * log_expit(1.5) - log_expit(-4.0))


def test_center_pulls_the_sum_of_scores_to_zero() -> None:
    plain = losses_of(BradleyTerry(), targets_of([0, 1], [0, 1]))
    centered = losses_of(BradleyTerry(center=0.1), targets_of([0, 1], [0, 1]))
    assert centered == pytest.approx([plain[0] + 0.1 * 2.5**2, plain[1] + 0.1 * 2.0**2])


@given(st.floats(-5, 5), st.floats(-50, 50))
def test_only_differences_count_without_center(shift: float, difference: float) -> None:
    scores = torch.tensor([[difference], [0.0]])
    targets = targets_of([0, 1])
    plain, shifted = (
        BradleyTerry().per_comparison(s, "value", 1, targets) for s in (scores, scores + shift)
    )
    torch.testing.assert_close(plain, shifted, rtol=1e-4, atol=1e-5)


def test_shapes_that_would_broadcast_are_refused() -> None:
    for loss in (bradley_terry, probit):
        with pytest.raises(ConfigError, match="one dimension"):
            loss(torch.zeros(4, 1), torch.ones(4))
        with pytest.raises(ConfigError, match="one dimension"):
            loss(torch.zeros(4, 4), torch.ones(4, 4))


# Gaussian heads


def test_gaussian_preference_equals_scipy() -> None:
    columns = torch.tensor([[1.0, 0.3], [0.2, -1.0], [-2.0, 2.0], [1.0, 0.0]])
    means = columns[:, 0].numpy()
    deviations = np.log1p(np.exp(columns[:, 1].numpy())) + 1e-3
    z = (means[::2] - means[1::2]) / np.hypot(deviations[::2], deviations[1::2])
    targets = targets_of([0, 1], [0, 1], share=[NAN, 0.7])
    plain = GaussianPreference().per_comparison(columns, "gaussian", 1, targets)
    np.testing.assert_allclose(plain, -norm.logcdf(z), rtol=1e-5)
    turned = GaussianPreference().per_comparison(columns, "gaussian", -1, targets)
    np.testing.assert_allclose(turned, -norm.logcdf(-z), rtol=1e-5)
    voted = GaussianPreference(votes=True).per_comparison(columns, "gaussian", 1, targets)
    expected = -0.7 * norm.logcdf(z[1]) - 0.3 * norm.logcdf(-z[1])
    np.testing.assert_allclose(voted[1], expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_normal_cdf_and_its_gradient_equal_scipy_far_out(dtype: torch.dtype) -> None:
    magnitudes = torch.logspace(-3, 7, 41, dtype=dtype)
    z = torch.cat([-magnitudes, magnitudes.new_zeros(1), magnitudes]).requires_grad_()
    values = log_normal_cdf(z)
    (slopes,) = torch.autograd.grad(values.sum(), z)
    exact = z.detach().double().numpy()
    np.testing.assert_allclose(values.detach(), norm.logcdf(exact), rtol=2e-6, atol=1e-30)
    hazard = math.sqrt(2 / math.pi) / erfcx(-exact / math.sqrt(2))
    np.testing.assert_allclose(slopes, hazard, rtol=2e-5, atol=1e-30)


def test_a_wrong_gaussian_pair_becomes_less_sure() -> None:
    for first, raises in [(-2.0, True), (2.0, False)]:
        columns = torch.tensor([[first, 0.0], [0.0, 0.0]], requires_grad=True)
        GaussianPreference().sum(columns, "gaussian", 1, targets_of([0, 1])).backward()
        assert columns.grad is not None
        assert bool((columns.grad[:, 1] < 0).all()) is raises


def test_gaussian_preference_options_change_the_result() -> None:
    columns = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    plain, smooth = (
        GaussianPreference(label_smoothing=s).sum(columns, "gaussian", 1, targets_of([0, 1]))
        for s in (0.0, 0.3)
    )
    assert smooth > plain
    tie = targets_of([0, 0])
    assert GaussianPreference().weights(tie).item() == 0.0
    assert GaussianPreference(ties="half").weights(tie).item() == 1.0


# Gradients and options


@pytest.mark.parametrize("loss", [bradley_terry, probit])
def test_gradients_are_right(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    difference = torch.tensor([-6.0, -0.5, 0.0, 0.5, 6.0], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([1.0, 0.3, 0.5, 0.9, 0.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda d: loss(d, target), [difference])


@pytest.mark.parametrize(
    "options",
    [
        {"ties": "half_win"},
        {"label_smoothing": 1.0},
        {"label_smoothing": -0.1},
        {"label_smoothing": NAN},
        {"strength": "weight"},
        {"center": -1.0},
        {"center": NAN},
        {"center": math.inf},
    ],
)
def test_wrong_options_are_errors(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        BradleyTerry(**options)


def test_options_are_shown() -> None:
    assert repr(BradleyTerry(center=0.01)) == (
        "BradleyTerry(ties='drop', label_smoothing=0.0, votes=False, strength='ignore', "
        "center=0.01)"
    )
