"""Clustered bootstrap: coverage against theory, clusters, degenerate cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from prm.metrics.binary import step_auroc
from prm.metrics.intervals import (
    Interval,
    auroc_interval,
    cluster_bootstrap,
    group_indices,
    make_interval,
)


def mean_of(values):
    return lambda multiplicity: (multiplicity * values).sum() / multiplicity.sum()


def test_interval_of_a_mean_agrees_with_the_normal_approximation():
    values = np.random.default_rng(0).random(400)
    value, low, high = cluster_bootstrap(mean_of(values), 400, num_resamples=4000)
    half = norm.ppf(0.975) * values.std() / 20
    assert value == pytest.approx(values.mean())
    assert low == pytest.approx(values.mean() - half, abs=half / 10)
    assert high == pytest.approx(values.mean() + half, abs=half / 10)


def test_seed_decides_the_bounds():
    values = np.random.default_rng(0).random(30)
    first, again, other = (cluster_bootstrap(mean_of(values), 30, seed=s)[1] for s in (0, 0, 1))
    assert first == again != other


def test_copies_in_one_group_do_not_narrow_the_interval():
    generator = np.random.default_rng(0)
    y = np.tile([0.0, 1.0], 40)
    p = np.clip(generator.normal(0.4 + 0.2 * y, 0.3), 0, 1)
    groups = [str(index) for index in range(80)]
    once = auroc_interval(p, y, groups)
    copied = auroc_interval(np.tile(p, 5), np.tile(y, 5), groups * 5)
    assert (copied.value, copied.low, copied.high) == pytest.approx(
        (once.value, once.low, once.high)
    )
    assert (copied.n, copied.num_groups) == (400, 80)


def test_bounds_do_not_depend_on_the_order_of_units():
    generator = np.random.default_rng(1)
    p, y = generator.random(60), generator.random(60) < 0.5
    groups = [f"g{index % 7}" for index in range(60)]
    shuffled = generator.permutation(60)
    assert auroc_interval(p, y, groups) == auroc_interval(
        p[shuffled], y[shuffled], [groups[index] for index in shuffled]
    )


def test_auroc_interval_contains_the_plain_value():
    generator = np.random.default_rng(2)
    y = generator.random(300) < 0.7
    p = np.clip(generator.normal(0.4 + 0.3 * y, 0.2), 0, 1)
    interval = auroc_interval(p, y, group_names := [str(i // 3) for i in range(300)])
    assert interval.value == step_auroc(p, y)
    assert interval.low < interval.value < interval.high
    assert interval.num_groups == len(set(group_names))


def test_single_group_and_no_resamples_have_no_bounds():
    one = auroc_interval([0.9, 0.1], [1, 0], ["a", "a"])
    none = auroc_interval([0.9, 0.1], [1, 0], ["a", "b"], num_resamples=0)
    assert (one.value, one.low, one.high) == (none.value, none.low, none.high) == (1.0, None, None)


@pytest.mark.parametrize("labels", [[1, 1], [0, 0], []])
def test_one_class_has_no_value(labels):
    names = ["a", "b"][: len(labels)]
    interval = auroc_interval([0.9, 0.1][: len(labels)], labels, names)
    assert (interval.value, interval.low, interval.high) == (None, None, None)


def test_often_undefined_resamples_give_no_bounds():
    # With two groups, half of the resamples hold one class only.
    interval = auroc_interval([0.9, 0.1], [1, 0], ["a", "b"])
    assert interval.value == 1.0
    assert interval.low is None


def test_several_values_share_the_resamples():
    values = np.random.default_rng(0).random(20)
    both = cluster_bootstrap(lambda m: [mean_of(values)(m), math.nan], 20)
    alone = cluster_bootstrap(mean_of(values), 20)
    assert [x[0] for x in both] == pytest.approx([float(x) for x in alone])
    assert all(np.isnan(x[1]) for x in both)


def test_text_of_an_interval():
    assert str(Interval(0.5, 0.25, 1.0, 4, 2)) == "0.500 [.250, 1.000]"
    assert str(Interval(0.5, None, None, 4, 1)) == "0.500"
    assert str(make_interval(math.nan, math.nan, math.nan, 0, 0)) == "—"


def test_group_indices_of_nothing():
    assert group_indices([]).shape == (0,)
