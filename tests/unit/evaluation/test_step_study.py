"""What is measured of steps: values by hand, invariances, partial runs, odd inputs."""

from __future__ import annotations

import json
import random
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prm.errors import DataError
from prm.evaluation.benchmarks.process_bench import SIZES
from prm.evaluation.predictions import Predictions
from prm.evaluation.report import evaluate
from prm.evaluation.steps import ScoredChains, StepPrediction
from prm.metrics.binary import ERROR_AP, STEP_AUROC
from prm.metrics.first_error import ChainUnits
from prm.metrics.intervals import cluster_bootstrap
from prm.records import Chain


def prediction(probabilities, labels=None, *, source="toy", group="", reason="", **metadata):
    steps = [f"step {index}" for index in range(len(probabilities))]
    chain = Chain("Why?", steps, labels, source=source, group=group, metadata=metadata)
    return StepPrediction(chain, tuple(probabilities), reason)


def report(rows, training=None, threshold=0.5, **options):
    return evaluate(Predictions(rows, threshold=threshold), training=training, **options)


def results(rows, training=None, **options):
    return report(rows, training, **options).steps


def value(found, name, scorer="model"):
    return found.overall.scores[scorer][name].value


SIMPLE = [
    prediction([0.9, 0.2, 0.8], [1, 0, None], group="a"),
    prediction([0.9, 0.8, 0.3], [1, 0, None], group="b"),
    prediction([0.9, 0.7], [1, 1], group="c"),
    prediction([0.9, 0.4], [1, 1], group="c"),
]


def test_values_by_hand():
    found = results(SIMPLE, num_resamples=50)
    assert value(found, "error_acc") == 0.5
    assert value(found, "correct_acc") == 0.5
    assert value(found, "processbench_f1") == 0.5
    assert value(found, "first_error_accuracy") == 0.5
    assert value(found, "error_recall") == 1.0
    assert value(found, "min_on_last_step") == 0.75
    # Wrong .2 and .8 against correct .9 .9 .9 .7 .9 .4: 6 of 6 and 4 of 6 pairs.
    assert value(found, "step_auroc") == pytest.approx(10 / 12)
    assert found.first_error_offsets == {"0": 1, "1": 1, "missed": 0, "unscored": 0}
    counts = found.overall.counts
    assert (counts["num_chains"], counts["num_groups"], counts["num_labeled_steps"]) == (4, 3, 8)
    assert found.overall.scores["model"]["error_acc"].n == 2


def test_oracle_is_an_upper_bound_under_its_own_key():
    oracle = results(SIMPLE, num_resamples=0).overall.oracle["model"]
    assert set(oracle) == {"threshold_oracle", "processbench_f1_oracle"}
    assert oracle["threshold_oracle"] == 0.4
    assert oracle["processbench_f1_oracle"] == pytest.approx(2 / 3)


def test_always_correct_is_always_there():
    found = results(SIMPLE, num_resamples=0)
    assert list(found.overall.scores) == ["model", "always_correct"]
    assert value(found, "step_auroc", "always_correct") == 0.5
    assert value(found, "processbench_f1", "always_correct") == 0.0


def test_learned_baselines_are_measured_on_the_steps_the_model_scored():
    half = prediction([0.9, None], [1, 0], reason="truncated", group="z")
    train = [Chain("?", ["good", "bad bad"], [1, 0])]
    found = results([*SIMPLE, half], training=train, num_resamples=0)
    names = ["model", "always_correct", "index_only", "index_and_length"]
    names += ["length_only", "bag_of_words"]
    assert list(found.overall.scores) == names
    assert found.overall.counts["num_labeled_steps"] == 9
    assert {row["brier"].n for row in found.overall.scores.values()} == {9}


def test_macro_is_unweighted_and_kept_apart_from_the_weighted_mean():
    good = [prediction([0.1], [0], source="a", group="1")]
    good += [prediction([0.9], [1], source="a", group="2")]
    bad = [prediction([0.9], [0], source="b", group=str(i)) for i in range(3, 6)]
    bad += [prediction([0.9], [1], source="b", group="6")] * 3
    means = results(good + bad, num_resamples=0).means.scores["model"]
    assert means["macro_f1"].value == pytest.approx(0.5)
    assert means["count_weighted_f1"].value == pytest.approx(2 / 8)


def test_part_of_processbench_is_marked_partial():
    rows = [prediction([0.9], [1], source="processbench/gsm8k", group="1")] * 400
    whole = report(rows, num_resamples=0)
    assert whole.partial
    assert whole.missing == {"math": 1000, "olympiadbench": 1000, "omnimath": 1000}
    assert whole.to_dict()["partial"] is True


def test_whole_processbench_is_not_partial_and_a_limited_one_is():
    rows = [
        prediction([0.9], [1], source=f"processbench/{name}", group="1")
        for name, size in SIZES.items()
        for _ in range(size)
    ]
    assert not report(rows, num_resamples=0).partial
    assert report(rows[1:], num_resamples=0).missing == {"gsm8k": 1}


def test_other_sources_are_no_benchmark():
    found = report(SIMPLE, num_resamples=0)
    assert (found.benchmark, found.partial) == (None, False)


def test_right_answer_by_a_wrong_process_is_counted_apart():
    rows = [
        prediction([0.2, 0.9], [0, None], group="a", final_answer_correct=True),
        prediction([0.9, 0.9], [0, None], group="b", final_answer_correct=True),
        prediction([0.9, 0.9], [1, 1], group="c", final_answer_correct=True),
        prediction([0.2, 0.9], [0, None], group="d", final_answer_correct=False),
    ]
    part = results(rows, num_resamples=0).breakdowns["right_answer_wrong_process"]["true"]
    assert part.counts["num_chains"] == 2
    assert part.scores["model"]["error_recall"].value == 0.5


def test_breakdowns_follow_metadata():
    rows = [
        prediction([0.2], [0], group="a", error_kind="carry", difficulty=1),
        prediction([0.9], [1], group="b", error_kind=None, difficulty=2),
    ]
    found = results(rows, num_resamples=0)
    assert list(found.breakdowns["error_kind"]) == ["carry"]
    assert list(found.breakdowns["difficulty"]) == ["1", "2"]
    assert results(SIMPLE, num_resamples=0).breakdowns == {}


def test_cut_chains_are_counted_and_never_right_by_default():
    rows = [
        prediction([0.9, None], [1, 1], reason="truncated at 9 tokens", group="a"),
        prediction([0.9, None], [1, 0], reason="truncated at 9 tokens", group="b"),
        prediction([None, None], [1, 1], reason="prompt too long", group="c"),
    ]
    found = results(rows, num_resamples=0)
    assert value(found, "correct_acc") == 0.0
    assert value(found, "error_acc") == 0.0
    assert found.first_error_offsets == {"missed": 0, "unscored": 1}
    counts = found.overall.counts
    assert (counts["num_truncated_chains"], counts["num_unscored_steps"]) == (3, 4)


def test_empty_step_is_passed_over_without_a_reason():
    chain = Chain("?", ["a", " ", "b"], [1, 1, 1])
    assert StepPrediction(chain, (0.9, None, 0.8)).first_error(0.5) == -1


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        ((0.9,), "do not match the steps"),
        ((0.9, 1.1), "probability 1 is wrong"),
        ((float("nan"), 0.1), "probability 0 is wrong"),
        ((0.9, None), "no probability and no reason"),
    ],
)
def test_bad_predictions_name_the_row(probabilities, message):
    chain = Chain("?", ["a", "b"], id="r7", origin="x.jsonl:3")
    with pytest.raises(DataError, match=rf"x\.jsonl:3, row 'r7': .*{message}"):
        StepPrediction(chain, probabilities)


def test_nothing_to_evaluate_is_an_error():
    with pytest.raises(DataError, match="nothing to evaluate"):
        evaluate(Predictions())


@pytest.mark.parametrize(
    "rows",
    [
        [prediction([0.9, 0.2])],
        [prediction([0.9, 0.2], [1, 1])],
        [prediction([0.5], [0])],
        [prediction([None], [0], reason="too long")],
    ],
    ids=["unlabeled", "one class", "one step", "unscored"],
)
def test_undecided_values_are_null_and_the_report_is_json(rows):
    found = results(rows, num_resamples=20)
    assert value(found, "step_auroc") is None
    text = json.dumps(report(rows, num_resamples=20).to_dict(), allow_nan=False)
    assert json.loads(text)["schema_version"] == 1
    assert found.overall.scores["model"]["step_auroc"].low is None


ROWS = st.lists(
    st.tuples(
        st.lists(st.tuples(st.integers(0, 16), st.sampled_from([0, 1, None])), min_size=1),
        st.integers(0, 4),
        st.sampled_from(["x", "y"]),
    ),
    min_size=1,
    max_size=12,
)


def made(rows, change=lambda p: p):
    return [
        prediction(
            [change(n / 16) for n, _ in steps], [y for _, y in steps], source=s, group=str(g)
        )
        for steps, g, s in rows
    ]


def numbers(found):
    plain = found.to_dict()
    kept = {key: plain[key] for key in ("overall", "sources", "means", "first_error_offsets")}
    return json.loads(json.dumps(kept), parse_float=lambda text: round(float(text), 9))


@settings(max_examples=20, deadline=None)
@given(ROWS, st.randoms(use_true_random=False))
def test_order_of_chains_does_not_matter(rows, generator: random.Random):
    shuffled = generator.sample(rows, len(rows))
    one, other = (report(made(r), num_resamples=10) for r in (rows, shuffled))
    assert numbers(one) == numbers(other)
    assert one.data_sha256 == other.data_sha256


@settings(max_examples=20, deadline=None)
@given(ROWS)
def test_increasing_map_keeps_everything_but_calibration(rows):
    def scores(predictions, threshold):
        bootstrap = partial(cluster_bootstrap, num_resamples=10)
        return ScoredChains({"model": predictions}, threshold).part(bootstrap).scores["model"]

    plain = scores(made(rows), 0.5)
    mapped = scores(made(rows, lambda p: p**2 / 2), 0.5**2 / 2)
    for metric in (STEP_AUROC, ERROR_AP, *ChainUnits.metrics):
        assert mapped[metric.name] == plain[metric.name]


def test_kinds_of_a_benchmark_are_shown_apart():
    kinds = ("confidence", "deception")
    rows = [prediction([0.9, 0.5], [1, 0], classification=kind) for kind in kinds]
    found = results(rows, num_resamples=0)
    assert list(found.breakdowns["classification"]) == list(kinds)
    assert value(found, "prm_score") == 1.0
