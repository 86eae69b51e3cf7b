"""OpenRLHF: `--reward.remote_url http://host:port/get_reward`.

Source: OpenRLHF 0.11.2, `openrlhf/utils/agent.py` (client), `openrlhf/cli/serve_rm.py` (server).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, JsonValue
from starlette.responses import Response

from prm.errors import DataError
from prm.serve.dialects.rewards import PolicyAnswer, TextReward, policy_text, served, text_rewards
from prm.serve.replies import JSONReply, errors
from prm.serve.schemas import Strict
from prm.texts.policy import PolicyText

router = APIRouter(tags=["openrlhf"])


class RewardRequest(Strict):
    """Queries, with the prompts that they begin with; labels are not read."""

    query: list[str] = Field(description="Prompt and response, as decoded with special tokens.")
    prompts: list[str] | None = Field(
        None, description="The prompts; without them queries must be in the chat template."
    )
    labels: list[JsonValue] | None = None


class RewardReply(BaseModel):
    """A number per query; null where there is none, and `reasons` says why."""

    rewards: list[float | None]
    scores: list[float | None] = Field(description="Rewards on a scale from 0 to 1.")
    extra_logs: dict[str, list[float | None]] = Field(
        description="Each objective, of which more is better; truncated and finished as 0 or 1."
    )
    reasons: list[str]


@router.post("/get_reward", responses={200: {"model": RewardReply}, **errors()})
async def get_reward(request: Request, body: RewardRequest, model: str | None = None) -> Response:
    """Return the reward of each query; `?model=` chooses one of several models."""
    chosen = served(request, model)
    chosen.batcher.check_count(len(body.query))
    answers = _answers(body, policy_text(request, chosen))
    return JSONReply(_reply(await text_rewards(request, chosen, answers)))


def _answers(body: RewardRequest, policy: PolicyText) -> list[PolicyAnswer]:
    if body.prompts is None:
        found = [policy.split(query) for query in body.query]
    elif len(body.prompts) == len(body.query):
        pairs = zip(body.query, body.prompts, strict=True)
        found = [policy.read(query, prompt) for query, prompt in pairs]
    else:
        expected = f"{len(body.query)}, one per query"
        raise DataError(
            "prompts do not match", expected=expected, got=len(body.prompts), where="prompts"
        )
    return [
        PolicyAnswer(prompt, response, policy.is_finished(query))
        for (prompt, response), query in zip(found, body.query, strict=True)
    ]


def _reply(rewards: Sequence[TextReward]) -> dict[str, Any]:
    names = rewards[0].objectives if rewards else ()
    logs = {name: [reward.objectives[name] for reward in rewards] for name in names}
    return {
        "rewards": [reward.reward for reward in rewards],
        "scores": [reward.probability for reward in rewards],
        "extra_logs": {
            **logs,
            "truncated": [float(reward.truncated) for reward in rewards],
            "finished": [float(reward.finished) for reward in rewards],
        },
        "reasons": [reward.reason for reward in rewards],
    }
