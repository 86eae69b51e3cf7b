"""Baselines learn what they are named for, and nothing else."""

from __future__ import annotations

import random

import pytest

from prm.errors import DataError
from prm.evaluation.baselines.steps import (
    STEP_BASELINES,
    AlwaysCorrect,
    BagOfWords,
    IndexAndLength,
    IndexOnly,
    StepLengthOnly,
)
from prm.metrics.binary import step_auroc
from prm.records import Chain


def chains(rule, count=200):
    """Return chains of four random steps, labeled by `rule(index, text)`."""
    generator = random.Random(0)
    made = []
    for _ in range(count):
        words = [generator.choices(["plus", "minus", "so", "3", "4"], k=k) for k in (2, 5, 3, 4)]
        generator.shuffle(words)
        steps = [" ".join(step) for step in words]
        made.append(Chain("What?", steps, [float(rule(i, s)) for i, s in enumerate(steps)]))
    return made


def auroc(baseline, data):
    baseline.fit(data[:100])
    predicted = [p for row in baseline.predict(data[100:]) for p in row]
    return step_auroc(predicted, [y for c in data[100:] for y in c.labels["correctness"]])


@pytest.mark.parametrize("kind", STEP_BASELINES, ids=lambda kind: kind.name)
def test_one_probability_per_step(kind):
    baseline = kind()
    data = chains(lambda i, s: i < 2)
    rows = baseline.fit(data).predict([*data[:3], Chain("New?", ["", "unseen words " * 9] * 30)])
    assert [len(row) for row in rows] == [4, 4, 4, 60]
    assert all(0 <= p <= 1 for row in rows for p in row)
    assert baseline.predict([]) == []


@pytest.mark.parametrize("kind", STEP_BASELINES[1:], ids=lambda kind: kind.name)
@pytest.mark.parametrize("labels", [None, [None, None]])
def test_unlabeled_training_is_refused(kind, labels):
    with pytest.raises(DataError, match="without a labeled step"):
        kind().fit([Chain("?", ["a", "b"], labels)])


@pytest.mark.parametrize("baseline", [StepLengthOnly(), BagOfWords()], ids=lambda b: b.name)
def test_one_class_is_refused_where_two_are_needed(baseline):
    with pytest.raises(DataError, match="both correct and wrong"):
        baseline.fit([Chain("?", ["a", "b"], [1, 1])])


def test_always_correct_needs_no_training():
    assert AlwaysCorrect().fit([]).predict([Chain("?", ["a", "b"])]) == [[1.0, 1.0]]


@pytest.mark.parametrize("baseline", [IndexOnly(), IndexAndLength()], ids=lambda b: b.name)
def test_an_index_learns_the_index_only(baseline):
    assert auroc(baseline, chains(lambda i, s: i < 2)) == 1.0
    assert auroc(baseline, chains(lambda i, s: "plus" in s)) < 0.65


def test_the_index_alone_does_not_tell_where_a_chain_ends():
    """Chains that end at their first error: their length is the label."""
    generator = random.Random(1)
    sizes = [generator.randint(2, 6) for _ in range(300)]
    data = [Chain("?", ["x"] * size, [1.0] * (size - 1) + [0.0]) for size in sizes]
    told = [baseline.fit(data).predict(data) for baseline in (IndexAndLength(), IndexOnly())]
    labels = [label for chain in data for label in chain.labels["correctness"]]
    found = [step_auroc([p for row in rows for p in row], labels) for rows in told]
    assert found[0] > 0.95
    assert found[1] < 0.85
    longer = Chain("?", ["x"] * 9)
    assert IndexOnly().fit(data).predict([longer])[0][:2] == told[1][0][:2]


def test_length_learns_length_only():
    assert auroc(StepLengthOnly(), chains(lambda i, s: len(s) > 14)) > 0.95
    assert auroc(StepLengthOnly(), chains(lambda i, s: i < 2)) < 0.65


def test_bag_of_words_learns_words_only():
    assert auroc(BagOfWords(), chains(lambda i, s: "minus" in s)) > 0.95
    assert auroc(BagOfWords(), chains(lambda i, s: i < 2)) < 0.65


def test_rare_places_are_drawn_to_the_overall_rate():
    data = [Chain("?", ["a", "b"], [1, 0])]
    first, second = IndexOnly(strength=5.0).fit(data).predict(data)[0]
    assert first == pytest.approx((1 + 2.5) / 6)
    assert second == pytest.approx(2.5 / 6)


def test_soft_labels_enter_the_rates():
    data = [Chain("?", ["a"], [0.25])]
    assert IndexOnly().fit(data).predict(data) == [[0.25]]


@pytest.mark.parametrize("kind", STEP_BASELINES[1:], ids=lambda kind: kind.name)
def test_labels_of_another_objective_are_learned(kind):
    labels = {"correctness": [1, 1], "novelty": [1, 0]}
    data = [Chain("?", ["a", "b b b b"], labels)] * 20
    first, second = kind("novelty").fit(data).predict(data)[0]
    assert first > 0.8 > 0.2 > second
