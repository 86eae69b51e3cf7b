"""Pair metrics: golden values, symmetry, and undecided units."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prm.metrics.binary import expected_calibration_error
from prm.metrics.pairs import (
    minimum_domain,
    pair_accuracy,
    pair_brier,
    pair_ece,
    pair_nll,
    sigmoid,
)

METRICS = [pair_accuracy, pair_nll, pair_brier, pair_ece]

margins = st.lists(st.floats(-20, 20), min_size=1, max_size=30)
pairs = margins.flatmap(
    lambda m: st.tuples(st.just(m), st.lists(st.sampled_from([0.0, 1.0]), min_size=len(m)))
).map(lambda pair: (np.array(pair[0]), np.array(pair[1][: len(pair[0])])))


def test_calibrated_margins_have_the_golden_errors():
    generator = np.random.default_rng(0)
    margin = generator.normal(0, 2, 200_000)
    first_is_better = generator.random(200_000) < sigmoid(margin)
    chosen = np.where(first_is_better, margin, -margin)
    ones = np.ones(200_000)
    assert pair_ece(chosen, ones) < 0.005
    assert pair_ece(margin, first_is_better) == pair_ece(chosen, ones)
    assert pair_brier(chosen, ones) == pytest.approx(0.151, abs=0.002)
    assert 1 - sigmoid(chosen).mean() == pytest.approx(0.303, abs=0.003)


def test_unfolded_error_of_chosen_against_one_is_refused():
    assert np.isnan(expected_calibration_error(sigmoid(np.arange(-3.0, 9.0)), np.ones(12)))


def test_ties_of_scores_and_of_labels():
    margin, outcome = [1.0, 0.0, -1.0, 9.0, 9.0], [1, 1, 1, 0.5, np.nan]
    assert pair_accuracy(margin, outcome) == pytest.approx(1 / 3)
    assert pair_accuracy(margin, outcome, ties="half") == pytest.approx(0.5)
    assert pair_nll([0.0], [1]) == pytest.approx(np.log(2))


def test_weights_count_units():
    margin, outcome = np.array([1.0, -2.0, 0.3]), np.array([1, 1, 0])
    for metric in METRICS:
        repeated = metric(np.repeat(margin, [2, 0, 3]), np.repeat(outcome, [2, 0, 3]))
        assert metric(margin, outcome, [2, 0, 3]) == pytest.approx(repeated)


@pytest.mark.parametrize("metric", METRICS)
def test_nothing_decided_is_nan(metric):
    assert np.isnan(metric([], []))
    assert np.isnan(metric([1.0], [0.5]))
    assert np.isnan(metric([1.0], [1], [0]))


@pytest.mark.parametrize("metric", METRICS)
def test_extreme_margins_are_finite(metric):
    assert np.isfinite(metric([1e4, -1e4, 0.0], [1, 1, 0]))


@given(pairs)
def test_swapping_responses_changes_nothing(pair):
    margin, outcome = pair
    for metric in METRICS:
        assert metric(-margin, 1 - outcome) == pytest.approx(metric(margin, outcome))


@given(pairs)
def test_reversed_scores_have_the_opposite_accuracy(pair):
    margin, outcome = pair
    accuracy = pair_accuracy(margin, outcome, ties="half")
    assert pair_accuracy(-margin, outcome, ties="half") == pytest.approx(1 - accuracy)


def test_accuracy_ignores_strictly_increasing_maps_of_scores():
    generator = np.random.default_rng(0)
    scores = generator.integers(-3, 4, (2, 100)).astype(float)
    outcome = generator.integers(0, 2, 100)
    mapped = np.exp(scores) + scores
    before = pair_accuracy(scores[0] - scores[1], outcome)
    assert pair_accuracy(mapped[0] - mapped[1], outcome) == before


def test_minimum_domain_without_a_decided_domain():
    assert np.isnan(minimum_domain([]))
    assert np.isnan(minimum_domain([np.nan]))


def test_a_pair_that_was_not_scored_is_neither_right_nor_wrong():
    margins, outcomes = [1.0, math.nan, -1.0, math.nan], [1, 1, 1, 0]
    for metric in METRICS:
        assert metric(margins, outcomes) == metric([1.0, -1.0], [1, 1])
    assert pair_accuracy(margins, outcomes) == 0.5
    assert math.isnan(pair_accuracy([math.nan], [1]))
