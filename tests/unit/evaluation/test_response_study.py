"""What is measured of responses: what is counted, compared and left undecided."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from prm.aggregation.objectives import WeightedSum
from prm.errors import DataError
from prm.evaluation.predictions import Predictions
from prm.evaluation.report import evaluate
from prm.evaluation.responses import ResponsePrediction
from prm.metrics.pairs import pair_accuracy
from prm.records import Comparison, Rating
from prm.report.evaluation import document
from prm.report.markdown import render
from prm.spec import ResponseHead, RewardSpec

SPEC = RewardSpec(
    response_heads=(
        ResponseHead("helpfulness"),
        ResponseHead("harm", direction="minimize"),
    ),
    objective_aggregation=WeightedSum(),
)
NAN = float("nan")


def predicted(record, scores, reason=""):
    """Return a prediction; `scores` has a row per response, or one score if there is one."""
    tensor = torch.tensor(scores, dtype=torch.float32).reshape(len(record.responses), 2)
    return ResponsePrediction(record, tensor, SPEC.rewards(tensor), reason)


def pair(number, objective="helpfulness", **fields):
    long_first = number % 3 > 0
    responses = ["a good 1", "bad."] if long_first else ["good", "an bad 1"]
    return Comparison(f"prompt {number}", responses, objective=objective, id=str(number), **fields)


def pair_predictions(count=60, skill=1.0, objective="helpfulness", seed=0, **fields):
    scores = torch.randn(count, 2, 2, generator=torch.Generator().manual_seed(seed))
    scores[:, 0, 0] += skill
    scores[:, 0, 1] -= skill
    return [predicted(pair(n, objective, **fields), row.tolist()) for n, row in enumerate(scores)]


def rated(count=80, objective="harm", values=(0.0, 1.0), seed=0, **fields):
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for n in range(count):
        value = values[n % len(values)]
        scores = torch.randn(2, generator=generator) + value
        record = Rating(f"prompt {n}", f"answer {n}", {objective: value}, id=str(n), **fields)
        rows.append(predicted(record, scores.tolist()))
    return rows


def records(predictions):
    return [prediction.record for prediction in predictions]


def report(predictions, training=None, **options):
    options = {"num_resamples": 50} | options
    return evaluate(Predictions(responses=predictions), SPEC, training, **options)


def test_pair_metrics_equal_the_pure_functions():
    predictions = pair_predictions()
    margins = [float(p.scores[0, 0] - p.scores[1, 0]) for p in predictions]
    model = report(predictions).objectives["helpfulness"].overall.scores["model"]
    assert model["pair_accuracy"].value == pytest.approx(pair_accuracy(margins, np.ones(60)))
    assert model["pair_accuracy"].low < model["pair_accuracy"].value < model["pair_accuracy"].high
    assert (model["pair_accuracy"].n, model["pair_accuracy"].num_groups) == (60, 60)
    assert model["auroc"].value is None
    assert model["auroc"].n == 0


def test_lower_is_better_where_the_spec_says_so():
    pairs = report(pair_predictions(skill=3.0, objective="harm")).objectives["harm"]
    assert pairs.overall.scores["model"]["pair_accuracy"].value > 0.9
    values = report(rated(400)).objectives["harm"].overall.scores["model"]
    assert values["auroc"].value > 0.7
    assert values["brier"].value < 0.3


def test_reward_is_measured_on_the_comparisons_of_each_objective():
    part = report(pair_predictions()).objectives["helpfulness"].overall
    assert part.scores["reward"]["pair_accuracy"].value > 0.6
    assert part.scores["reward"]["pair_nll"].value is None


def test_baselines_stand_beside_the_model_with_a_verdict():
    part = (
        report(pair_predictions(skill=3.0), [pair(n) for n in range(60)])
        .objectives["helpfulness"]
        .overall
    )
    assert list(part.scores) == ["model", "reward", "constant", "length_only", "tfidf"]
    gain = part.differences["length_only"]["pair_accuracy"]
    model, length = (part.scores[name]["pair_accuracy"].value for name in ("model", "length_only"))
    assert gain.value == pytest.approx(model - length)
    assert gain.verdict == "better"
    assert part.differences["constant"]["pair_nll"].verdict == "better"
    assert part.differences["tfidf"]["pair_accuracy"].verdict != "better"
    assert part.scores["constant"]["pair_accuracy"].value == 0
    assert part.scores["constant"]["pair_accuracy_half"].value == 0.5


def test_model_that_equals_a_baseline_is_not_better():
    predictions = [predicted(pair(n), [[0, 0], [0, 0]]) for n in range(20)]
    part = report(predictions, [pair(n) for n in range(20)]).objectives["helpfulness"].overall
    gain = part.differences["constant"]["pair_accuracy_half"]
    assert (gain.value, gain.low, gain.high, gain.verdict) == (0, 0, 0, "undecided")


def test_without_training_or_labels_in_it_baselines_are_missing_for_a_reason():
    result = report(pair_predictions()).objectives["helpfulness"]
    assert (result.overall.differences, result.baselines_missing) == (
        {},
        "no records to learn from",
    )
    result = report(pair_predictions(), records(rated())).objectives["helpfulness"]
    assert "cannot be fitted" in result.baselines_missing


def test_units_decide_squared_error_and_kappa():
    predictions = rated(objective="helpfulness", values=(1.0, 2.0, 3.0, 4.0))
    plain = report(predictions).objectives["helpfulness"].overall.scores["model"]
    assert plain["mse"].value is None
    assert plain["quadratic_kappa"].value is None
    assert plain["pearson"].value > 0.5
    graded = report(predictions, in_label_units=["helpfulness"]).objectives["helpfulness"]
    assert graded.overall.scores["model"]["mse"].value == pytest.approx(1, abs=0.5)
    assert graded.overall.scores["model"]["quadratic_kappa"].value > 0.4


def test_sources_subsets_and_the_weakest_domain():
    predictions = [
        *pair_predictions(40, 5.0, source="x", metadata={"subset": "easy"}),
        *pair_predictions(40, 0.0, source="x", metadata={"subset": "hard"}, seed=1),
        *pair_predictions(40, 5.0, source="y", seed=2),
    ]
    result = report(predictions).objectives["helpfulness"]
    assert list(result.sources) == ["x", "y"]
    assert list(result.subsets) == ["x/easy", "x/hard"]
    assert result.sources["x"].counts["num_comparisons"] == 80
    assert result.weakest_domain == "x/hard"
    hard = result.subsets["x/hard"].scores["model"]["pair_accuracy_half"].value
    lowest = result.minimum_domain["model"]
    assert lowest.value == pytest.approx(hard)
    assert (lowest.low, lowest.high) == (None, None)
    assert result.missing_domains == {}


def test_a_domain_that_was_not_scored_is_listed_and_missing():
    lost = [
        predicted(pair(n, source="code"), [[NAN, 0.0]] * 2, f"f.jsonl:{n}, row '{n}': no room")
        for n in range(42)
    ]
    found = report([*pair_predictions(20, source="chat"), *lost])
    assert found.responses.unscored == {"no room": 42}
    result = found.objectives["helpfulness"]
    assert list(result.sources) == ["chat", "code"]
    code = result.sources["code"]
    assert (code.scores["model"]["pair_accuracy"].n, code.num_lost) == (0, 42)
    assert code.scores["model"]["pair_accuracy"].value is None
    assert result.missing_domains == {"code": 42}
    text = render(document(found))
    assert "| code | 0 (42 not scored) | — |" in text
    assert "where it may be worse: code (42 records)" in text


def test_intervals_resample_whole_groups():
    alone = pair_predictions(40, 0.5)
    twins = [p for p in alone for _ in range(5)]
    one, five = (
        report(rows, num_resamples=200).objectives["helpfulness"].overall.scores["model"]
        for rows in (alone, twins)
    )
    assert five["pair_accuracy"].low == pytest.approx(one["pair_accuracy"].low)
    assert five["pair_accuracy"].num_groups == 40


def test_ties_and_rankings_are_counted():
    ranked = Comparison("?", ["a", "b", "c"], [0, 1, 1], objective="helpfulness")
    tie = Comparison("!", ["a", "b"], [0, 0], objective="helpfulness")
    rows = [predicted(ranked, [[3, 0], [1, 0], [4, 0]]), predicted(tie, [[9, 0], [0, 0]])]
    part = report(rows).objectives["helpfulness"].overall
    assert part.scores["model"]["pair_accuracy"].value == 0.5
    assert part.scores["model"]["pair_accuracy"].n == 1
    assert part.scores["model"]["kendall_tau"].value == pytest.approx(0, abs=1e-9)
    assert (part.counts["num_comparisons"], part.counts["num_tied_comparisons"]) == (1, 1)


def test_one_right_among_four_is_a_hit_only_if_it_beats_all_others():
    one = Comparison("A prime?", ["7", "8", "9", "10"], [0, 1, 1, 1], objective="helpfulness")
    scores = ([2, 3, 1, 0], [3, 2, 1, 0], [1, 1, 1, 1])
    rows = [predicted(one, [[score, 0] for score in row]) for row in scores]
    part = report(rows).objectives["helpfulness"].overall
    found = part.scores["model"]["best_of_k"]
    assert (found.value, found.n) == (pytest.approx((0 + 1 + 0.25) / 3), 3)
    assert [metric.name for metric in part.headlines] == ["pair_accuracy_half", "best_of_k"]


def test_unscored_records_are_left_out_for_all_and_make_the_report_partial():
    lost = predicted(pair(99), [[NAN, 0.0], [1.0, 0.0]], reason="too long")
    whole, with_lost = report(pair_predictions()), report([*pair_predictions(), lost])
    assert (whole.partial, with_lost.partial) == (False, True)
    assert with_lost.responses.unscored == {"too long": 1}
    part = with_lost.objectives["helpfulness"].overall
    assert part.counts["num_unscored"] == 1
    assert part.scores == whole.objectives["helpfulness"].overall.scores


def test_order_of_predictions_does_not_matter():
    rows = [*pair_predictions(), *rated()]
    forth, back = (report(r, records(rows)).to_dict() for r in (rows, rows[::-1]))
    assert forth["data_sha256"] == back["data_sha256"]
    for name in ("helpfulness", "harm"):
        for metric in ("pair_accuracy", "auroc"):
            one, other = (
                r["objectives"][name]["overall"]["scores"]["model"][metric] for r in (forth, back)
            )
            assert one == pytest.approx(other)


def test_correlations_of_scores_stand_beside_those_of_labels():
    values = [{"helpfulness": float(n % 3), "harm": float(-(n % 3))} for n in range(9)]
    rows = [
        predicted(Rating("?", str(n), value), [float(n), float(n)])
        for n, value in enumerate(values)
    ]
    result = report(rows)
    assert result.responses.head_correlations.values[0][1] == pytest.approx(1)
    assert result.responses.label_correlations.values[0][1] == pytest.approx(-1)
    assert result.responses.label_correlations.n == ((9, 9), (9, 9))


def test_objectives_without_a_head_are_counted():
    rows = [*pair_predictions(), predicted(pair(0, "style"), [[0, 0], [0, 0]])]
    result = report(rows)
    assert result.responses.other_objectives == {"style": 1}
    assert list(result.objectives) == ["helpfulness"]


@pytest.mark.parametrize(
    "rows",
    [
        [predicted(pair(0), [[1, 0], [0, 0]])],
        [predicted(pair(0), [[NAN, NAN], [NAN, NAN]], "cut")],
        [predicted(Rating("?", "a", {}), [0, 0])],
        [predicted(Rating("?", "a", {"harm": 1}), [0, 0])],
        [predicted(Comparison("?", ["a", "b"], [0, 0], objective="harm"), [[0, 0], [1, 1]])],
    ],
)
def test_next_to_nothing_is_strict_json(rows):
    text = json.dumps(report(rows, records(rows)).to_dict(), allow_nan=False)
    assert json.loads(text)["schema"] == "prm.outcome-report"


def test_nothing_and_wrong_shapes_are_refused():
    with pytest.raises(DataError, match="nothing to evaluate"):
        report([])
    with pytest.raises(DataError, match="helpfulness, harm"):
        report([ResponsePrediction(pair(0), torch.zeros(2, 3), torch.zeros(2))])
    with pytest.raises(DataError, match="rewards do not match"):
        ResponsePrediction(pair(0), torch.zeros(2, 2), torch.zeros(3))
