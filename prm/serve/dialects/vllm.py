"""vLLM: the requests and answers of `/classify`, and `/pooling`.

Source: vLLM 0.33, `vllm/entrypoints/pooling/{base,classify,pooling}/protocol.py`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, model_validator
from starlette.responses import Response
from torch import Tensor

from prm.errors import ConfigError
from prm.serve.dialects.engine import EngineModel, Input
from prm.serve.replies import JSONReply, errors
from prm.serve.schemas import Message, Name, Strict, plain_messages

router = APIRouter(tags=["vllm"])

TokenId = Annotated[int, Field(strict=True, ge=0)]
TokenIds = Annotated[list[TokenId], Field(min_length=1)]
Inputs = (
    str
    | TokenIds
    | Annotated[list[str], Field(min_length=1)]
    | Annotated[list[TokenIds], Field(min_length=1)]
)
"""One text or its token ids, or several of them."""


class EngineRequest(Strict):
    """What vLLM's routes have in common. Options that would be ignored are refused."""

    model: Name | None = Field(None, description="A model's name; NAME:reward for its reward.")
    input: Inputs | None = Field(None, description="Rendered texts, or token ids.")
    messages: Annotated[list[Message], Field(min_length=1)] | None = Field(
        None, description="A conversation that ends with the answer, rendered by the model's spec."
    )
    add_special_tokens: bool = Field(
        True, description="Whether texts get the tokenizer's; never a second BOS."
    )
    use_activation: bool | None = Field(
        None, description="False for raw columns; otherwise the activation of `problem_type`."
    )
    user: str | None = None
    request_id: str | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> EngineRequest:
        if (self.input is None) == (self.messages is None):
            raise ValueError("give either input or messages")
        return self


class ClassifyRequest(EngineRequest):
    """Texts whose columns, or reward, are asked for."""


class PoolingRequest(EngineRequest):
    """Texts whose columns are asked for: a row per text, per step, or per token."""

    task: Literal["classify", "token_classify"] | None = Field(
        None, description="What the model does anyway; anything else is refused."
    )
    encoding_format: Literal["float"] = "float"


class Usage(BaseModel):
    """Tokens that were read."""

    prompt_tokens: int
    total_tokens: int


class Classification(BaseModel):
    """The numbers of one input, under vLLM's name for them; `truncated` is ours."""

    index: int
    label: str
    probs: list[float]
    num_classes: int
    truncated: bool


class Pooled(BaseModel):
    """The numbers of one input, by row if it has several; `truncated` is ours."""

    index: int
    object: Literal["pooling"] = "pooling"
    data: list[float] | list[list[float]]
    truncated: bool


class EngineReply(BaseModel):
    """What vLLM's answers have in common."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    usage: Usage


class ClassifyReply(EngineReply):
    """Numbers per input."""

    data: list[Classification]


class PoolingReply(EngineReply):
    """Numbers per input."""

    data: list[Pooled]


async def classified(request: Request, body: ClassifyRequest) -> ClassifyReply:
    """Return the numbers of each input of a `/classify` request."""
    model = EngineModel.of(request.app.state.pool, body.model)
    ids, truncated = await _read(model, body)
    rows = _activated(model, await model.by_response(ids), body.use_activation)
    data = [
        Classification(
            index=index,
            label=model.labels[int(row.argmax())],
            probs=row.tolist(),
            num_classes=len(row),
            truncated=truncated,
        )
        for index, row in enumerate(rows)
    ]
    return ClassifyReply(data=data, **_frame("classify", body, model, ids))


@router.post("/pooling", responses={200: {"model": PoolingReply}, **errors()})
async def pooling(request: Request, body: PoolingRequest) -> Response:
    """Return a row of columns per text of an outcome model, or per step of a process model."""
    model = EngineModel.of(request.app.state.pool, body.model)
    by_token = bool(model.served.spec.step_heads) and not model.is_reward
    _check_task(body.task, by_token)
    ids, truncated = await _read(model, body)
    rows = await (model.by_token(ids) if by_token else model.by_response(ids))
    rows = _activated(model, rows, body.use_activation)
    data = [
        Pooled(index=index, data=row.tolist(), truncated=truncated)
        for index, row in enumerate(rows)
    ]
    reply = PoolingReply(data=data, **_frame("pool", body, model, ids))
    return JSONReply(reply.model_dump())


async def _read(model: EngineModel, body: EngineRequest) -> tuple[list[list[int]], bool]:
    """Return the token ids of each input of a request, and whether something was cut off.

    Texts and ids are never cut off: one that is too long is refused.
    """
    if body.messages is not None:
        ids, truncated = await model.texts.message_ids(plain_messages(body.messages))
        return [ids], truncated
    assert body.input is not None
    inputs = several(body.input)
    model.served.batcher.check_count(len(inputs))
    return await model.texts.ids(inputs, body.add_special_tokens), False


def several(inputs: Inputs) -> list[Input]:
    """Return inputs as a list, which a single one is not."""
    if isinstance(inputs, str):
        return [inputs]
    tokens = [item for item in inputs if isinstance(item, int)]
    return [tokens] if tokens else [item for item in inputs if not isinstance(item, int)]


def _activated(
    model: EngineModel, rows: Sequence[Tensor], use_activation: bool | None
) -> list[Tensor]:
    return [row if use_activation is False else model.activated(row) for row in rows]


def _check_task(task: str | None, by_token: bool) -> None:
    right = "token_classify" if by_token else "classify"
    if task not in (None, right):
        raise ConfigError("the model has another task", expected=right, got=task, where="task")


def _frame(
    prefix: str, body: EngineRequest, model: EngineModel, ids: Sequence[Sequence[int]]
) -> dict[str, Any]:
    count = sum(map(len, ids))
    return {
        "id": f"{prefix}-{body.request_id or uuid.uuid4().hex}",
        "created": int(time.time()),
        "model": body.model or model.served.name,
        "usage": Usage(prompt_tokens=count, total_tokens=count),
    }
