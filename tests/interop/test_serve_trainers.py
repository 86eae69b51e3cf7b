"""The protocols of OpenRLHF, LLaMA-Factory and slime, against the offline scores."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import httpx
import pytest
import torch

from prm.scoring.stages import Score
from tests.interop import recorded
from tests.interop.recorded import OpenRlhfResponse, ScoreEvaluationResponse
from tests.interop.served_models import ANSWER, PROMPT, STEPS, Served, rendered

MODELS = ["replies", "chat", "steps", "pairs"]


def post(served: Served, path: str, body: Any, status: int = 200) -> Any:
    """Return the JSON answer to a body."""
    answer = httpx.post(served.url + path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def offline(served: Served, name: str, response: str = ANSWER) -> Score:
    """Return the offline score of a response; a process model reads its lines as steps."""
    scorer = served.offline[name]
    record = (PROMPT, response if scorer.spec.response_heads else response.split("\n"))
    score: Score = scorer.score([record])[0]
    return score


def objectives(score: Any) -> dict[str, float]:
    """Return the values that trainers log."""
    return dict(score.utilities)


def close(expected: Any) -> Any:
    """Return what compares equal to 1e-5."""
    return pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_openrlhf_gets_the_offline_reward(served_policy: Served, name: str) -> None:
    found = post(served_policy, f"/get_reward?model={name}", recorded.OPENRLHF)
    answer = OpenRlhfResponse.model_validate(found)
    score = offline(served_policy, name)
    assert answer.rewards == close([score.reward])
    for objective, value in objectives(score).items():
        assert answer.extra_logs[objective] == close([value])
    assert answer.extra_logs["finished"] == [1.0]
    assert answer.extra_logs["truncated"] == [0.0]
    assert 0 <= answer.scores[0] <= 1


def test_openrlhf_may_send_nothing(served_policy: Served) -> None:
    found = post(served_policy, "/get_reward", recorded.OPENRLHF_EMPTY)
    assert found["rewards"] == found["scores"] == []


def test_what_follows_the_prompt_is_the_response(served_policy: Served) -> None:
    """A cut-off answer is not finished; one that is too long for the model is truncated."""
    prompt = rendered(PROMPT)
    responses = ["Two.", "Two.<|im_end|>\n", "<|im_end|>", "b " * 200]
    body = {"query": [prompt + one for one in responses], "prompts": [prompt] * 4}
    found = post(served_policy, "/get_reward", body)
    expected = offline(served_policy, "replies", "Two.").reward
    assert found["rewards"][0] == close(expected)
    assert found["rewards"][2] == -5.0
    assert found["extra_logs"]["finished"] == [0.0, 1.0, 1.0, 0.0]
    assert found["extra_logs"]["truncated"] == [0.0, 0.0, 0.0, 1.0]


def test_queries_without_prompts_are_read_by_the_chat_template(served_policy: Served) -> None:
    body = {"query": recorded.OPENRLHF["query"]}
    with_prompts = post(served_policy, "/get_reward", recorded.OPENRLHF)
    assert post(served_policy, "/get_reward", body) == with_prompts


def test_no_reward_is_null_and_has_a_reason(served: Served) -> None:
    body = {"query": [PROMPT, f"{PROMPT} 14"], "prompts": [PROMPT, PROMPT]}
    found = post(served, "/get_reward", body)
    assert found["rewards"][0] is None
    assert found["scores"][0] is None
    assert found["reasons"] == ["the response has no text", ""]
    assert found["rewards"][1] == close(offline(served, "replies", " 14").reward)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"query": ["a"], "prompts": ["b"]}, "does not begin with the prompt"),
        ({"query": ["a", "b"], "prompts": ["a"]}, "prompts do not match"),
        (recorded.OPENRLHF, "--policy_tokenizer"),
        ({"query": ["2 + 2 = ? 4<|eot_id|>"], "prompts": ["2 + 2 = ?"]}, "--policy_tokenizer"),
        ({"query": ["<s>2 + 2 = ? 4"], "prompts": ["<s>2 + 2 = ?"]}, "--policy_tokenizer"),
        ({"query": ["2 + 2 = ? 4</s>"], "prompts": ["2 + 2 = ?"]}, "--policy_tokenizer"),
        ({"query": ["2 + 2 = ? 4"]}, "chat template"),
        ({"queries": ["a"]}, "query"),
    ],
)
def test_texts_that_cannot_be_read_are_refused(served: Served, body: Any, says: str) -> None:
    assert says in str(post(served, "/get_reward", body, 422))


@pytest.mark.parametrize("name", ["model", *MODELS])
def test_llama_factory_gets_the_offline_reward(served_policy: Served, name: str) -> None:
    body = recorded.LLAMA_FACTORY | {"model": name}
    answer = ScoreEvaluationResponse.model_validate(
        post(served_policy, "/v1/score/evaluation", body)
    )
    score = offline(served_policy, "replies" if name == "model" else name)
    assert answer.scores == close([score.reward])


@pytest.mark.parametrize("name", MODELS)
def test_slime_gets_the_offline_reward(served_policy: Served, name: str) -> None:
    score = offline(served_policy, name)
    reward = post(served_policy, f"/rm?model={name}", recorded.SLIME)
    assert isinstance(reward, float)
    assert reward == close(score.reward)
    named = post(served_policy, f"/rm/objectives?model={name}", recorded.SLIME)
    assert named["reward"] == reward
    assert named["finished"] is True
    for objective, value in objectives(score).items():
        assert named[objective] == close(value)


def test_slime_may_send_messages(served_policy: Served) -> None:
    body = recorded.SLIME | {"prompt": [{"role": "user", "content": PROMPT}]}
    expected = post(served_policy, "/rm", recorded.SLIME)
    assert post(served_policy, "/rm", body) == close(expected)


def test_slime_gets_an_error_where_there_is_no_reward(served: Served) -> None:
    body = {"prompt": PROMPT, "response": " ", "label": None}
    assert "no text" in str(post(served, "/rm", body, 422))


def test_steps_are_split_as_the_spec_says(served_policy: Served) -> None:
    """Blank lines and spaces around steps change nothing."""
    loose = recorded.SLIME | {"response": "\n\n".join(f" {step} " for step in STEPS)}
    expected = post(served_policy, "/rm?model=steps", recorded.SLIME)
    assert post(served_policy, "/rm?model=steps", loose) == close(expected)


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of OpenRLHF's client, loaded by its path, with its logger alone in its place."""
    package = importlib.util.find_spec("openrlhf")
    if package is None or not package.submodule_search_locations:
        pytest.skip("needs openrlhf")
    logs = ModuleType("openrlhf.utils.logging_utils")
    logs.init_logger = logging.getLogger  # type: ignore[attr-defined]
    for name in ("openrlhf", "openrlhf.utils"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, logs.__name__, logs)
    path = Path(package.submodule_search_locations[0]) / "utils" / "agent.py"
    spec = importlib.util.spec_from_file_location("openrlhf_agent", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("num_endpoints", [1, 2])
@pytest.mark.parametrize("name", ["replies", "steps"])
def test_the_client_of_openrlhf_gets_the_offline_reward(
    served_policy: Served, agent: ModuleType, name: str, num_endpoints: int
) -> None:
    url = f"{served_policy.url}/get_reward?model={name}"
    client = agent.SingleTurnAgentExecutor([url] * num_endpoints)
    body = {key: value * 3 for key, value in recorded.OPENRLHF.items()}
    found = asyncio.run(
        client._fetch_rewards_via_http(body["query"], body["prompts"], body["labels"])
    )
    assert len(found) == num_endpoints
    rewards = [reward for part in found for reward in part["rewards"]]
    assert rewards == close([offline(served_policy, name).reward] * 3)


def test_a_rollout_of_openrlhf_holds_the_offline_reward(
    served_policy: Served, agent: ModuleType
) -> None:
    """The whole of `execute`, with a policy that always says the same."""
    tokenizer = Tokenizer()
    said = tokenizer.encode(ANSWER + "<|im_end|>")

    class Engine:
        async def generate(self, *_: Any, **__: Any) -> Any:
            output = SimpleNamespace(token_ids=said, finish_reason="stop", logprobs=None)
            return SimpleNamespace(outputs=[output])

    client = agent.SingleTurnAgentExecutor(f"{served_policy.url}/get_reward")
    params = SimpleNamespace(max_tokens=512, logprobs=None)
    found = asyncio.run(client.execute(rendered(PROMPT), "14", params, 4096, tokenizer, Engine()))
    score: Any = offline(served_policy, "replies")
    assert found["reward"] == close([score.reward])
    assert 0 <= found["scores"][0] <= 1
    assert found["extra_logs"]["safety"] == close([score.utilities["safety"]])


class Tokenizer:
    """A policy's tokenizer that has a token per character."""

    def encode(self, text: str) -> list[int]:
        """Return token ids."""
        return [ord(character) for character in text]

    def __call__(self, text: str, **_: Any) -> dict[str, Any]:
        """Return token ids as a batch of one."""
        return {"input_ids": torch.tensor([self.encode(text)])}

    def decode(self, ids: list[int], **_: Any) -> str:
        """Return the text of token ids."""
        return "".join(map(chr, ids))
