"""Agreement beyond chance: published examples, independent references, chance levels."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from prm.metrics.agreement import (
    krippendorff_alpha,
    nearest_level,
    quadratic_kappa,
    three_cycle_rate,
)

NONE = None
# Krippendorff (2011), Computing Krippendorff's Alpha-Reliability, section C: four observers.
OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, NONE, NONE, NONE],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NONE, 3],
    [NONE, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NONE],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NONE],
]


@pytest.mark.parametrize(
    ("level", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)]
)
def test_alpha_of_the_published_example(level, alpha):
    units = list(zip(*OBSERVERS, strict=True))
    assert krippendorff_alpha(units, level) == pytest.approx(alpha, abs=5e-4)


def test_alpha_by_hand():
    # Two raters, units aa, ab, bb, bb: D_o = 2 / 8, D_e = 2 * 3 * 5 / (8 * 7), alpha = 8 / 15.
    units = [["a", "a"], ["a", "b"], ["b", "b"], ["b", "b"]]
    coded = [[ord(x) for x in unit] for unit in units]
    assert krippendorff_alpha(coded) == pytest.approx(1 - (2 / 8) / (30 / 56))


def test_alpha_does_not_depend_on_order_and_lone_ratings():
    units = [list(unit) for unit in zip(*OBSERVERS, strict=True)]
    shuffled = [unit[::-1] for unit in units[::-1]]
    assert krippendorff_alpha([*shuffled, [7], [], [np.nan, 9]]) == pytest.approx(
        krippendorff_alpha(units)
    )


def test_alpha_of_random_ratings_is_near_zero():
    ratings = np.random.default_rng(0).integers(0, 5, (2000, 3)).tolist()
    for level in ("nominal", "ordinal", "interval"):
        assert abs(krippendorff_alpha(ratings, level)) < 0.05


@pytest.mark.parametrize("units", [[], [[1]], [[1, None]], [[2, 2], [2, 2]]])
def test_alpha_undecided_is_nan(units):
    assert np.isnan(krippendorff_alpha(units, "ordinal"))


def test_kappa_equals_scikit_learn():
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 5, (2, 200))
    mixed = np.where(generator.random(200) < 0.5, x, y)
    expected = cohen_kappa_score(x, mixed, weights="quadratic")
    assert quadratic_kappa(x, mixed) == pytest.approx(expected)
    weights = generator.integers(0, 3, 200)
    repeated = quadratic_kappa(np.repeat(x, weights), np.repeat(mixed, weights))
    assert quadratic_kappa(x, mixed, weights) == pytest.approx(repeated)


@pytest.mark.parametrize("grades", [[], [2, 2]])
def test_kappa_undecided_is_nan(grades):
    assert np.isnan(quadratic_kappa(grades, grades))


def test_nearest_level_keeps_levels_and_clips():
    assert nearest_level([-9, 0.5, 1, 2.1, 99], [3, 1, 0, 1]).tolist() == [0, 0, 1, 3, 3]


def test_three_cycles_equal_brute_force():
    generator = np.random.default_rng(0)
    beats = {
        (i, j) if generator.random() < 0.5 else (j, i)
        for i, j in combinations(range(12), 2)
        if generator.random() < 0.7
    }
    full = circular = 0
    for a, b, c in combinations(range(12), 3):
        wins = [sum((x, y) in beats for y in (a, b, c)) for x in (a, b, c)]
        full += sum(wins) == 3
        circular += wins == [1, 1, 1]
    assert three_cycle_rate(beats) == pytest.approx(circular / full)


def test_random_judgments_have_a_quarter_of_cycles():
    generator = np.random.default_rng(0)
    pairs = combinations(range(60), 2)
    judged = [(i, j) if generator.random() < 0.5 else (j, i) for i, j in pairs]
    assert three_cycle_rate(judged) == pytest.approx(0.25, abs=0.01)


def test_three_cycles_undecided():
    assert np.isnan(three_cycle_rate([]))
    assert np.isnan(three_cycle_rate([("a", "b"), ("b", "c")]))
    even = [("a", "b"), ("b", "a"), ("b", "c"), ("c", "a")]
    assert np.isnan(three_cycle_rate(even))


def test_a_missing_prediction_has_no_level():
    assert np.isnan(nearest_level([np.nan, 1.2], [0, 1, 2])).tolist() == [True, False]
