"""Scores as numbers in [0, 1]."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from prm.records import Rating
from prm.scores.reaggregate import unit_score
from prm.scoring.scorer import RewardScorer
from tests.outcome_models import outcome_model
from tests.tiny_models import CHAINS, tiny_model


@pytest.mark.parametrize("name", ["min", "product", "softmin"])
def test_an_aggregated_probability_stays_as_it_is(name: str) -> None:
    scorer = RewardScorer(tiny_model(), name)
    for score in scorer.score(CHAINS):
        assert unit_score(score, scorer.spec) == pytest.approx(max(0.0, score.reward))


def test_other_rewards_go_through_a_sigmoid() -> None:
    scorer = RewardScorer(tiny_model(), "mean_logit")
    (score,) = scorer.score(CHAINS[0])
    assert unit_score(score, scorer.spec) == pytest.approx(torch.tensor(score.reward).sigmoid())
    scorer = RewardScorer(outcome_model())
    (score,) = scorer.score(Rating("1 + 1 = ?", "2"))
    assert unit_score(score, scorer.spec) == pytest.approx(torch.tensor(score.reward).sigmoid())
    assert unit_score(replace(score, reward=-1e9), scorer.spec) == 0.0


def test_what_has_no_reward_has_no_score() -> None:
    scorer = RewardScorer(tiny_model())
    (score,) = scorer.score(CHAINS[0])
    assert unit_score(replace(score, reward=None), scorer.spec) is None
    given = replace(score, reward=-3.0, scores={"correctness": None})
    assert unit_score(given, scorer.spec) == 0.0
