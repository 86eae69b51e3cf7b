"""Scoring in stages gives the scores of `RewardScorer.score`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from prm.records import Rating
from prm.scoring.scorer import RewardScorer
from prm.scoring.stages import finish, tokenize
from tests.outcome_models import RESPONSES, outcome_model
from tests.tiny_models import CHAINS, tiny_model


def in_stages(scorer: RewardScorer, records: Sequence[Any]) -> list[Any]:
    scores: list[Any] = [None] * len(records)
    items = tokenize(scorer.builder, records, scorer.max_tokens)
    outputs = scorer.outputs([item.tree for item in items])
    for item, output in zip(items, outputs, strict=True):
        found = finish(item, output.columns, scorer.spec, output.gates)
        for place, score in zip(item.places, found, strict=True):
            scores[place] = score
    return scores


@pytest.mark.parametrize("max_tokens", [1, 30, 16384])
@pytest.mark.parametrize(
    ("model", "records"), [(tiny_model(), CHAINS), (outcome_model(), RESPONSES)]
)
def test_scores_are_those_of_one_call(model: Any, records: Sequence[Any], max_tokens: int) -> None:
    scorer = RewardScorer(model, max_tokens=max_tokens)
    for found, expected in zip(in_stages(scorer, records), scorer.score(records), strict=True):
        assert found.id == expected.id
        assert found.reward == pytest.approx(expected.reward, abs=1e-5)


@pytest.mark.parametrize(("max_tokens", "num_trees"), [(16384, 1), (30, 2), (1, 4)])
def test_responses_to_one_prompt_share_a_tree_that_fits_a_pass(
    max_tokens: int, num_trees: int
) -> None:
    records = [Rating("1 + 1 = ?", f"{index} is the answer") for index in range(4)]
    found = tokenize(outcome_model().builder, records, max_tokens)
    assert len(found) == num_trees
    assert sorted(place for item in found for place in item.places) == [0, 1, 2, 3]


def test_equal_prompts_are_computed_together() -> None:
    items = tokenize(outcome_model().builder, RESPONSES, 16384)
    assert sorted(item.places for item in items) == [(0, 1, 4), (2,), (3,)]


def test_records_that_are_left_out_keep_their_reason() -> None:
    model = outcome_model()
    scorer = RewardScorer(model)
    records = [Rating("long " * 300, "4"), RESPONSES[0]]
    left_out, kept = in_stages(scorer, records)
    assert left_out.reward is None
    assert left_out.reason == scorer.score(records)[0].reason
    assert kept.reward is not None
