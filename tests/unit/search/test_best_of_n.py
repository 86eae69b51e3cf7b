from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from prm.errors import ConfigError
from prm.generators.generator import Sample
from prm.scores.reaggregate import with_aggregations
from prm.scoring.scorer import RewardScorer
from prm.search.best_of_n import best_of_n, choose_again
from tests.outcome_models import outcome_model, save_joint_model
from tests.tiny_models import tiny_model
from tests.toy_generator import ToyGenerator

RESPONSES = ("1 + 1 = 2\n2 + 2 = 4", "1 + 1 = 3\n3 + 2 = 5", "", "4", "1 + 1 = 2")
PROMPTS = ("What is 1 + 1 + 2?", "And 2 + 2?")


@pytest.fixture(scope="module")
def scorer() -> RewardScorer:
    return RewardScorer(tiny_model())


def toy(responses: Sequence[str] = RESPONSES) -> ToyGenerator:
    return ToyGenerator(lambda prefix: [Sample(text, "end") for text in responses])


def test_scores_are_those_of_the_scorer(scorer: RewardScorer) -> None:
    (found, _) = best_of_n(scorer, toy(), PROMPTS, 5)
    rewards = {}
    for index, (one, text) in enumerate(zip(found.candidates, RESPONSES, strict=True)):
        assert one.response == text
        if text:
            offline = scorer.score((PROMPTS[0], text.split("\n")))[0]
            assert one.steps == tuple(text.split("\n"))
            assert one.reward == pytest.approx(offline.reward, abs=1e-5)
            rewards[index] = offline.reward
    assert found.best == max(rewards, key=lambda index: rewards[index])
    assert found.reason == ""


def test_empty_response_has_a_reason_and_no_reward(scorer: RewardScorer) -> None:
    (found,) = best_of_n(scorer, toy(), PROMPTS[:1], 3)
    assert (found.candidates[2].reward, found.candidates[2].reason) == (
        None,
        "the response is empty",
    )
    (nothing,) = best_of_n(scorer, toy(["", " \n"]), PROMPTS[:1], 2)
    assert (nothing.best, nothing.reason) == (None, "the response is empty")


def test_outcome_model_scores_whole_responses() -> None:
    scorer = RewardScorer(outcome_model())
    (found,) = best_of_n(scorer, toy(), PROMPTS[:1], 5)
    for one in found.candidates:
        if one.response:
            offline = scorer.score((PROMPTS[0], one.response))[0]
            assert one.reward == pytest.approx(offline.reward, abs=1e-5)
    with pytest.raises(ConfigError, match="does not score steps"):
        best_of_n(scorer, toy(), PROMPTS, reward_from="steps")


def test_choose_again_is_a_search_with_the_other_aggregation(scorer: RewardScorer) -> None:
    (found,) = best_of_n(scorer, toy(), PROMPTS[:1], 5)
    for name in ("product", "last", "mean_logit"):
        other = RewardScorer(scorer.model, step_aggregation=name)
        for choice in ("best", "weighted_vote", "majority"):
            spec = with_aggregations(scorer.spec, name, None)
            (searched,) = best_of_n(other, toy(), PROMPTS[:1], 5, choice=choice)
            again = choose_again(found, spec, choice)
            assert (again.best, again.answer) == (searched.best, searched.answer)
            assert [one.reward for one in again.candidates] == pytest.approx(
                [one.reward for one in searched.candidates]
            )


def test_refused_prompt_has_a_reason_and_others_go_on(scorer: RewardScorer) -> None:
    generator = toy()
    generator.refused = PROMPTS[:1]
    refused, found = best_of_n(scorer, generator, PROMPTS, 2)
    assert refused.candidates == ()
    assert refused.reason.startswith("no such prompt")
    assert refused == choose_again(refused, scorer.spec)
    assert found.best is not None


def test_samples_depend_on_seed_and_prompt_alone(scorer: RewardScorer) -> None:
    def seeds(prompts: Sequence[str], seed: int) -> list[int]:
        generator = toy()
        best_of_n(scorer, generator, prompts, 2, seed=seed)
        return [request.seed for request in generator.requests]

    assert seeds(PROMPTS, 3) == seeds(PROMPTS[::-1], 3)[::-1]
    assert len({*seeds(PROMPTS, 3), *seeds(PROMPTS, 4)}) == 4


def test_row_is_json_with_every_candidate(scorer: RewardScorer) -> None:
    (found,) = best_of_n(scorer, toy(), PROMPTS[:1], 5, choice="weighted_vote")
    row = found.to_row()
    assert row["response"] == RESPONSES[row["best"]]
    assert row["votes"] == found.votes
    assert [one["response"] for one in row["candidates"]] == list(RESPONSES)
    first = row["candidates"][0]
    assert first["step_probabilities"]["correctness"] == list(
        found.candidates[0].score.probabilities
    )
    assert {"id", "group"} & set(first) == set()


def test_wrong_options(scorer: RewardScorer) -> None:
    with pytest.raises(ConfigError, match="n is wrong"):
        best_of_n(scorer, toy(), PROMPTS, 0)
    with pytest.raises(ConfigError, match="whole responses"):
        best_of_n(scorer, toy(), PROMPTS, reward_from="response")


def test_joint_model_scores_the_response_or_its_steps(tmp_path: Path) -> None:
    scorer = RewardScorer.from_pretrained(save_joint_model(tmp_path / "joint"))
    prompt = PROMPTS[0]
    for reward_from in (None, "response", "steps"):
        (found,) = best_of_n(scorer, toy(), [prompt], 2, reward_from=reward_from)
        record = (prompt, list(found.candidates[0].steps))
        if reward_from != "steps":
            record = (prompt, RESPONSES[0])
        assert found.candidates[0].reward == pytest.approx(scorer.score(record)[0].reward, abs=1e-5)
