"""slime: `--rm-type remote_rm --rm-url http://host:port/rm`.

Source: slime, `slime/rollout/rm_hub/__init__.py`, commit 0b420f1.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import Field, JsonValue
from starlette.responses import Response

from prm.errors import DataError
from prm.serve.dialects.rewards import (
    PolicyAnswer,
    TextReward,
    policy_text,
    served,
    text_rewards,
)
from prm.serve.pool import ServedModel
from prm.serve.replies import JSONReply, errors
from prm.serve.schemas import Message, Strict, plain_messages

router = APIRouter(prefix="/rm", tags=["slime"])


class SampleRequest(Strict):
    """One sample; its label is not read."""

    prompt: str | list[Message] = Field(
        description="The prompt, in the policy's chat template or not, or its messages."
    )
    response: str
    label: JsonValue = None


@router.post("", responses={200: {"model": float}, **errors()})
async def reward(request: Request, body: SampleRequest, model: str | None = None) -> Response:
    """Return the reward as a bare number; `?model=` chooses one of several models."""
    found = await _reward(request, body, served(request, model))
    return JSONReply(found.reward)


@router.post("/objectives", responses={200: {"model": dict[str, float | bool]}, **errors()})
async def objectives(request: Request, body: SampleRequest, model: str | None = None) -> Response:
    """Return reward and objectives by name, for `--reward-key reward`."""
    found = await _reward(request, body, served(request, model))
    flags = {"truncated": found.truncated, "finished": found.finished}
    return JSONReply({**found.objectives, **flags, "reward": found.reward})


async def _reward(request: Request, body: SampleRequest, model: ServedModel) -> TextReward:
    (found,) = await text_rewards(request, model, [_answer(request, body, model)])
    if found.reward is None:
        raise DataError("there is no reward", got=found.reason)
    return found


def _answer(request: Request, body: SampleRequest, model: ServedModel) -> PolicyAnswer:
    policy = policy_text(request, model)
    prompt = (
        policy.prompt(body.prompt) if isinstance(body.prompt, str) else plain_messages(body.prompt)
    )
    response = policy.response(body.response)
    return PolicyAnswer(prompt, response, policy.is_finished(body.response))
