"""Scores of single responses: which ones, under which names, and what they hold."""

from __future__ import annotations

import json
import math

import pytest
import torch
from outcome_models import RESPONSES, SPREAD_OBJECTIVES, outcome_model, outcome_spec

from prm.aggregation.normalize import ZScore
from prm.aggregation.objectives import WeightedSum, WorstCase
from prm.data.formats.outcomes import Outcomes
from prm.errors import ConfigError, DataError, ModelError
from prm.models.reward_model import RewardModel
from prm.records import Chain, Comparison, Rating
from prm.scores.responses import RESPONSE, ResponseScore, single_responses
from prm.scoring.scorer import RewardScorer


@pytest.fixture(scope="module")
def model() -> RewardModel:
    return outcome_model(response_heads=SPREAD_OBJECTIVES, max_length=64)


@pytest.fixture(scope="module")
def scorer(model: RewardModel) -> RewardScorer:
    return RewardScorer(model)


def singles(*rows: dict[str, object]) -> list[tuple[str, object, str]]:
    """Return (id, index, response) of each distinct response of canonical rows."""
    records = [
        record
        for index, row in enumerate(rows)
        for record in Outcomes().records({"prompt": "p?", "objective": "help"} | row, f"f:{index}")
    ]
    found = single_responses(records)
    return [(rating.id, rating.metadata[RESPONSE], rating.response) for rating in found]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"response": "a"}, [("x", 0, "a")]),
        ({"chosen": "a", "rejected": "b"}, [("x", 0, "a"), ("x", 1, "b")]),
        ({"responses": ["a", "b", "c"]}, [("x", 0, "a"), ("x", 1, "b"), ("x", 2, "c")]),
        ({"responses": ["a"]}, [("x", 0, "a")]),
        ({"responses": ["a", "b"], "ranks": [0, 0]}, [("x", 0, "a"), ("x", 1, "b")]),
        ({"responses": ["a", "a", "b"]}, [("x", 0, "a"), ("x", 2, "b")]),
    ],
)
def test_each_distinct_response_comes_once(
    row: dict[str, object], expected: list[tuple[str, int, str]]
) -> None:
    assert singles({"id": "x"} | row) == expected


def test_records_of_one_row_share_their_responses() -> None:
    helpful, safe = (
        Comparison("p?", texts, objective=name, id=f"x.{part}", origin="f:1")
        for part, (name, texts) in enumerate({"help": "ab", "safe": "ba"}.items())
        for texts in [list(texts)]
    )
    found = list(single_responses([helpful, safe]))
    assert [(rating.id, rating.response) for rating in found] == [("x", "a"), ("x", "b")]


def test_rows_with_equal_responses_stay_apart() -> None:
    assert len(singles({"id": "x", "response": "a"}, {"id": "y", "response": "a"})) == 2


def test_labels_group_and_metadata_come_along() -> None:
    rating = Rating(
        "p?", "a", {"safe": 1.0, "help": None}, id="x", group="g", metadata={"subset": "s"}
    )
    (found,) = single_responses([rating])
    assert found.values == {"safe": 1.0, "help": None}
    assert (found.group, found.metadata["subset"], found.id) == ("g", "s", "x")


def test_a_row_is_json_with_all_that_is_known(scorer: RewardScorer) -> None:
    (score,) = scorer.score(Rating("1 + 1?", "2", id="x", metadata={RESPONSE: 3}))
    row = json.loads(json.dumps(score.to_row(), allow_nan=False))
    assert (row["id"], row["group"], row["response"], row["reason"]) == ("x", "1 + 1?", 3, "")
    assert list(row["scores"]) == list(row["utilities"]) == ["helpfulness", "safety", "length"]
    assert set(row["spreads"]) == {"helpfulness", "safety"}
    assert all(spread > 0 for spread in row["spreads"].values())
    assert row["reward"] == pytest.approx(sum(row["utilities"].values()) / 3)
    assert row["aggregation"] == "weighted_sum"


def test_order_and_company_never_change_a_score(scorer: RewardScorer) -> None:
    together = scorer.score(RESPONSES)
    alone = [scorer.score(rating)[0] for rating in RESPONSES]
    assert [score.id for score in together] == [score.id for score in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-5)
        assert one.reward == pytest.approx(other.reward, abs=1e-5)


def test_rewards_are_of_normalized_and_directed_scores() -> None:
    objectives = outcome_spec().response_heads
    normalizers = {"toxicity": ZScore(1.0, 2.0)}
    model = outcome_model(normalizers=normalizers, objective_aggregation=WorstCase())
    (score,) = RewardScorer(model).score(("1 + 1?", "2"))
    toxicity = -(score.scores["toxicity"] - 1) / 2
    assert [item.direction for item in objectives] == ["maximize", "minimize"]
    assert score.utilities["toxicity"] == pytest.approx(toxicity)
    assert score.reward == pytest.approx(min(score.scores["helpfulness"], toxicity))


def test_a_given_aggregation_replaces_the_spec_s(model: RewardModel) -> None:
    safety = WeightedSum({"helpfulness": 0.0, "safety": 1.0, "length": 0.0})
    scorer = RewardScorer(model, objective_aggregation=safety)
    (score,) = scorer.score(("1 + 1?", "2"))
    assert score.reward == pytest.approx(score.utilities["safety"])
    assert scorer.spec.objective_aggregation == safety
    wrong = WeightedSum({"wit": 1.0})
    with pytest.raises(ConfigError, match="wit"):
        RewardScorer(model, objective_aggregation=wrong)


def test_a_long_prompt_leaves_a_reason_and_no_number(scorer: RewardScorer) -> None:
    long, short = scorer.score([Rating("long " * 100, "2", id="l"), Rating("1?", "2", id="s")])
    assert long.reward is None
    assert long.spreads is None
    assert set(long.scores.values()) == set(long.utilities.values()) == {None}
    assert "no room" in long.reason
    assert "'l'" in long.reason
    assert short.reward is not None


def test_a_long_response_is_cut_off_and_counted(scorer: RewardScorer) -> None:
    (score,) = scorer.score(Rating("1 + 1?", "so on and " * 40))
    assert (score.num_truncated, score.reason) == (1, "")
    assert score.reward is not None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_score_that_is_not_finite_is_none_with_a_reason(value: float) -> None:
    model = outcome_model()
    with torch.no_grad():
        model.heads.layers.weight[0] = value
    (score,) = RewardScorer(model).score(("1 + 1?", "2"))
    assert score.scores["helpfulness"] is None
    assert score.scores["toxicity"] is not None
    assert score.reward is None
    assert "no finite reward" in score.reason


def test_what_the_model_does_not_score_is_refused(scorer: RewardScorer) -> None:
    with pytest.raises(ModelError, match="does not score steps"):
        scorer.score(Chain("1 + 1?", ["2"]))
    with pytest.raises(DataError, match="Score each response of a comparison"):
        scorer.score([Comparison("1 + 1?", ["2", "3"], objective="help")])
    with pytest.raises(ConfigError, match="no steps to aggregate"):
        RewardScorer(scorer.model, "min")


def test_several_ways_to_name_a_response(scorer: RewardScorer) -> None:
    ways: list[object] = [
        Rating("1 + 1?", "2"),
        {"prompt": "1 + 1?", "response": "2"},
        ("1 + 1?", "2"),
    ]
    rewards = [scorer.score(way)[0].reward for way in ways]  # type: ignore[arg-type]
    assert rewards == [rewards[0]] * 3
    assert isinstance(scorer.score(ways[0])[0], ResponseScore)  # type: ignore[arg-type]
