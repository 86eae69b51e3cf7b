"""LLaMA-Factory: PPO with `reward_model_type: api` and `reward_model: .../v1/score/evaluation`.

Source: LLaMA-Factory 0.9.5, `src/llamafactory/train/ppo/ppo_utils.py` (client),
`src/llamafactory/api/protocol.py` (server).
"""

from __future__ import annotations

import uuid
from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from prm.serve.dialects.rewards import PolicyAnswer, policy_text, served, text_rewards
from prm.serve.replies import JSONReply, errors
from prm.serve.schemas import Name, Strict

router = APIRouter(prefix="/v1/score", tags=["llama-factory"])

PLACEHOLDER = "model"
"""The name that the client sends whatever the model is."""


class EvaluationRequest(Strict):
    """Texts to score."""

    model: Name = Field(PLACEHOLDER, description="Name of a model; `model` is the first one.")
    messages: list[str] = Field(
        min_length=1, description="Prompt and response as one text, in the chat template."
    )


class EvaluationReply(BaseModel):
    """A reward per text; null where there is none, and `reasons` says why."""

    id: str
    object: Literal["score.evaluation"]
    model: str
    scores: list[float | None]
    truncated: list[bool]
    finished: list[bool]
    reasons: list[str]


@router.post("/evaluation", responses={200: {"model": EvaluationReply}, **errors()})
async def evaluation(request: Request, body: EvaluationRequest) -> Response:
    """Return the reward of the last assistant's turn of each text."""
    model = served(request, None if body.model == PLACEHOLDER else body.model)
    model.batcher.check_count(len(body.messages))
    policy = policy_text(request, model)
    answers = [
        PolicyAnswer(*policy.split(text), policy.is_finished(text)) for text in body.messages
    ]
    rewards = await text_rewards(request, model, answers)
    reply = EvaluationReply(
        id=f"scoreeval-{uuid.uuid4().hex}",
        object="score.evaluation",
        model=body.model,
        scores=[reward.reward for reward in rewards],
        truncated=[reward.truncated for reward in rewards],
        finished=[reward.finished for reward in rewards],
        reasons=[reward.reason for reward in rewards],
    )
    return JSONReply(reply.model_dump())
