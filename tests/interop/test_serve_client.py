"""`RemoteScorer` and the scorers on engines, against the real server."""

from __future__ import annotations

import asyncio
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from prm.aggregation.objectives import WeightedSum
from prm.errors import ConfigError, DataError, ModelError, RemoteError
from prm.generators.generator import Sample
from prm.records import Chain, Rating
from prm.rl.reward_function import RewardFunction
from prm.scoring.client import RemoteScorer
from prm.scoring.engines import SglangScorer, VllmScorer
from prm.search.best_of_n import best_of_n
from tests.interop.served_models import (
    ANSWER,
    PROMPT,
    RATINGS,
    RECORDS,
    STEPS,
    Served,
    assert_equal_scores,
    serving,
)
from tests.tiny_models import CHAINS
from tests.toy_generator import ToyGenerator

JOINT = [*CHAINS, *RATINGS]


@pytest.mark.parametrize("name", [*RECORDS, "joint"])
def test_scores_equal_the_offline_scores(served: Served, name: str) -> None:
    records = RECORDS.get(name, JOINT)
    got = RemoteScorer(served.url, name).score(records)
    assert_equal_scores(got, served.offline[name].score(records))


@pytest.mark.parametrize("name", [*RECORDS, "joint"])
def test_scores_through_vllms_protocol_equal_the_offline_scores(served: Served, name: str) -> None:
    records = RECORDS.get(name, JOINT)
    scorer = VllmScorer(served.url, served.folder(name), name)
    assert_equal_scores(scorer.score(records), served.offline[name].score(records))


def test_scores_through_sglangs_protocol_equal_the_offline_scores(served: Served) -> None:
    scorer = SglangScorer(served.url, served.folder("replies"))
    assert_equal_scores(scorer.score(RATINGS), served.offline["replies"].score(RATINGS))


def test_many_records_keep_their_order_and_places(served: Served) -> None:
    records = [
        Rating(PROMPT, f"It is {number}.", id=str(number), group="g", metadata={"response": number})
        for number in range(150)
    ]
    assert_equal_scores(
        RemoteScorer(served.url).score(records), served.offline["replies"].score(records)
    )


def test_sync_async_and_pickled_give_the_same(served: Served) -> None:
    for scorer in (
        RemoteScorer(served.url, "steps"),
        VllmScorer(served.url, served.folder("steps"), "steps"),
    ):
        expected = scorer.score(CHAINS)
        again = pickle.loads(pickle.dumps(scorer))
        assert_equal_scores(again.score(CHAINS), expected)
        assert_equal_scores(asyncio.run(again.score_async(CHAINS)), expected)


def test_threads_may_share_a_scorer(served: Served) -> None:
    expected = served.offline["steps"].score(CHAINS)
    for scorer in (
        RemoteScorer(served.url, "steps"),
        VllmScorer(served.url, served.folder("steps"), "steps"),
    ):
        with ThreadPoolExecutor(8) as threads:
            for found in threads.map(scorer.score, [CHAINS] * 16):
                assert_equal_scores(found, expected)


def test_takes_single_records_and_pairs(served: Served) -> None:
    scorer = RemoteScorer(served.url)
    assert len(scorer.score((PROMPT, "14"))) == 1
    assert scorer.score([]) == []
    assert len(scorer.score([{"prompt": PROMPT, "response": "14"}, (PROMPT, "15")])) == 2


def test_steps_say_where_they_stand(served: Served) -> None:
    scorer = RemoteScorer(served.url, "steps")
    offline = served.offline["steps"].score([(PROMPT, STEPS)])[0]
    found = scorer.steps(PROMPT, ANSWER, threshold=0.4)
    assert [step.text for step in found.steps] == list(STEPS)
    assert [ANSWER[step.start : step.end] for step in found.steps] == list(STEPS)
    probabilities = [step.probabilities["correctness"] for step in found.steps]
    assert probabilities == pytest.approx(offline.probabilities, abs=1e-5)
    assert found.first_error == offline.first_error(0.4)
    assert found.reward == pytest.approx(offline.reward, abs=1e-5)
    assert asyncio.run(scorer.steps_async(PROMPT, STEPS)).reward == pytest.approx(found.reward)


def test_rank_puts_the_best_first(served: Served) -> None:
    scorer = RemoteScorer(served.url)
    answers = ["14", "20", "Who knows?", ANSWER]
    rewards = [
        one.reward for one in served.offline["replies"].score([(PROMPT, a) for a in answers])
    ]
    found = scorer.rank(PROMPT, answers)
    assert [one.index for one in found] == sorted(range(4), key=lambda index: -rewards[index])
    assert [one.rank for one in found] == [0, 1, 2, 3]
    for one in found:
        assert one.score.reward == pytest.approx(rewards[one.index], abs=1e-5)
    top = asyncio.run(scorer.rank_async(PROMPT, answers, top=2))
    assert [one.index for one in top] == [one.index for one in found[:2]]


def test_aggregations_can_be_changed_for_stored_scores_and_for_everybody(served: Served) -> None:
    scorer = RemoteScorer(served.url)
    scores = scorer.score(RATINGS[:2])
    only = WeightedSum({"helpfulness": 1, "safety": 0, "length": 0})
    changed = scorer.reaggregate(scores, objective_aggregation=only)
    assert [one.reward for one in changed] == [one.utilities["helpfulness"] for one in scores]
    before = scorer.spec.objective_aggregation
    try:
        assert scorer.set_aggregation(overrides={"weights.safety": 7})["version"] >= 1
        assert scorer.spec.objective_aggregation != before
        again = scorer.score(RATINGS[:1])[0]
        assert again.reward == pytest.approx(
            scores[0].reward + 5 * scores[0].utilities["safety"], abs=1e-5
        )
    finally:
        scorer.set_aggregation(objective_aggregation=before)


@pytest.mark.parametrize("name", ["replies", "steps"])
def test_a_reward_function_of_an_address_gives_the_offline_reward(
    served: Served, name: str
) -> None:
    remote = RewardFunction(RemoteScorer(served.url, name), empty=-1.0)
    local = RewardFunction(served.offline[name], empty=-1.0)
    given = ([PROMPT, PROMPT, PROMPT], [ANSWER, "14", ""])
    assert pickle.loads(pickle.dumps(remote))(*given) == pytest.approx(local(*given), abs=1e-5)


def test_health_is_what_the_server_says(served: Served) -> None:
    assert RemoteScorer(served.url).health() == {"status": "alive"}
    with pytest.raises(RemoteError, match="does not answer"):
        RemoteScorer("http://127.0.0.1:9", retries=0).health()


def test_a_search_may_ask_a_server(served: Served) -> None:
    generator = ToyGenerator(lambda prefix: [Sample(text, "end") for text in ("a\nb", "c", "d")])
    remote, local = RemoteScorer(served.url, "steps"), served.offline["steps"]
    (mine,) = best_of_n(remote, generator, [PROMPT], 3)
    (expected,) = best_of_n(local, generator, [PROMPT], 3)

    assert mine.best == expected.best
    for one, other in zip(mine.candidates, expected.candidates, strict=True):
        assert one.reward == pytest.approx(other.reward, abs=1e-5)


def test_a_reward_function_follows_what_others_put_in_force(served: Served) -> None:
    function = RewardFunction(RemoteScorer(served.url, "replies"))
    before = function.spec.objective_aggregation
    other = RemoteScorer(served.url, "replies")
    try:
        other.set_aggregation(overrides={"weights.safety": 7})
        rewards = function.score([PROMPT], [ANSWER])
        local = RewardFunction(
            served.offline["replies"], objective_aggregation=function.spec.objective_aggregation
        )

        assert function.spec.objective_aggregation == other.spec.objective_aggregation != before
        assert rewards[0].reward == pytest.approx(local([PROMPT], [ANSWER])[0], abs=1e-5)
    finally:
        other.set_aggregation(objective_aggregation=before)


def test_a_token_is_asked_for_on_every_route(model_root: Path) -> None:
    with serving(model_root, token="secret") as own:
        for path in ("/get_reward", "/classify", "/pooling", "/v1/embeddings", "/rm", "/v1/score"):
            assert httpx.post(own.url + path, json={}).status_code == 401
        with pytest.raises(ConfigError, match="token"):
            RemoteScorer(own.url).score(RATINGS[:1])
        scorer = RemoteScorer(own.url, token="secret")
        expected = own.offline["replies"].score(RATINGS[:1])
        assert_equal_scores(scorer.score(RATINGS[:1]), expected)


def test_what_the_server_refuses_is_raised_as_offline(served: Served) -> None:
    with pytest.raises(ModelError, match="does not score steps"):
        RemoteScorer(served.url).score([Chain(PROMPT, STEPS)])
    with pytest.raises(ConfigError, match="no such model"):
        RemoteScorer(served.url, "nobody").score(RATINGS[:1])
    with pytest.raises(ConfigError, match="weights"):
        RemoteScorer(served.url).set_aggregation(overrides={"weights.kindness": 1})
    with pytest.raises(DataError, match="JSON"):
        RemoteScorer(served.url).rank(PROMPT, ["\ud800"])


def test_engines_refuse_what_they_cannot_compute(served: Served) -> None:
    with pytest.raises(ModelError, match="kind outcome"):
        SglangScorer(served.url, served.folder("steps"))


def test_an_engine_that_serves_another_model_is_noticed(served: Served) -> None:
    """Both have three columns, but not the same scores for the texts in the spec."""
    scorer = VllmScorer(served.url, served.folder("replies"), "chat", on_error="none")
    with pytest.raises(ModelError, match="does not score as the saved model"):
        scorer.score(RATINGS[:1])


def test_an_answer_of_another_model_is_no_score(served: Served) -> None:
    """The folder here and the model there differ in width."""
    with pytest.raises(RemoteError, match="3 finite numbers per row"):
        VllmScorer(served.url, served.folder("replies"), "joint").score(RATINGS[:1])
    scorer = VllmScorer(served.url, served.folder("replies"), "joint", on_error="none")
    assert scorer.score(RATINGS[:2]) == [None, None]
