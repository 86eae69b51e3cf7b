"""Baselines learn what they are named for, from pairs and from values, and nothing else."""

from __future__ import annotations

import random

import numpy as np
import pytest

from prm.errors import DataError
from prm.evaluation.baselines.responses import (
    RESPONSE_BASELINES,
    Constant,
    ResponseLengthOnly,
    TfIdf,
)
from prm.records import Comparison, Rating

WORDS = ["plus", "minus", "so", "three", "then"]


def texts(count, seed=0):
    generator = random.Random(seed)
    return [" ".join(generator.choices(WORDS, k=generator.randint(3, 9))) for _ in range(count)]


def pairs(rule, seed=0):
    """Return comparisons of two random texts, the one with the higher `rule(text)` first."""
    both = zip(texts(300, seed), texts(300, seed + 1), strict=True)
    sets = [sorted(pair, key=rule, reverse=True) for pair in both if rule(pair[0]) != rule(pair[1])]
    return [Comparison("?", best_first, objective="style") for best_first in sets]


def ratings(rule, seed=0):
    return [Rating("?", text, {"style": rule(text)}) for text in texts(300, seed)]


def accuracy(baseline, records):
    utilities = baseline.utilities(records).reshape(-1, 2)
    return (utilities[:, 0] > utilities[:, 1]).mean()


def has_minus(text):
    return float("minus" in text)


@pytest.mark.parametrize("train", [pairs, ratings])
def test_tfidf_learns_words(train):
    baseline = TfIdf("style").fit(train(has_minus))
    assert accuracy(baseline, pairs(has_minus, seed=7)) > 0.95
    baseline = TfIdf("style").fit(train(lambda text: float(len(text.split()) % 2)))
    assert accuracy(baseline, pairs(has_minus, seed=7)) < 0.75


@pytest.mark.parametrize("train", [pairs, ratings])
def test_length_learns_length(train):
    baseline = ResponseLengthOnly("style").fit(train(len))
    assert accuracy(baseline, pairs(len, seed=7)) > 0.98
    against = ResponseLengthOnly("style").fit(train(lambda text: -len(text)))
    assert accuracy(against, pairs(len, 7)) < 0.02


@pytest.mark.parametrize("kind", RESPONSE_BASELINES)
def test_lower_is_better_turns_utilities_and_keeps_values(kind):
    records = ratings(lambda text: float(len(text)))
    up, down = kind("style").fit(records), kind("style", -1).fit(records)
    high, low = up.utilities(records), down.utilities(records)
    np.testing.assert_allclose(high, -low, atol=0.01)
    np.testing.assert_allclose(up.values(high), down.values(low), atol=0.1)


def test_values_are_in_the_units_of_the_labels():
    records = [Rating("?", "a", {"style": value}) for value in (1, 1, 5, 5, 5)]
    baseline = Constant("style").fit(records)
    assert baseline.values(baseline.utilities(records)) == pytest.approx(3.4)


def test_pairs_and_values_are_learned_together():
    records = [*pairs(has_minus), *ratings(has_minus)]
    assert accuracy(TfIdf("style").fit(records), pairs(has_minus, seed=7)) > 0.95


def test_rankings_of_many_and_other_objectives():
    ranked = [Comparison("?", [f"a {'b ' * n}" for n in (9, 5, 1)], objective="style")] * 5
    other = Comparison("?", ["a", "b b b b b b"], objective="other")
    baseline = ResponseLengthOnly("style").fit([other, *ranked, other])
    assert np.all(np.diff(baseline.utilities(ranked[:1])) < 0)


@pytest.mark.parametrize("kind", RESPONSE_BASELINES)
@pytest.mark.parametrize(
    "records",
    [
        [],
        [Rating("?", "a", {"style": 1})] * 2,
        [Rating("?", "a", {"style": None})],
        [Comparison("?", ["a", "b"], [0, 0], objective="style")],
    ],
)
def test_labels_that_decide_nothing_are_refused(kind, records):
    with pytest.raises(DataError, match="cannot be fitted"):
        kind("style").fit(records)


@pytest.mark.parametrize("kind", RESPONSE_BASELINES)
def test_empty_texts_and_no_records(kind):
    baseline = kind("style").fit(pairs(len)[:1])
    assert baseline.utilities([]).shape == (0,)
    assert np.isfinite(baseline.utilities([Rating("", "", {})])).all()


@pytest.mark.parametrize("kind", RESPONSE_BASELINES)
def test_fits_are_reproducible(kind):
    records = pairs(has_minus)
    first, second = (kind("style").fit(records).utilities(records) for _ in range(2))
    np.testing.assert_array_equal(first, second)
