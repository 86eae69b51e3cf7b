"""The calibration error without what chance adds: near 0 where it should be, else right."""

from __future__ import annotations

import numpy as np
import pytest

from prm.metrics.binary import expected_calibration_error
from prm.metrics.calibration import debiased_error
from prm.metrics.pairs import pair_ece, sigmoid


def mean_errors(shift: float, *, num_steps: int = 200, num_runs: int = 300) -> tuple[float, float]:
    """Return the mean error as it is and without chance, of probabilities that are off by so much.

    The labels are drawn from the probabilities less the shift.
    """
    generator = np.random.default_rng(0)
    plain, debiased = [], []
    for _ in range(num_runs):
        truth = generator.uniform(0.05, 0.7, num_steps)
        labels = (generator.random(num_steps) < truth).astype(float)
        plain.append(expected_calibration_error(truth + shift, labels))
        debiased.append(expected_calibration_error(truth + shift, labels, debias=True))
    return float(np.mean(plain)), float(np.mean(debiased))


def test_calibrated_steps_have_no_error_but_chance() -> None:
    plain, debiased = mean_errors(0.0)
    assert plain > 0.06
    assert debiased < 0.015


@pytest.mark.parametrize("shift", [0.2, 0.3])
def test_a_large_error_is_what_it_is(shift: float) -> None:
    assert mean_errors(shift, num_steps=1000, num_runs=100)[1] == pytest.approx(shift, abs=0.01)


def test_a_small_error_is_not_overstated() -> None:
    plain, debiased = mean_errors(0.05)
    assert plain > 0.08
    assert debiased < 0.05


def test_calibrated_pairs_have_no_error_but_chance() -> None:
    generator = np.random.default_rng(1)
    plain, debiased = [], []
    for _ in range(300):
        margins = generator.normal(0, 2, 200)
        outcomes = (generator.random(200) < sigmoid(margins)).astype(float)
        plain.append(pair_ece(margins, outcomes))
        debiased.append(pair_ece(margins, outcomes, debias=True))
    assert np.mean(plain) > 0.05
    assert np.mean(debiased) < 0.015


def test_many_units_have_the_same_error_either_way() -> None:
    generator = np.random.default_rng(2)
    truth = generator.uniform(0.1, 0.7, 200_000)
    labels = (generator.random(200_000) < truth).astype(float)
    plain = expected_calibration_error(truth + 0.1, labels)
    assert expected_calibration_error(truth + 0.1, labels, debias=True) == pytest.approx(
        plain, abs=1e-3
    )


def test_nothing_has_no_error() -> None:
    none = np.zeros(0)
    assert np.isnan(debiased_error(none.astype(np.int64), none, none, none))
