"""`/classify`, which vLLM and SGLang both have: the body says whose client asks."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Discriminator, Tag
from starlette.responses import Response

from prm.serve.dialects.sglang import Embedding, EmbeddingRequest, embedded
from prm.serve.dialects.vllm import ClassifyReply, ClassifyRequest, classified
from prm.serve.replies import JSONReply, errors

router = APIRouter(tags=["vllm", "sglang"])


def _engine(body: Any) -> str:
    names = set(body) if isinstance(body, dict) else set()
    return "sglang" if names & {"text", "input_ids"} else "vllm"


Body = Annotated[
    Annotated[ClassifyRequest, Tag("vllm")] | Annotated[EmbeddingRequest, Tag("sglang")],
    Discriminator(_engine),
]

AnyClassifyReply = ClassifyReply | Embedding | list[Embedding]


@router.post("/classify", responses={200: {"model": AnyClassifyReply}, **errors()})
async def classify(request: Request, body: Body) -> Response:
    """Return one row of numbers per text: head columns, or the reward of NAME:reward."""
    if isinstance(body, ClassifyRequest):
        return JSONReply((await classified(request, body)).model_dump())
    found = await embedded(request, body)
    if isinstance(found, list):
        return JSONReply([one.model_dump() for one in found])
    return JSONReply(found.model_dump())
