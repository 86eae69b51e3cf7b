"""The audit on a table small enough to be done by hand, and what it may not depend on."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from stored_scores import make_rows, make_spec, write_rows

from prm.aggregation.objectives import Lagrangian, WeightedSum, WorstCase
from prm.audit.tradeoffs import audit_tradeoffs
from prm.errors import DataError
from prm.scores.stored import read_scores
from prm.spec import ResponseHead, RewardSpec

PLAIN = RewardSpec(
    response_heads=(ResponseHead("help"), ResponseHead("safe")),
    objective_aggregation=WeightedSum({"help": 1.0, "safe": 1.0}),
)
SCORES = [
    ("a", (4.0, 0.0)),  # wins with equal weights, and for help alone
    ("a", (1.0, 2.0)),  # wins in the worst case, and for safety alone
    ("a", (0.0, 1.0)),  # dominated
    ("b", (2.0, 2.0)),  # best in everything
    ("b", (1.0, 1.0)),
    ("c", (9.0, 9.0)),  # no rival
    ("d", (1.0, None)),  # no score of safety
    ("d", (1.0, 1.0)),
]


def audit(tmp_path, scores=SCORES, base=None, spec=PLAIN):
    table = read_scores(write_rows(tmp_path / "s.jsonl", make_rows(scores, spec), spec))
    return audit_tradeoffs(table, base or spec.objective_aggregation)


@pytest.fixture
def report(tmp_path):
    return audit(tmp_path)


def test_what_was_left_out_is_counted(report):
    assert report.counts == {
        "num_rows": 8,
        "num_rows_without_a_score": 1,
        "num_rows_cut_off": 0,
        "num_rows_without_a_rival": 2,
        "num_candidates": 5,
        "num_prompts": 2,
        "num_pairs": 4,
    }


def test_winners_by_hand(report):
    choices = report.choices
    changed = {name: choice.changed.value for name, choice in choices.items()}
    assert changed == {
        "base": 0.0,
        "equal weights": 0.0,
        "worst case": 0.5,
        "help only": 0.0,
        "safe only": 0.5,
    }
    assert choices["base"].utilities == {"help": 3.0, "safe": 1.0}
    assert choices["worst case"].scores == {"help": 1.5, "safe": 2.0}
    assert choices["base"].dominated == 0.0
    assert choices["worst case"].pairs_flipped == 1 / 4  # one of four, one is tied
    assert choices["safe only"].tied == 0.0
    assert report.agreement["base"]["worst case"] == 0.5
    assert report.references["the best in each objective"] == {"help": 3.0, "safe": 2.0}


def test_weights_by_hand(report):
    by_factor = {flip.setting: flip.changed for flip in report.by_weight["safe"]}
    # 4 + 0 w against 1 + 2 w: another response wins where w > 1.5
    assert [by_factor[factor] for factor in (0.0, 1.0, 1.4, 2.0, 8.0)] == [0, 0, 0, 0.5, 0.5]
    by_share = {flip.setting: flip.changed for flip in report.by_share["help / safe"]}
    assert [by_share[share] for share in (0.0, 0.3, 0.5, 1.0)] == [0.5, 0.5, 0.0, 0.0]


def test_exchange_rates_by_hand(tmp_path):
    report = audit(tmp_path, base=WeightedSum({"help": 1.0, "safe": 3.0}))
    rates = {(item.gained, item.given): item for item in report.exchange}
    assert rates["safe", "help"].rate == pytest.approx(3.0)
    assert rates["help", "safe"].rate == pytest.approx(1 / 3)
    assert rates["safe", "help"].paid == pytest.approx(3 / 2)
    assert rates["help", "safe"].num_conflicts == 1


def test_the_worst_case_gives_nothing_for_the_better_objective(tmp_path):
    report = audit(tmp_path, [("a", (1.0, 3.0)), ("a", (0.0, 4.0))], WorstCase())
    rates = {(item.gained, item.given): item.rate for item in report.exchange}
    assert rates == {("help", "safe"): None, ("safe", "help"): 0.0}
    assert report.swept["name"] == "weighted_sum"


def test_pareto_front_by_hand(report):
    assert report.pareto.mean_front == 1.5
    assert report.pareto.mean_candidates == 2.5
    assert report.pareto.single == 0.5
    assert report.pareto.undominated == pytest.approx(3 / 5)


def random_scores(seed=0, num=60):
    generator = np.random.default_rng(seed)
    return [(str(i // 4), tuple(generator.normal(size=3).round(3).tolist())) for i in range(num)]


def flips(report):
    return {name: choice.changed.value for name, choice in report.choices.items()}


@pytest.mark.parametrize("seed", range(3))
def test_the_scale_of_weights_changes_no_decision(tmp_path, seed):
    weights = {"helpfulness": 1.0, "safety": 0.5, "verbosity": 0.25}
    scaled = {name: 7.0 * weight for name, weight in weights.items()}
    first, second = (
        audit(tmp_path, random_scores(seed), WeightedSum(values), make_spec())
        for values in (weights, scaled)
    )
    assert flips(first) == flips(second)
    assert first.by_weight == second.by_weight
    assert first.sensitivity == second.sensitivity


@pytest.mark.parametrize("seed", range(3))
def test_a_constant_objective_changes_no_decision(tmp_path, seed):
    scores = [(prompt, (a, b, 1.5)) for prompt, (a, b, _) in random_scores(seed)]
    report = audit(tmp_path, scores, spec=make_spec())
    assert {flip.changed for flip in report.by_weight["verbosity"]} == {0.0}
    assert report.sensitivity["verbosity"].changed == 0.0
    assert report.choices["verbosity only"].tied == 1.0
    assert report.correlation["verbosity"]["safety"] is None


def test_a_linear_constraint_is_swept_by_all_its_weights(tmp_path):
    base = Lagrangian("safety", 2.0)
    report = audit(tmp_path, random_scores(), base, make_spec())
    assert report.swept["weights"]["safety"] == pytest.approx(2 / 3)
    assert all(row[5].changed == 0.0 for row in report.by_weight.values())


def test_the_json_is_whole(report):
    stored = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert (stored["schema"], stored["schema_version"]) == ("prm.tradeoff-report", 1)
    assert stored["choices"]["worst case"]["changed"]["n"] == 2
    assert "scatter" not in stored


def test_weights_that_would_all_be_zero_are_left_out(tmp_path):
    report = audit(tmp_path, base=WeightedSum({"help": 1.0, "safe": 0.0}))
    assert report.by_weight["help"][0].changed is None
    assert math.isfinite(report.by_share["help / safe"][0].changed)


def test_nothing_to_choose_between_is_refused(tmp_path):
    with pytest.raises(DataError, match="nothing to choose between"):
        audit(tmp_path, SCORES[5:])
