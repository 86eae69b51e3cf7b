"""Step metrics against values by hand and scikit-learn."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from prm.metrics.binary import (
    Ranking,
    StepUnits,
    brier_score,
    error_ap,
    expected_calibration_error,
    step_auroc,
    strata_of,
    weighted_mean,
)
from prm.metrics.verdicts import prm_score

# Few distinct values, so that ties are common.
UNITS = st.lists(
    st.tuples(st.integers(0, 8).map(lambda n: n / 8), st.booleans(), st.integers(0, 3)),
    min_size=2,
    max_size=40,
).filter(lambda rows: len({y for _, y, w in rows if w}) == 2)


def columns(rows):
    p, y, w = zip(*rows, strict=True)
    return np.array(p), np.array(y, dtype=float), np.array(w, dtype=float)


@given(UNITS)
def test_ranking_metrics_equal_scikit_learn(rows):
    p, y, w = columns(rows)
    assert step_auroc(p, y, w) == pytest.approx(roc_auc_score(y, p, sample_weight=w))
    assert error_ap(p, y, w) == pytest.approx(average_precision_score(1 - y, -p, sample_weight=w))
    assert brier_score(p, y, w) == pytest.approx(brier_score_loss(y, p, sample_weight=w))


@given(UNITS)
def test_weights_are_repetitions(rows):
    p, y, w = columns(rows)
    repeated = np.repeat(np.arange(len(p)), w.astype(int))
    for metric in (step_auroc, error_ap, expected_calibration_error, brier_score):
        assert metric(p, y, w) == pytest.approx(metric(p[repeated], y[repeated]))


@given(UNITS)
def test_ranking_ignores_increasing_maps_and_order(rows):
    p, y, w = columns(rows)
    for metric in (step_auroc, error_ap):
        value = metric(p, y, w)
        assert metric(p**3 / 2 + 0.1, y, w) == pytest.approx(value)
        assert metric(p[::-1], y[::-1], w[::-1]) == pytest.approx(value)


@given(UNITS)
def test_reversed_scores_mirror_auroc(rows):
    p, y, w = columns(rows)
    assert step_auroc(1 - p, y, w) == pytest.approx(1 - step_auroc(p, y, w))


@pytest.mark.parametrize("labels", [[1, 1, 1], [0, 0, 0], []])
def test_one_class_is_undefined_not_zero(labels):
    p = [0.2, 0.5, 0.9][: len(labels)]
    for metric in (step_auroc, error_ap, expected_calibration_error):
        assert math.isnan(metric(p, labels))
    assert math.isnan(brier_score([], []))


def test_all_tied():
    assert step_auroc([0.5] * 4, [1, 1, 1, 0]) == 0.5
    assert error_ap([0.5] * 4, [1, 1, 1, 0]) == 0.25


def test_soft_labels_rank_by_half_and_calibrate_as_they_are():
    assert step_auroc([0.9, 0.2], [0.5, 0.49]) == 1.0
    assert expected_calibration_error([0.7, 0.3], [0.7, 0.3]) == pytest.approx(0.0)
    assert brier_score([0.7, 0.3], [0.6, 0.3]) == pytest.approx(0.005)


def test_calibration_error_by_hand_includes_one_in_the_last_bin():
    # Bins [0, .5) and [.5, 1]: |.2 - 0| * 2 and |(1 + .6) / 2 - .5| * 2, over 4 units.
    value = expected_calibration_error([0.1, 0.3, 1.0, 0.6], [0, 0, 1, 0], num_bins=2)
    assert value == pytest.approx((0.4 + 0.6) / 4)


def test_calibration_error_of_calibrated_probabilities_is_small():
    generator = np.random.default_rng(0)
    p = 1 / (1 + np.exp(-generator.normal(0, 2, 200_000)))
    y = generator.random(200_000) < p
    assert expected_calibration_error(p, y) < 0.005
    assert brier_score(p, y) == pytest.approx(0.151, abs=0.003)


def test_grouped_ranking_takes_one_weight_per_group():
    p, y, group = [0.9, 0.3, 0.6, 0.7], [1, 0, 1, 0], np.array([0, 0, 1, 1])
    ranking = Ranking(p, y, group)
    assert ranking.auroc(np.array([1.0, 2.0])) == step_auroc(p, y, [1, 1, 2, 2])


def test_weighted_mean_of_nothing_is_undefined():
    assert math.isnan(weighted_mean([1.0, 2.0], [0, 0]))


def test_auroc_within_strata_equals_brute_force():
    """The pairs of a correct and a wrong step of one source and index, a tie counting half."""
    generator = np.random.default_rng(5)
    sources, positions = generator.integers(0, 2, 60), generator.integers(0, 3, 60)
    probability, label = generator.random(60).round(1), generator.integers(0, 2, 60).astype(float)
    weights = generator.integers(0, 3, 60).astype(float)
    strata = strata_of(sources, positions)
    concordant = total = 0.0
    for i, j in itertools.product(range(60), repeat=2):
        if (sources[i], positions[i]) == (sources[j], positions[j]) and label[i] > label[j]:
            weight = weights[i] * weights[j]
            total += weight
            concordant += weight * (np.sign(probability[i] - probability[j]) + 1) / 2
    units = StepUnits(probability, label, strata=strata)
    values = dict(zip((m.name for m in units.metrics), units.measure(weights), strict=True))
    assert values["auroc_within_index"] == pytest.approx(concordant / total)


def test_auroc_within_index_of_what_knows_the_index_alone_is_one_half():
    positions = np.tile([0, 1, 2], 50)
    label = (np.random.default_rng(6).random(150) > 0.2 + 0.3 * positions).astype(float)
    strata = strata_of(np.zeros(150), positions)
    values = StepUnits(1.0 - positions / 4, label, strata=strata).values()
    assert values["step_auroc"] > 0.65
    assert values["auroc_within_index"] == 0.5
    assert np.isnan(StepUnits(1.0 - positions / 4, label).values()["auroc_within_index"])


def test_prm_score_by_hand():
    """The example of PRMBench: 6 right and 1 wrong accepted, 2 wrong and 1 right rejected."""
    p, y = np.repeat([0.9, 0.9, 0.1, 0.1], [6, 1, 2, 1]), np.repeat([1, 0, 0, 1], [6, 1, 2, 1])
    assert prm_score(p, y) == pytest.approx((6 / 7 + 2 / 3) / 2)
    assert prm_score([1.0, 0.5], [1, 0]) == 1.0
    assert np.isnan(prm_score([0.9, 0.9], [1, 0]))
    assert np.isnan(prm_score([0.9, 0.1], [1, 1]))


@pytest.mark.parametrize(
    "metric", [step_auroc, error_ap, expected_calibration_error, brier_score, prm_score]
)
def test_a_step_that_was_not_scored_is_no_number(metric):
    """A step without a probability must be left out; counted as any number it would be wrong."""
    assert np.isnan(metric([0.9, np.nan, 0.2, 0.6], [1, 0, 0, 1]))
