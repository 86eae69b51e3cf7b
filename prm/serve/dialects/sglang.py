"""SGLang: the requests and answers of `/classify`, and `/v1/embeddings`, which verl asks.

Source: SGLang 0.5.23, `python/sglang/srt/managers/io_struct.py` (`EmbeddingReqInput`) and
`python/sglang/srt/entrypoints/http_server.py`.
"""

from __future__ import annotations

import uuid
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, model_validator
from starlette.responses import Response

from prm.serve.dialects.engine import EngineModel
from prm.serve.dialects.vllm import Inputs, TokenIds, Usage, several
from prm.serve.replies import JSONReply, errors
from prm.serve.schemas import Name, Strict

router = APIRouter(tags=["sglang"])

Texts = str | Annotated[list[str], Field(min_length=1)]
Ids = TokenIds | Annotated[list[TokenIds], Field(min_length=1)]


class EmbeddingRequest(Strict):
    """Texts or token ids whose raw columns are asked for; a list is answered by a list."""

    text: Texts | None = None
    input_ids: Ids | None = None
    model: Name | None = Field(
        None, description="A model's name, NAME:reward for its reward; SGLang itself has only one."
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> EmbeddingRequest:
        if (self.text is None) == (self.input_ids is None):
            raise ValueError("give either text or input_ids")
        return self


class MetaInfo(BaseModel):
    """Facts about one input."""

    id: str
    prompt_tokens: int


class Embedding(BaseModel):
    """The raw columns of one input, under SGLang's name for them."""

    embedding: list[float]
    meta_info: MetaInfo


class OpenAIRequest(Strict):
    """The same in OpenAI's form."""

    model: Name | None = Field(None, description="A model's name; NAME:reward for its reward.")
    input: Inputs
    encoding_format: Literal["float"] = "float"
    user: str | None = None


class OpenAIEmbedding(BaseModel):
    """The raw columns of one input."""

    index: int
    object: Literal["embedding"] = "embedding"
    embedding: list[float]


class OpenAIReply(BaseModel):
    """Raw columns per input."""

    object: Literal["list"] = "list"
    model: str
    data: list[OpenAIEmbedding]
    usage: Usage


async def embedded(request: Request, body: EmbeddingRequest) -> Embedding | list[Embedding]:
    """Return the raw columns of each input of a `/classify` request."""
    given: Any = body.input_ids if body.text is None else body.text
    _, ids, rows = await _columns(request, body.model, given)
    found = [
        Embedding(embedding=row, meta_info=MetaInfo(id=uuid.uuid4().hex, prompt_tokens=len(own)))
        for row, own in zip(rows, ids, strict=True)
    ]
    is_single = isinstance(given, str) or isinstance(given[0], int)
    return found[0] if is_single else found


@router.post("/v1/embeddings", responses={200: {"model": OpenAIReply}, **errors()})
async def embeddings(request: Request, body: OpenAIRequest) -> Response:
    """Return the raw columns, or the reward, of each text."""
    model, ids, rows = await _columns(request, body.model, body.input)
    count = sum(map(len, ids))
    reply = OpenAIReply(
        model=body.model or model.served.name,
        data=[OpenAIEmbedding(index=index, embedding=row) for index, row in enumerate(rows)],
        usage=Usage(prompt_tokens=count, total_tokens=count),
    )
    return JSONReply(reply.model_dump())


async def _columns(
    request: Request, name: str | None, given: Inputs
) -> tuple[EngineModel, list[list[int]], list[list[float]]]:
    model = EngineModel.of(request.app.state.pool, name)
    inputs = several(given)
    model.served.batcher.check_count(len(inputs))
    ids = await model.texts.ids(inputs, add_special_tokens=True)
    return model, ids, [row.tolist() for row in await model.by_response(ids)]
