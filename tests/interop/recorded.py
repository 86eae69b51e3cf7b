"""What other programs send and how they read the answers, as recorded from their sources.

Each request names the file and version it was recorded from. The answer classes are how the client,
or its documentation, describes what it takes.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

# openrlhf/utils/agent.py, SingleTurnAgentExecutor._fetch_rewards_via_http, OpenRLHF 0.11.2
_PROMPT = "<|im_start|>user\nWhat is 2 + 3 * 4?<|im_end|>\n<|im_start|>assistant\n"
_RESPONSE = "3 * 4 = 12\n2 + 12 = 15\nIt is 15.<|im_end|>"
OPENRLHF: dict[str, Any] = {
    "query": [_PROMPT + _RESPONSE],
    "prompts": [_PROMPT],
    "labels": ["14"],
}

# the same before requests rotated over endpoints: surplus endpoints were sent empty lists
OPENRLHF_EMPTY: dict[str, Any] = {"query": [], "prompts": [], "labels": []}

# verl/experimental/reward_loop/reward_loop.py, compute_score_disrm, verl 0.9.1; engine vllm
VERL_VLLM: dict[str, Any] = {
    "model": "chat:reward",
    "input": f"{_PROMPT}It is 15.<|im_end|>\n",
    "use_activation": False,
}

# the same, engine sglang
VERL_SGLANG: dict[str, Any] = {"model": "chat:reward", "input": VERL_VLLM["input"]}

# vllm/entrypoints/pooling/classify/protocol.py, ClassificationCompletionRequest, vLLM 0.33
VLLM_CLASSIFY: dict[str, Any] = {
    "model": "replies",
    "input": ["What is 2 + 3 * 4?\n20</s>", "1 + 1 = ?\nTwo.</s>"],
    "use_activation": False,
    "add_special_tokens": False,
}

# vllm/entrypoints/pooling/pooling/protocol.py, PoolingChatRequest, vLLM 0.33
VLLM_POOLING: dict[str, Any] = {
    "model": "steps",
    "messages": [
        {"role": "user", "content": "What is 2 + 3 * 4?"},
        {"role": "assistant", "content": "3 * 4 = 12\n2 + 12 = 15\nIt is 15."},
    ],
    "task": "token_classify",
    "use_activation": True,
    "encoding_format": "float",
}

# python/sglang/srt/managers/io_struct.py, EmbeddingReqInput, SGLang 0.5.23
SGLANG_CLASSIFY: dict[str, Any] = {"text": VLLM_CLASSIFY["input"]}

# src/llamafactory/train/ppo/ppo_utils.py, get_rewards_from_server, LLaMA-Factory 0.9.5
LLAMA_FACTORY: dict[str, Any] = {"model": "model", "messages": OPENRLHF["query"]}

# slime/rollout/rm_hub/__init__.py, remote_rm, commit 0b420f1
SLIME: dict[str, Any] = {
    "prompt": _PROMPT,
    "response": _RESPONSE,
    "label": "14",
}


class Extra(BaseModel):
    """An answer of a protocol that lets a server add fields."""

    model_config = ConfigDict(extra="allow", strict=True)


class Usage(Extra):
    """`UsageInfo` of vLLM and SGLang."""

    prompt_tokens: int
    total_tokens: int


class ClassificationData(Extra):
    """Of vLLM."""

    index: int
    label: str | None
    probs: list[float]
    num_classes: int


class ClassificationResponse(Extra):
    """Of vLLM."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[ClassificationData]
    usage: Usage


class PoolingResponseData(Extra):
    """Of vLLM."""

    index: int
    object: Literal["pooling"]
    data: list[list[float]] | list[float] | str


class PoolingResponse(Extra):
    """Of vLLM."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[PoolingResponseData]
    usage: Usage


class SglangEmbedding(Extra):
    """An item of SGLang's native answer."""

    embedding: list[float]
    meta_info: dict[str, Any]


class EmbeddingObject(Extra):
    """Of OpenAI and SGLang."""

    embedding: list[float]
    index: int
    object: Literal["embedding"]


class EmbeddingResponse(Extra):
    """Of OpenAI and SGLang."""

    data: list[EmbeddingObject]
    model: str
    object: Literal["list"]
    usage: Usage


class ScoreEvaluationResponse(Extra):
    """Of LLaMA-Factory."""

    id: str
    object: Literal["score.evaluation"]
    model: str
    scores: list[float]


class OpenRlhfResponse(Extra):
    """What OpenRLHF reads."""

    rewards: list[float]
    scores: list[float]
    extra_logs: dict[str, list[float]]
