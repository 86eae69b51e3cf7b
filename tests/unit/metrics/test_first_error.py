"""First errors: golden values of ProcessBench and the exact oracle threshold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prm.metrics.first_error import (
    CLEAN,
    UNDECIDED,
    UNSCORED,
    ChainUnits,
    best_threshold,
    predict_first_error,
    processbench_f1,
)

NAN = math.nan


@pytest.mark.parametrize(
    ("error_acc", "correct_acc", "f1"),
    [(52.2, 96.9, 67.85), (58.9, 81.3, 68.31), (45.1, 64.3, 53.02), (42.7, 66.4, 51.98)],
)
def test_published_f1(error_acc, correct_acc, f1):
    assert processbench_f1(error_acc, correct_acc) == pytest.approx(f1, abs=0.005)


def test_f1_of_two_zeros_is_zero_and_of_a_missing_side_undefined():
    assert processbench_f1(0, 0) == 0
    assert math.isnan(processbench_f1(NAN, 0.5))


@pytest.mark.parametrize(
    ("probabilities", "complete", "expected"),
    [
        ([0.9, 0.4, 0.1], True, 1),
        ([0.9, 0.5], True, CLEAN),
        ([0.0, 1.0], True, 0),
        ([NAN, 0.9], True, CLEAN),
        ([NAN, 0.2], True, 1),
        ([NAN, NAN], True, UNSCORED),
        ([], True, UNSCORED),
        ([0.9, NAN], False, UNSCORED),
        ([0.9, 0.1, NAN], False, 1),
    ],
)
def test_predicted_first_error(probabilities, complete, expected):
    assert predict_first_error(probabilities, complete=complete) == expected


def measured(predicted, true):
    """Return the metrics of chains by name."""
    return ChainUnits(np.array(predicted), np.array(true)).values()


def test_rates_by_hand():
    predicted = [1, 2, CLEAN, CLEAN, 0, UNSCORED, 0]
    true = [1, 1, 1, CLEAN, CLEAN, CLEAN, UNDECIDED]
    rates = measured(predicted, true)
    assert rates["error_acc"] == pytest.approx(1 / 3)
    assert rates["correct_acc"] == pytest.approx(1 / 3)
    assert rates["error_recall"] == pytest.approx(2 / 3)
    assert rates["first_error_accuracy"] == pytest.approx(2 / 6)
    assert rates["processbench_f1"] == pytest.approx(1 / 3)


def test_rates_without_decided_chains_are_undefined():
    rates = measured([0, CLEAN], [UNDECIDED, UNDECIDED])
    assert math.isnan(rates["first_error_accuracy"])
    assert math.isnan(rates["processbench_f1"])


PROBABILITY = st.integers(0, 6).map(lambda n: n / 6) | st.just(NAN)
CHAINS = st.lists(
    st.tuples(
        st.lists(PROBABILITY, min_size=1, max_size=5),
        st.integers(UNDECIDED, 4),
        st.booleans(),
    ).filter(lambda chain: chain[1] < len(chain[0])),
    min_size=1,
    max_size=12,
)


def f1_at(threshold, chains):
    predicted = [predict_first_error(p, threshold, complete=whole) for p, _, whole in chains]
    return measured(predicted, [true for _, true, _ in chains])["processbench_f1"]


@given(CHAINS)
def test_best_threshold_equals_brute_force(chains):
    threshold, f1 = best_threshold(
        [np.array(p) for p, _, _ in chains], [t for _, t, _ in chains], [w for _, _, w in chains]
    )
    tried = [f1_at(t, chains) for t in np.linspace(0, 1, 61)]
    if math.isnan(f1):
        assert math.isnan(tried[0])
    else:
        assert f1 == pytest.approx(max(tried))
        assert f1_at(threshold, chains) == pytest.approx(f1)


@given(CHAINS)
def test_increasing_map_with_mapped_threshold_changes_nothing(chains):
    mapped = [([p**2 / 2 for p in probabilities], t, w) for probabilities, t, w in chains]
    assert f1_at(0.5**2 / 2, mapped) == pytest.approx(f1_at(0.5, chains), nan_ok=True)
