from __future__ import annotations

import json
from dataclasses import replace

import pytest

from prm.aggregation.objectives import WeightedSum, WorstCase
from prm.aggregation.steps import Mean
from prm.errors import ConfigError, DataError
from prm.records import Chain
from prm.scores.chains import ChainScore
from prm.scores.reaggregate import reaggregate, with_aggregations
from prm.scores.responses import ResponseScore
from prm.scoring.scorer import RewardScorer
from tests.outcome_models import RESPONSES, outcome_model
from tests.tiny_models import tiny_model

CHAIN = Chain("What is 2 + 3 * 4?", ["3 * 4 = 12", "", "2 + 12 = 15"], id="a")


def test_chains_are_aggregated_as_if_they_were_scored_so() -> None:
    scorer, other = RewardScorer(tiny_model()), RewardScorer(tiny_model(), "mean")
    score = scorer.score(CHAIN)[0]

    again = reaggregate(score, with_aggregations(scorer.spec, Mean(), None))

    assert again == other.score(CHAIN)[0] != score


def test_responses_are_aggregated_as_if_they_were_scored_so() -> None:
    scorer = RewardScorer(outcome_model())
    other = RewardScorer(outcome_model(), objective_aggregation=WorstCase())
    spec = with_aggregations(scorer.spec, None, WorstCase())

    again = [reaggregate(score, spec) for score in scorer.score(RESPONSES)]

    for mine, expected in zip(again, other.score(RESPONSES), strict=True):
        assert mine.reward == pytest.approx(expected.reward, abs=1e-9)
        assert mine.utilities == pytest.approx(expected.utilities)
        assert mine.aggregation == expected.aggregation == "worst_case"


def test_a_score_survives_its_row() -> None:
    chain = RewardScorer(tiny_model()).score(CHAIN)[0]
    response = RewardScorer(outcome_model()).score(RESPONSES[:1])[0]

    assert ChainScore.from_row(json.loads(json.dumps(chain.to_row())), tiny_model().spec) == chain
    assert ResponseScore.from_row(json.loads(json.dumps(response.to_row()))) == response


def test_an_objective_that_does_not_apply_is_missing_and_never_zero() -> None:
    model = outcome_model()
    score = RewardScorer(model).score(RESPONSES[:1])[0]
    renormalized = with_aggregations(model.spec, None, WeightedSum(missing="renormalize"))

    strict = reaggregate(score, model.spec, applicable=["helpfulness"])
    lenient = reaggregate(score, renormalized, applicable=["helpfulness"])

    assert strict.reward is None
    assert strict.reason == "no reward without toxicity"
    assert strict.utilities["toxicity"] is None
    assert strict.scores == score.scores
    assert lenient.reward == pytest.approx(score.utilities["helpfulness"])
    assert not lenient.reason


def test_a_chain_whose_objective_does_not_apply_has_no_reward() -> None:
    model = tiny_model()
    score = reaggregate(RewardScorer(model).score(CHAIN)[0], model.spec, applicable=[])

    assert (score.reward, score.scores) == (None, {"correctness": None})
    assert score.reason == "correctness does not apply"


def test_what_was_left_out_stays_left_out() -> None:
    model = outcome_model(max_length=4)
    score = RewardScorer(model).score(RESPONSES[:1])[0]

    again = reaggregate(score, with_aggregations(model.spec, None, WorstCase()))

    assert again == replace(score, aggregation="worst_case")
    assert again.reward is None
    assert again.reason


def test_other_objectives_are_refused() -> None:
    model = outcome_model()
    score = RewardScorer(model).score(RESPONSES[:1])[0]

    with pytest.raises(DataError, match="not of this model"):
        reaggregate(replace(score, scores={"safety": 1.0}), model.spec)
    with pytest.raises(DataError, match=r"no such objective to apply.*saftey"):
        reaggregate(score, model.spec, applicable=["saftey"])


def test_gates_that_are_missing_are_named() -> None:
    from prm.aggregation.gates import Gated

    model = outcome_model()
    score = RewardScorer(model).score(RESPONSES[:1])[0]

    with pytest.raises(ConfigError, match="needs the gates"):
        reaggregate(score, with_aggregations(model.spec, None, Gated()))
