"""The parts of RL trainers that recipes build on, as recorded from their sources.

Each stands in for a package that is not installed: names, signatures and calls, and nothing else.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, NamedTuple

from torch import Tensor

from prm.models import checkpoint
from prm.spec import ResponseHead
from tests.outcome_models import outcome_model
from tests.tiny_models import tiny_model, tiny_tokenizer
from tests.tolerance import near

CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""A chat template like Qwen's."""


def save_models() -> None:
    """Write the models and the policy's tokenizer that recipes name, below the working folder."""
    names = ("helpfulness", "safety", "factuality")
    objectives = tuple(ResponseHead(name) for name in names)
    checkpoint.save(outcome_model(response_heads=objectives), "runs/replies/model")
    checkpoint.save(tiny_model(), "runs/arithmetic/model")
    policy = tiny_tokenizer(280)
    policy.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    policy.chat_template = CHAT
    policy.save_pretrained("Qwen/Qwen3-0.6B")


class EnvironmentReturn(NamedTuple):
    """NVIDIA-NeMo/RL, nemo_rl/environments/interfaces.py, commit 0b8a793; reward columns: GDPO."""

    observations: list[dict[str, str]]
    metadata: list[Any]
    next_stop_strings: list[list[str] | None]
    rewards: Tensor | dict[str, Tensor]
    terminateds: Tensor
    answers: list[str | None] | None = None


class EnvironmentInterface(ABC):
    """NVIDIA-NeMo/RL, nemo_rl/environments/interfaces.py, commit 0b8a793."""

    @abstractmethod
    def step(
        self, message_log_batch: list[list[dict[str, Any]]], metadata: list[Any]
    ) -> EnvironmentReturn: ...

    @abstractmethod
    def global_post_process_and_metrics(self, batch: Any) -> tuple[Any, dict[str, Any]]: ...


def gdpo_reward_component_keys(batch: dict[str, Any]) -> list[str]:
    """NVIDIA-NeMo/RL, nemo_rl/algorithms/utils.py, `get_gdpo_reward_component_keys`."""
    return sorted(key for key in batch if key.startswith("reward/"))


class BaseTextEnvStepOutput(dict[str, Any]):
    """NovaSky-AI/SkyRL, skyrl-gym/skyrl_gym/envs/base_text_env.py, commit 4855491: a TypedDict."""


class BaseTextEnv:
    """NovaSky-AI/SkyRL, skyrl-gym/skyrl_gym/envs/base_text_env.py, commit 4855491."""

    def __init__(self) -> None:
        self.turns = 0
        self.max_turns = 1

    def step(self, action: str) -> BaseTextEnvStepOutput:
        raise NotImplementedError

    def init(self, prompt: list[dict[str, str]]) -> tuple[list[dict[str, str]], dict[str, Any]]:
        return prompt, {}


class SkyRLGymGenerator:
    """NovaSky-AI/SkyRL, skyrl/train/generators/{base,skyrl_gym_generator}.py, commit 12f1ad3.

    `responses` stands for what the inference engine generates.
    """

    def __init__(
        self, generator_cfg: Any, skyrl_gym_cfg: Any, inference_engine_client: Any, tokenizer: Any
    ) -> None:
        self.tokenizer = tokenizer
        self.responses = inference_engine_client

    async def generate(self, input_batch: dict[str, Any]) -> dict[str, Any]:
        return {
            "prompt_token_ids": [[1]] * len(self.responses),
            "response_ids": self.responses,
            "rewards": [0.0] * len(self.responses),
            "loss_masks": [[1] * len(ids) for ids in self.responses],
            "stop_reasons": ["stop"] * len(self.responses),
            "rollout_metrics": None,
            "rollout_logprobs": None,
        }


@dataclass
class Sample:
    """THUDM/slime, slime/utils/types.py: what reward functions read of it."""

    prompt: str | list[dict[str, str]]
    response: str
    label: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


async def slime_rewards(rm_function: Callable[..., Any], samples: list[Sample]) -> list[float]:
    """THUDM/slime, slime/rollout/rm_hub/__init__.py, commit 0b420f1: one by one, and as a batch."""
    args = object()
    single = await asyncio.gather(*(rm_function(args, sample) for sample in samples))
    batch: list[float] = await rm_function(args, samples)
    assert single == near(batch)
    return batch


def areal_reward(
    reward_fn: Callable[..., Any], tokenizer: Any, data: dict[str, Any], response: str
) -> float:
    """inclusionAI/AReaL, areal/workflow/rlvr.py, commit 072480e: texts with special tokens, ids."""
    input_ids = tokenizer.apply_chat_template(
        data["messages"], tokenize=True, add_generation_prompt=True, return_dict=False
    )
    output_ids = tokenizer(response, add_special_tokens=False)["input_ids"]
    prompt, completion = tokenizer.decode(input_ids), tokenizer.decode(output_ids)
    inspect.signature(reward_fn).bind(prompt, completion, input_ids, output_ids, **data)
    return float(reward_fn(prompt, completion, input_ids, output_ids, **data))


class Task:
    """PrimeIntellect-ai/verifiers 0.4.0, verifiers/v1/task.py."""

    def __init__(self, data: Any) -> None:
        self.data = data


def reward(func: Any = None, weight: float = 1.0, priority: int = 0) -> Any:
    """PrimeIntellect-ai/verifiers 0.4.0, verifiers/v1/utils/decorators.py."""

    def decorator(method: Any) -> Any:
        method.reward, method._vf_weight = True, weight
        return method

    return decorator if func is None else decorator(func)


async def verifiers_rewards(task: Task, trace: Any) -> dict[str, tuple[float, float]]:
    """PrimeIntellect-ai/verifiers 0.4.0, verifiers/v1/task.py: rewards by name, with weights."""
    methods = [
        getattr(task, name) for name, own in vars(type(task)).items() if hasattr(own, "reward")
    ]
    available = {"task": task, "trace": trace, "runtime": object()}
    found = {}
    for method in methods:
        wanted = {key: available[key] for key in inspect.signature(method).parameters}
        found[method.__name__] = (await method(**wanted), method._vf_weight)
    return found


class ORM:
    """modelscope/ms-swift, swift/rewards/orm.py, commit 0431a5d."""

    def __init__(self, args: Any = None, **kwargs: Any) -> None:
        self.args = args

    def __call__(self, **kwargs: Any) -> list[float]:
        raise NotImplementedError


def swift_rewards(reward_func: ORM, messages: list[list[dict[str, str]]]) -> list[float]:
    """modelscope/ms-swift, GRPO trainer, `_score_completions`: columns of rows by keyword."""
    completions = [turns[-1]["content"] for turns in messages]
    columns = {"messages": messages, "solution": [""] * len(messages), "trainer_state": object()}
    inspect.signature(reward_func).bind(completions, **columns)
    return reward_func(completions, **columns)


PARTS: dict[str, dict[str, Any]] = {
    "nemo_rl.environments.interfaces": {
        "EnvironmentInterface": EnvironmentInterface,
        "EnvironmentReturn": EnvironmentReturn,
    },
    "skyrl_gym.envs.base_text_env": {
        "BaseTextEnv": BaseTextEnv,
        "BaseTextEnvStepOutput": BaseTextEnvStepOutput,
    },
    "skyrl.train.generators.skyrl_gym_generator": {"SkyRLGymGenerator": SkyRLGymGenerator},
    "verifiers.v1": {"Task": Task, "reward": reward, "Trace": object},
    "swift.rewards": {"ORM": ORM, "orms": {}},
}
"""Modules that recipes import, and what of them."""


def install() -> None:
    """Make the modules importable where the packages are not installed."""
    for name, parts in PARTS.items():
        package, *rest = name.split(".")
        if package not in sys.modules and importlib.util.find_spec(package) is not None:
            continue
        for depth in range(len(rest) + 1):
            path = ".".join([package, *rest[:depth]])
            module = sys.modules.setdefault(path, ModuleType(path))
            if depth:
                parent, _, own = path.rpartition(".")
                setattr(sys.modules[parent], own, module)
        vars(sys.modules[name]).update(parts)
