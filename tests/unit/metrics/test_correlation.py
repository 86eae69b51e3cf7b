"""Correlations equal those of scipy, weights repeat units, constants are undecided."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from prm.metrics.correlation import correlation_matrix, kendall_tau, pearson, spearman


def columns(seed=0, n=40):
    generator = np.random.default_rng(seed)
    x = generator.integers(0, 6, n).astype(float)
    return x, x + generator.normal(0, 2, n).round()


def test_values_equal_scipy():
    x, y = columns()
    assert pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
    assert kendall_tau(x, -y) == pytest.approx(stats.kendalltau(x, y).statistic)


@pytest.mark.parametrize("correlation", [pearson, spearman])
def test_weights_repeat_units(correlation):
    x, y = columns()
    weights = np.random.default_rng(1).integers(0, 4, len(x))
    repeated = correlation(np.repeat(x, weights), np.repeat(y, weights))
    assert correlation(x, y, weights) == pytest.approx(repeated)


@pytest.mark.parametrize("correlation", [pearson, spearman])
@pytest.mark.parametrize("x", [[], [1.0], [0.1] * 7, [1e9] * 7])
def test_what_does_not_vary_is_nan(correlation, x):
    assert np.isnan(correlation(x, list(range(len(x)))))


def test_no_weight_is_nan():
    assert np.isnan(pearson([1, 2], [1, 2], [0, 0]))


def test_spearman_ignores_increasing_maps_and_pearson_affine_ones():
    x, y = columns()
    assert spearman(np.exp(x), y**3) == pytest.approx(spearman(x, y))
    assert pearson(3 * x - 7, 0.1 * y) == pytest.approx(pearson(x, y))
    assert pearson(-x, y) == pytest.approx(-pearson(x, y))


def test_offsets_do_not_destroy_precision():
    x, y = columns()
    assert pearson(x + 1e7, y) == pytest.approx(pearson(x, y), abs=1e-9)


def test_kendall_tau_with_ties_and_reversal():
    assert kendall_tau([3, 2, 1], [2, 1, 0]) == -1
    assert kendall_tau([2, 2, 1], [0, 1, 2]) == pytest.approx(
        stats.kendalltau([2, 2, 1], [3, 2, 1]).statistic
    )
    assert np.isnan(kendall_tau([2, 1], [0, 0]))


def test_matrix_is_pairwise_complete():
    x, y = columns()
    hidden = x.copy()
    hidden[:10] = np.nan
    matrix = correlation_matrix(np.stack([hidden, y, np.ones(40)], axis=1), ["a", "b", "c"])
    assert matrix.n == ((30, 30, 30), (30, 40, 40), (30, 40, 40))
    assert matrix.values[0][1] == pytest.approx(pearson(x[10:], y[10:]))
    assert matrix.values[0][1] == matrix.values[1][0]
    assert matrix.values[2] == (None, None, None)


def test_matrix_of_nothing():
    matrix = correlation_matrix([], ["a", "b"])
    assert matrix.n == ((0, 0), (0, 0))
    assert matrix.values[0][0] is None


def test_a_missing_value_is_no_rank():
    assert np.isnan(spearman([1.0, np.nan, 3.0], [1.0, 2.0, 3.0]))
    assert np.isnan(pearson([1.0, np.nan, 3.0], [1.0, 2.0, 3.0]))
