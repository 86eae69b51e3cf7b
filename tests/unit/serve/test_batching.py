"""Requests in flight share passes; scores are those of the offline scorer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prm.errors import DataError, ModelError
from prm.models.reward_model import RewardModel
from prm.records import Chain, Rating
from prm.scoring.scorer import RewardScorer
from prm.scoring.session import ScoringSession
from prm.serve.errors import BusyError, TooLargeError, UnavailableError
from prm.serve.options import ServeOptions
from prm.serve.pool import ModelPool, ServedModel
from prm.trees.tree import Segment, TokenTree
from tests.outcome_models import RESPONSES
from tests.tiny_models import CHAINS
from tests.unit.serve.conftest import HeldScorer

LONG = Chain("1 + 1 = ?", ["1 + 1 = 2"] * 8)


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


def pool_of(scorer: RewardScorer, **options: Any) -> ModelPool:
    return ModelPool({"m": scorer}, ServeOptions(**options))


def rewards(scores: Sequence[Any]) -> torch.Tensor:
    return torch.tensor([score.reward for score in scores], dtype=torch.float64)


@pytest.mark.parametrize(("name", "records"), [("steps", CHAINS), ("replies", RESPONSES)])
@pytest.mark.parametrize("max_tokens", [1, 40, 16384])
def test_requests_get_the_offline_scores(
    models: Mapping[str, RewardModel], name: str, records: Sequence[Any], max_tokens: int
) -> None:
    scorer = RewardScorer(models[name], max_tokens=max_tokens)
    expected = rewards(RewardScorer(models[name]).score(records))
    pool = pool_of(scorer)

    async def ask() -> list[list[Any]]:
        model = pool.get()
        return await asyncio.gather(*(model.score(records) for _ in range(5)))

    for scores in asyncio.run(ask()):
        torch.testing.assert_close(rewards(scores), expected, atol=1e-5, rtol=0)
    pool.close()


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    requests=st.lists(
        st.lists(st.sampled_from(CHAINS), min_size=1, max_size=5), min_size=1, max_size=6
    ),
    max_tokens=st.sampled_from([8, 60, 300]),
)
def test_no_company_changes_a_score(
    models: Mapping[str, RewardModel], requests: list[list[Chain]], max_tokens: int
) -> None:
    alone = RewardScorer(models["steps"])
    pool = pool_of(RewardScorer(models["steps"], max_tokens=max_tokens))

    async def ask() -> list[list[Any]]:
        return await asyncio.gather(*(pool.get().score(records) for records in requests))

    for records, scores in zip(requests, asyncio.run(ask()), strict=True):
        expected = [alone.score(record)[0] for record in records]
        torch.testing.assert_close(rewards(scores), rewards(expected), atol=1e-5, rtol=0)
    pool.close()


def test_waiting_requests_share_a_pass_and_equal_records_are_computed_once(
    held: HeldScorer,
) -> None:
    pool = pool_of(held)

    async def ask() -> list[list[Any]]:
        first = asyncio.ensure_future(pool.get().score([CHAINS[2]]))
        await until(held.runs.is_set)
        others = [asyncio.ensure_future(pool.get().score(CHAINS[:2])) for _ in range(6)]
        await until(lambda: pool.get().batcher.num_waiting == 7)
        held.may_run.set()
        return await asyncio.gather(first, *others)

    scores = asyncio.run(ask())
    pool.close()
    assert [len(trees) for trees in held.passes] == [1, 2]
    assert len({tuple(rewards(one).tolist()) for one in scores[1:]}) == 1


def test_a_huge_request_does_not_hold_up_a_small_one(models: Mapping[str, RewardModel]) -> None:
    scorer = HeldScorer(models["steps"], max_tokens=300)
    pool = pool_of(scorer)
    passes: dict[str, int] = {}

    async def score(name: str, count: int) -> None:
        await pool.get().score([Chain(f"{name}: {i}", LONG.completions) for i in range(count)])
        passes[name] = len(scorer.passes)

    async def ask() -> None:
        huge = asyncio.ensure_future(score("huge", 60))
        await until(scorer.runs.is_set)
        small = [asyncio.ensure_future(score(f"small {i}", 1)) for i in range(3)]
        await until(lambda: pool.get().batcher.num_waiting == 4)
        scorer.may_run.set()
        await asyncio.gather(huge, *small)

    asyncio.run(ask())
    pool.close()
    assert max(sum(tree.num_tokens for tree in trees if tree) for trees in scorer.passes) <= 300
    small = [count for name, count in passes.items() if name != "huge"]
    assert max(small) <= 4 < 10 < passes["huge"]


def test_equal_records_fill_a_pass_once(models: Mapping[str, RewardModel]) -> None:
    scorer = HeldScorer(models["steps"], max_tokens=100)
    scorer.may_run.set()
    pool = pool_of(scorer)
    scores = asyncio.run(pool.get().score([LONG] * 50))
    pool.close()
    assert len({score.reward for score in scores}) == 1
    assert [len(trees) for trees in scorer.passes] == [1]


def test_streams_give_every_result_once(models: Mapping[str, RewardModel]) -> None:
    pool = pool_of(RewardScorer(models["steps"], max_tokens=100))

    async def ask() -> list[tuple[int, Any]]:
        return [found async for found in pool.get().stream(CHAINS * 20)]

    found = asyncio.run(ask())
    pool.close()
    assert sorted(index for index, _ in found) == list(range(100))
    expected = RewardScorer(models["steps"]).score(CHAINS * 20)
    for index, score in found:
        assert score.reward == pytest.approx(expected[index].reward, abs=1e-5)


def test_work_of_clients_that_left_is_dropped(held: HeldScorer) -> None:
    pool = pool_of(held)

    async def ask() -> None:
        first = asyncio.ensure_future(pool.get().score([CHAINS[0]]))
        await until(held.runs.is_set)
        gone = asyncio.ensure_future(pool.get().score([CHAINS[2]]))
        await until(lambda: pool.get().batcher.num_waiting == 2)
        gone.cancel()
        await until(gone.cancelled)
        assert pool.get().batcher.num_waiting == 1
        held.may_run.set()
        await first
        await pool.get().score([CHAINS[3]])

    asyncio.run(ask())
    pool.close()
    prompts = [tree.segments[0] for trees in held.passes for tree in trees if tree]
    assert len(prompts) == 2


def test_too_many_waiting_requests_are_refused(held: HeldScorer) -> None:
    pool = pool_of(held, max_waiting=2)

    async def ask() -> None:
        waiting = [asyncio.ensure_future(pool.get().score([CHAINS[0]])) for _ in range(2)]
        await until(lambda: pool.get().batcher.num_waiting == 2)
        with pytest.raises(BusyError) as refused:
            await pool.get().score([CHAINS[0]])
        assert refused.value.retry_after == 1
        held.may_run.set()
        await asyncio.gather(*waiting)
        assert await pool.get().score([CHAINS[0]])

    asyncio.run(ask())
    pool.close()


def test_a_request_that_takes_too_long_is_given_up(held: HeldScorer) -> None:
    pool = pool_of(held, timeout=0.05)

    async def ask() -> None:
        with pytest.raises(UnavailableError, match=r"0\.05 s"):
            await pool.get().score([CHAINS[0]])
        assert pool.get().batcher.num_waiting == 0

    asyncio.run(ask())
    held.may_run.set()
    pool.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_records": 2}, "too many records: expected at most 2, got 3"),
        ({"max_record_tokens": 10}, "the record has too many tokens: expected at most 10"),
        ({"max_request_tokens": 60}, "the request has too many tokens: expected at most 60"),
    ],
)
def test_limits_of_size(
    models: Mapping[str, RewardModel], options: dict[str, int], message: str
) -> None:
    pool = pool_of(RewardScorer(models["steps"]), **options)
    with pytest.raises(TooLargeError, match=message):
        asyncio.run(pool.get().score(CHAINS[:3]))
    pool.close()


def test_a_failure_of_one_request_spares_the_others(models: Mapping[str, RewardModel]) -> None:
    poison = Chain("boom", ["x"])

    class Failing(HeldScorer):
        def outputs(self, trees: Any) -> Any:
            found = super().outputs(trees)
            if any(tree and tree.num_tokens < 12 for tree in trees):
                raise RuntimeError("out of memory")
            return found

    scorer = Failing(models["steps"])
    pool = pool_of(scorer)

    async def ask() -> list[Any]:
        first = asyncio.ensure_future(pool.get().score([LONG]))
        await until(scorer.runs.is_set)
        others = [
            asyncio.ensure_future(pool.get().score([chain])) for chain in (LONG, poison, LONG)
        ]
        await until(lambda: pool.get().batcher.num_waiting == 4)
        scorer.may_run.set()
        return await asyncio.gather(first, *others, return_exceptions=True)

    found = asyncio.run(ask())
    pool.close()
    assert [isinstance(one, RuntimeError) for one in found] == [False, False, True, False]


def test_a_session_serves_chains_that_grow(models: Mapping[str, RewardModel]) -> None:
    session = ScoringSession(RewardScorer(models["steps"]), 1000)
    pool = pool_of(session)

    async def ask() -> list[Any]:
        grown = [Chain(LONG.prompt, LONG.completions[:count]) for count in range(1, 9)]
        return [(await pool.get().score([chain]))[0] for chain in grown]

    expected = RewardScorer(models["steps"]).score([LONG])[0].probabilities
    assert asyncio.run(ask())[-1].probabilities == pytest.approx(expected, abs=1e-5)
    pool.close()
    assert session.stats.computed < session.stats.requested / 3


def test_records_that_the_model_does_not_score(models: Mapping[str, RewardModel]) -> None:
    pool = pool_of(RewardScorer(models["steps"]))
    with pytest.raises(ModelError, match="does not score whole responses"):
        asyncio.run(pool.get().score([Rating("a", "b")]))
    with pytest.raises(DataError, match="no such objective to apply"):
        asyncio.run(pool.get().score([CHAINS[0]], applicable=[["style"]]))
    pool.close()


def columns(model: ServedModel, ids: list[list[int]], reads: list[list[int]]) -> list[torch.Tensor]:
    return asyncio.run(model.columns(ids, reads))


@pytest.mark.parametrize("name", ["steps", "replies"])
@pytest.mark.parametrize("remembers", [False, True])
def test_columns_are_those_of_the_heads(
    models: Mapping[str, RewardModel], name: str, remembers: bool
) -> None:
    scorer = RewardScorer(models[name])
    served = RewardScorer(models[name], max_tokens=16)
    pool = pool_of(ScoringSession(served, 100) if remembers else served)
    ids, reads = [[5, 6, 7, 8], [9, 4], [5, 6]], [[1, 3], [0], [1]]
    found = columns(pool.get(), ids, reads)
    trees = [
        TokenTree((Segment(tuple(own), -1, tuple(at)),)) for own, at in zip(ids, reads, strict=True)
    ]
    for one, output in zip(found, scorer.outputs(trees), strict=True):
        torch.testing.assert_close(one, output.columns, atol=1e-5, rtol=0)
    torch.testing.assert_close(found[0][:1], found[2], atol=1e-5, rtol=0)
    pool.close()


@pytest.mark.parametrize(
    ("ids", "reads", "message"),
    [
        ([], [0], "token ids are wrong"),
        ([10**6], [0], "token ids are wrong"),
        ([-1], [0], "token ids are wrong"),
        ([1, 2], [2], "positions to read are wrong"),
        ([1, 2], [1, 0], "positions to read are wrong"),
        ([1, 2], [], "positions to read are wrong"),
        ([1] * 300, [0], "an input is too long"),
    ],
)
def test_columns_refuse_what_has_no_meaning(
    models: Mapping[str, RewardModel], ids: list[int], reads: list[int], message: str
) -> None:
    pool = pool_of(RewardScorer(models["steps"]))
    with pytest.raises((DataError, TooLargeError), match=message):
        columns(pool.get(), [ids], [reads])
    pool.close()
