"""The native routes: rows are exactly those that `prm score` writes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from prm.errors import DataError, PrmError
from prm.records import Chain, Rating
from prm.scores.chains import ChainScore
from prm.scores.ranking import RankedRows, rank_candidates
from prm.scores.reaggregate import reaggregate
from prm.scores.responses import ResponseScore
from prm.scores.rows import ChainRow, ResponseRow, row_kind
from prm.scores.stored import tabulate
from prm.serve.pool import ModelPool, ServedModel
from prm.serve.replies import JSONReply, error_body, errors, to_json
from prm.serve.schemas import (
    AggregationRequest,
    InForce,
    ModelInfo,
    ModelList,
    RankReply,
    RankRequest,
    ReaggregateRequest,
    ScoreReply,
    ScoreRequest,
    StepsReply,
    StepsRequest,
)
from prm.spec import RewardSpec
from prm.texts.completions import choose_reward_from
from prm.texts.steps import split_steps

router = APIRouter(prefix="/v1", tags=["native"], default_response_class=JSONReply)

NDJSON = "application/x-ndjson"


def _pool(request: Request) -> ModelPool:
    pool: ModelPool = request.app.state.pool
    return pool


@router.get("/models", responses={200: {"model": ModelList}, **errors(401)})
async def models(request: Request) -> Response:
    """List the served models."""
    pool = _pool(request)
    return JSONReply({"models": [_info(pool.get(name)) for name in pool.names]})


@router.get("/models/{name}/spec", responses=errors(401, 404))
async def spec(request: Request, name: str) -> Response:
    """Return a model's reward spec, with the aggregations in force."""
    return JSONReply(_pool(request).get(name).spec.to_dict())


@router.put("/models/{name}/aggregation", responses={200: {"model": InForce}, **errors()})
async def put_aggregation(request: Request, name: str, body: AggregationRequest) -> Response:
    """Put aggregations in force for all requests that name none themselves."""
    model = _pool(request).get(name)
    model.set_aggregation(**body.chosen())
    return JSONReply(model.in_force())


@router.post(
    "/score",
    responses={200: {"model": ScoreReply, "content": {NDJSON: {}}}, **errors()},
)
async def score(request: Request, body: ScoreRequest) -> Response:
    """Score chains step by step, or responses objective by objective."""
    model = _pool(request).get(body.model)
    spec = model.aggregated(**body.chosen())
    records = [_record(item, index) for index, item in enumerate(body.records)]
    applicable = [item.applicable for item in body.records]
    if body.stream:
        found = model.stream(records, spec=spec, applicable=applicable)
        return StreamingResponse(await _lines(found), media_type=NDJSON)
    scores = await model.score(records, spec=spec, applicable=applicable)
    return JSONReply({**_head(model, spec), "results": [one.to_row() for one in scores]})


@router.post("/steps", responses={200: {"model": StepsReply}, **errors()})
async def steps(request: Request, body: StepsRequest) -> Response:
    """Score the steps of one chain."""
    model = _pool(request).get(body.model)
    spec = model.aggregated(**body.chosen())
    spans = _spans(body, spec)
    chain = body.chain([text for text, _, _ in spans])
    (found,) = await model.score([chain], spec=spec)
    row = found.to_row(body.threshold)
    return JSONReply(
        {
            **_head(model, spec),
            "steps": _steps(spans, row["step_probabilities"]),
            **{name: value for name, value in row.items() if name in StepsReply.model_fields},
        }
    )


@router.post("/rank", responses={200: {"model": RankReply}, **errors()})
async def rank(request: Request, body: RankRequest) -> Response:
    """Order responses to one prompt; a process model reads each of them as a chain."""
    model = _pool(request).get(body.model)
    spec = model.aggregated(**body.chosen())
    rows = [one.to_row() for one in await _candidates(body, model, spec)]
    return JSONReply({**_head(model, spec), "ranking": _ranked(rows, spec, body.top)})


@router.post("/reaggregate", responses={200: {"model": ScoreReply}, **errors()})
async def reaggregate_rows(request: Request, body: ReaggregateRequest) -> Response:
    """Give rows their reward under other aggregations, without a forward pass."""
    model = _pool(request).get(body.model)
    model.batcher.check_count(len(body.results))
    spec = model.aggregated(**body.chosen())
    scores = [reaggregate(_stored(row, spec), spec) for row in body.results]
    return JSONReply({**_head(model, spec), "results": [one.to_row() for one in scores]})


def _info(model: ServedModel) -> dict[str, Any]:
    spec = model.spec
    info = ModelInfo(
        name=model.name,
        kind=spec.kind,
        objectives=list(spec.response_names),
        step_objectives=[objective.name for objective in spec.step_heads],
        reward_objective=spec.chain_reward,
        max_length=spec.max_length,
        separator=spec.step_format.separator,
        **model.in_force(),
    )
    return info.model_dump()


def _head(model: ServedModel, spec: RewardSpec) -> dict[str, Any]:
    return {"model": model.name, **model.in_force(spec)}


def _record(item: Any, index: int) -> Chain | Rating:
    try:
        record: Chain | Rating = item.record()
    except DataError as error:
        raise error.at(f"records.{index}") from None
    return record


async def _lines(found: AsyncGenerator[tuple[int, Any], None]) -> AsyncIterator[bytes]:
    """Return rows as lines; an error before the first one is raised, later ones are a line.

    Raises:
        PrmError: The request is refused.
    """
    first = await anext(found, None)

    async def lines() -> AsyncIterator[bytes]:
        async with aclosing(found):
            if first is not None:
                yield _line(*first)
            try:
                async for index, one in found:
                    yield _line(index, one)
            except PrmError as error:
                yield to_json(error_body(error)) + b"\n"

    return lines()


def _line(index: int, one: ChainScore | ResponseScore) -> bytes:
    return to_json({"index": index, **one.to_row()}) + b"\n"


def _spans(body: StepsRequest, spec: RewardSpec) -> list[tuple[str, int | None, int | None]]:
    if body.steps is not None:
        return [(text, None, None) for text in body.steps]
    found = split_steps(body.response or "", spec.step_format)
    return [(span.text, span.start, span.end) for span in found]


def _steps(
    spans: Sequence[tuple[str, int | None, int | None]], probabilities: dict[str, list[Any]]
) -> list[dict[str, Any]]:
    return [
        {
            "index": index,
            "text": text,
            "start": start,
            "end": end,
            "probabilities": {name: values[index] for name, values in probabilities.items()},
        }
        for index, (text, start, end) in enumerate(spans)
    ]


async def _candidates(
    body: RankRequest, model: ServedModel, spec: RewardSpec
) -> list[ChainScore | ResponseScore]:
    """Return the score of each response; one without steps has no reward."""
    reward_from, completions = choose_reward_from(spec), body.completions(spec.step_format)
    is_read = [reward_from == "response" or bool(one.steps) for one in completions]
    records = [one.record(reward_from) for one in compress(completions, is_read)]
    scores = iter(await model.score(records, spec=spec))
    return [next(scores) if scored else _without_steps(spec) for scored in is_read]


def _without_steps(spec: RewardSpec) -> ChainScore:
    names = [objective.name for objective in spec.step_heads]
    return ChainScore(
        id="",
        step_logits=dict.fromkeys(names, ()),
        scores=dict.fromkeys(names),
        reward=None,
        reward_objective=spec.chain_reward,
        aggregation=spec.step_aggregation.name,
        reason="the response has no steps",
    )


def _ranked(rows: list[dict[str, Any]], spec: RewardSpec, top: int | None) -> list[dict[str, Any]]:
    ranking = _ranking(rows, spec)
    shown = ranking if top is None else ranking.top(top)
    columns = shown.columns()
    return [
        {**rows[index], "index": index, **{name: column[place] for name, column in columns.items()}}
        for place, index in enumerate(shown.order.tolist())
    ]


def _ranking(rows: list[dict[str, Any]], spec: RewardSpec) -> RankedRows:
    table = tabulate(rows, spec, Path("responses"))
    groups = np.zeros(len(rows), dtype=np.int64)
    return rank_candidates(groups, table.stored_rewards, table.deviations(), table.cut_off)


def _stored(row: ChainRow | ResponseRow, spec: RewardSpec) -> Any:
    is_chain = row_kind(row) is ChainRow
    return ChainScore.from_row(row, spec) if is_chain else ResponseScore.from_row(row)
