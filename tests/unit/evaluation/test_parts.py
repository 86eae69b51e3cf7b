"""The model beside baselines on the same resamples: differences and verdicts by hand."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from prm.evaluation.parts import measure_part
from prm.evaluation.predictions import Predictions
from prm.evaluation.report import evaluate
from prm.evaluation.steps import StepPrediction
from prm.metrics.binary import StepUnits
from prm.metrics.first_error import ChainUnits
from prm.metrics.intervals import cluster_bootstrap
from prm.records import Chain

BOOTSTRAP = partial(cluster_bootstrap, num_resamples=200)


def prediction(probabilities, labels, group, source="toy"):
    steps = [f"step {index}" for index in range(len(probabilities))]
    return StepPrediction(Chain("Why?", steps, labels, source=source, group=group), probabilities)


def results(rows, **options):
    return evaluate(Predictions(rows), num_resamples=200, **options).steps


BY_HAND = [
    prediction((0.9, 0.2), [1, 0], "a"),
    prediction((0.9, 0.8), [1, 0], "b"),
    prediction((0.9, 0.7), [1, 1], "c"),
    prediction((0.9, 0.4), [1, 1], "c"),
]


def test_differences_of_a_process_model_by_hand():
    found = results(BY_HAND)
    gains = found.overall.differences["always_correct"]
    # The model finds one of two errors, and flags one of two clean chains.
    assert gains["error_acc"].value == 0.5 - 0
    assert gains["correct_acc"].value == 0.5 - 1
    assert gains["processbench_f1"].value == 0.5 - 0
    # .2 and .8 against .9 .9 .9 .7 .9 .4: 6 and 4 of 6 pairs; equal scores are right by half.
    assert gains["step_auroc"].value == pytest.approx(10 / 12 - 1 / 2)
    squares = [0.01, 0.04, 0.01, 0.64, 0.01, 0.09, 0.01, 0.36]
    assert gains["brier"].value == pytest.approx(np.mean(squares) - 2 / 8)
    assert (gains["error_acc"].n, gains["brier"].n, gains["brier"].num_groups) == (2, 8, 3)
    for name, gain in gains.items():
        model, base = (found.overall.scores[s][name] for s in ("model", "always_correct"))
        if model.value is None or base.value is None:
            assert gain.value is None
        else:
            assert gain.value == pytest.approx(model.value - base.value)


def many(flag_wrong, flag_right=0.9, count=30):
    """Return a clean and an erroneous chain per problem, with these probabilities."""
    wrong = [prediction((0.9, flag_wrong), [1, 0], str(n)) for n in range(count)]
    return [*wrong, *(prediction((0.9, flag_right), [1, 1], str(n)) for n in range(count))]


def test_verdicts_follow_interval_and_direction():
    good = results(many(0.1)).overall.differences["always_correct"]
    assert (good["error_acc"].low, good["error_acc"].high) == (1, 1)
    assert good["error_acc"].verdict == good["step_auroc"].verdict == "better"
    assert good["brier"].value < 0
    assert good["brier"].verdict == "better"
    assert (good["correct_acc"].value, good["correct_acc"].verdict) == (0, "undecided")
    assert good["min_on_last_step"].value == 0.5
    assert good["min_on_last_step"].verdict is None
    bad = results(many(0.9, 0.1)).overall.differences["always_correct"]
    assert (
        bad["correct_acc"].verdict == bad["step_auroc"].verdict == bad["brier"].verdict == "worse"
    )


def test_one_problem_decides_nothing():
    gain = results([prediction((0.9, 0.2), [1, 0], "a")]).overall.differences["always_correct"]
    assert gain["step_auroc"].value == 0.5
    assert (gain["step_auroc"].low, gain["step_auroc"].verdict) == (None, None)


def noisy(count=40, seed=0):
    generator = np.random.default_rng(seed)
    return [
        prediction(tuple(generator.random(2).tolist()), [1, int(generator.random() < 0.5)], str(n))
        for n in range(count)
    ]


def test_intervals_of_differences_resample_whole_problems():
    alone = noisy()
    twins = [row for row in alone for _ in range(5)]
    one, five = (results(rows).overall.differences["always_correct"] for rows in (alone, twins))
    for name in ("step_auroc", "brier", "error_acc"):
        assert five[name].low == pytest.approx(one[name].low)
        assert five[name].high == pytest.approx(one[name].high)
    assert (five["brier"].num_groups, five["brier"].n) == (40, 5 * one["brier"].n)


def test_layouts_of_a_problem_are_one_problem_to_an_interval():
    """Copies in another layout, under another group, do not narrow an interval."""

    def laid_out(row, number, layout):
        prompt = layout.format(number)
        chain = Chain(prompt, row.chain.completions, row.chain.labels, source="toy", group=prompt)
        return StepPrediction(chain, row.probabilities)

    layouts = [r"Is ${} \times 3$ odd?", "Is {} × 3 odd?", "Question: is {}*3 odd?"]
    alone = [laid_out(row, n, layouts[0]) for n, row in enumerate(noisy())]
    copies = [laid_out(row, n, one) for n, row in enumerate(noisy()) for one in layouts]
    one, three = (results(rows).overall.scores["model"]["step_auroc"] for rows in (alone, copies))
    assert (three.num_groups, three.n) == (40, 3 * one.n)
    assert three.low == pytest.approx(one.low)
    assert three.high == pytest.approx(one.high)


def test_both_are_measured_on_the_same_resamples():
    """Against a baseline that is the model and a constant, the interval has no width."""
    generator = np.random.default_rng(0)
    label, groups = generator.integers(0, 2, 50).astype(float), np.arange(50) % 20
    p = generator.random(50)
    scorers = {name: [StepUnits(p, label, groups)] for name in ("model", "twin")}
    part = measure_part(scorers, 20, {}, BOOTSTRAP)
    gain = part.differences["twin"]["step_auroc"]
    assert (gain.value, gain.low, gain.high, gain.verdict) == (0, 0, 0, "undecided")
    assert part.scores["model"]["step_auroc"].low < part.scores["model"]["step_auroc"].high


def test_sources_and_their_mean_have_differences():
    rows = [prediction((0.9, 0.1), [1, 0], str(n), source="x") for n in range(20)]
    rows += [prediction((0.9, 0.9), [1, 1], str(n), source="x") for n in range(20)]
    rows += [prediction((0.9, 0.9), [1, 0], str(n), source="y") for n in range(20)]
    rows += [prediction((0.9, 0.9), [1, 1], str(n), source="y") for n in range(20)]
    found = results(rows)
    by_source = {name: part.differences["always_correct"] for name, part in found.sources.items()}
    assert by_source["x"]["processbench_f1"].verdict == "better"
    assert by_source["y"]["processbench_f1"].verdict == "undecided"
    mean = found.means.differences["always_correct"]["macro_f1"]
    assert (mean.value, mean.low, mean.verdict) == (0.5, 0.5, "better")
    stored = found.to_dict()
    kept = stored["sources"]["always_correct"]["x"]["differences"]["processbench_f1"]
    assert (kept["value"], kept["verdict"]) == (1, "better")
    assert stored["mean_differences"]["always_correct"]["macro_f1"]["verdict"] == "better"
    assert stored["overall"]["model"]["differences"] == {}


def test_headlines_are_the_first_of_each_kind_that_the_data_decide():
    part = results(many(0.1)).overall
    assert [metric.name for metric in part.headlines] == ["step_auroc", "processbench_f1"]
    clean = results([prediction((0.9, 0.9), [1, 1], str(n)) for n in range(3)]).overall
    assert clean.headlines == ()
    assert "brier" in {metric.name for metric in clean.decided}


def test_labels_of_the_rewarded_objective_are_what_counts():
    labels = {"correctness": [1, 1], "novelty": [1, 0]}
    chain = Chain("Why?", ["a", "b"], labels, group="g")
    row = StepPrediction(chain, (0.9, 0.2), objective="novelty")
    found = evaluate(Predictions([row]), num_resamples=0).steps.overall.scores["model"]
    assert (row.true_first_error, row.to_row(0.5)["labels"]) == (1, (1, 0))
    assert found["error_acc"].value == 1


def test_kinds_of_units_stand_side_by_side():
    groups = np.array([0, 1])
    units = [
        StepUnits(np.array([0.9, 0.1]), np.array([1.0, 0.0]), groups),
        ChainUnits(np.array([0, -1]), np.array([0, -1]), np.array([np.nan, np.nan]), groups),
    ]
    part = measure_part({"model": units}, 2, {"num_chains": 2}, BOOTSTRAP)
    assert part.kinds == (tuple(StepUnits.metrics), tuple(ChainUnits.metrics))
    assert list(part.scores["model"]) == [metric.name for metric in part.metrics]
    assert part.differences == {}
