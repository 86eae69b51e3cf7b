"""OpenRLHF: the file of a `reward_func`; with OpenRLHF installed, its own code loads it."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import logging
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from prm.errors import ConfigError, DataError
from prm.models import checkpoint
from prm.records import Chain, Rating
from prm.rl.openrlhf import OpenRLHFReward
from prm.scoring.scorer import RewardScorer
from tests.outcome_models import outcome_model
from tests.tiny_models import tiny_model, tiny_tokenizer

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PROMPT = "What is 2 + 3 * 4?"
RENDERED = f"<|im_start|>user\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n"
STEPS = ["3 * 4 = 12", "2 + 12 = 15"]
RESPONSE = "\n".join(STEPS)

CALL: tuple[list[str], ...] = ([f"{RENDERED}{RESPONSE}<|im_end|>"], [RENDERED], ["14"])
"""openrlhf 0.11.2, openrlhf/utils/agent.py, `_fetch_rewards_via_func`: one sample, by position."""


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint.save(tiny_model(), tmp_path_factory.mktemp("process") / "model")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint.save(outcome_model(), tmp_path_factory.mktemp("outcome") / "model")


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a policy's tokenizer with a chat template."""
    tokenizer = tiny_tokenizer(290)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = TEMPLATE
    folder = tmp_path_factory.mktemp("policy")
    tokenizer.save_pretrained(folder)
    return folder


def test_reward_logs_and_scores_are_those_of_the_scorer(outcome: Path, policy: Path) -> None:
    reward_func = OpenRLHFReward(outcome, policy=policy, device="cpu")
    inspect.signature(reward_func).bind(*CALL)

    found = reward_func(*CALL)

    (score,) = RewardScorer.from_pretrained(outcome, "cpu").score([Rating(PROMPT, RESPONSE)])
    assert found["rewards"].tolist() == pytest.approx([score.reward], abs=1e-5)
    torch.testing.assert_close(found["scores"], found["rewards"].sigmoid())
    logs = {name: values.tolist() for name, values in found["extra_logs"].items()}
    assert logs == {name: pytest.approx([value]) for name, value in score.utilities.items()}


def test_a_probability_is_its_own_score(process: Path, policy: Path) -> None:
    reward_func = OpenRLHFReward(process, policy=policy, device="cpu")
    found = reward_func(*CALL)
    (score,) = RewardScorer.from_pretrained(process, "cpu").score([Chain(PROMPT, STEPS)])
    assert found["scores"].tolist() == found["rewards"].tolist()
    assert found["rewards"].tolist() == pytest.approx([score.reward], abs=1e-5)


def test_without_a_policy_texts_are_taken_as_they_are(outcome: Path) -> None:
    found = OpenRLHFReward(outcome, device="cpu")([f"{PROMPT} 14", "? 5"], [PROMPT, "?"], [0, 0])
    scores = RewardScorer.from_pretrained(outcome, "cpu").score(
        [Rating(PROMPT, " 14"), Rating("?", " 5")]
    )
    assert found["rewards"].tolist() == pytest.approx([s.reward for s in scores], abs=1e-5)


def test_what_has_no_reward_is_refused_unless_something_stands_for_it(
    process: Path, policy: Path
) -> None:
    empty = ([f"{RENDERED}<|im_end|>"], [RENDERED], [""])
    with pytest.raises(DataError, match="no reward"):
        OpenRLHFReward(process, policy=policy, device="cpu")(*empty)
    found = OpenRLHFReward(process, policy=policy, device="cpu", unscored=-1.0)(*empty)
    assert found["rewards"].tolist() == [-1.0]
    assert found["scores"].tolist() == [0.0]
    assert found["extra_logs"]["correctness"].isnan().all()


def test_mistakes_are_found_when_the_file_is_loaded(process: Path) -> None:
    with pytest.raises(ConfigError, match="agregation"):
        OpenRLHFReward(process, agregation="min")


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Any:
    """OpenRLHF's own module that calls reward functions; its package would need vLLM and more."""
    found = importlib.util.find_spec("openrlhf")
    if found is None or importlib.util.find_spec("aiohttp") is None:
        pytest.skip("needs openrlhf and aiohttp")
    log = ModuleType("openrlhf.utils.logging_utils")
    log.init_logger = logging.getLogger  # type: ignore[attr-defined]
    for name in ("openrlhf", "openrlhf.utils"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, log.__name__, log)
    (folder,) = found.submodule_search_locations
    spec = importlib.util.spec_from_file_location("agent", Path(folder, "utils", "agent.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_openrlhf_loads_the_file(agent: Any, outcome: Path, policy: Path, tmp_path: Path) -> None:
    """From the file to the reward that its single-turn agent reports."""
    file = tmp_path / "reward.py"
    file.write_text(
        "from prm.rl.openrlhf import OpenRLHFReward\n"
        f'reward_func = OpenRLHFReward("{outcome}", policy="{policy}", device="cpu")\n'
    )
    executor = agent.SingleTurnAgentExecutor(str(file))
    (score,) = RewardScorer.from_pretrained(outcome, "cpu").score([Rating(PROMPT, RESPONSE)])

    output = asyncio.run(generated(executor, policy))

    assert output["reward"].tolist() == pytest.approx([score.reward], abs=1e-5)
    assert output["scores"].tolist() == pytest.approx([torch.tensor(score.reward).sigmoid().item()])
    assert set(output["extra_logs"]) == {"helpfulness", "toxicity"}


async def generated(executor: Any, policy: Path) -> dict[str, Any]:
    """Return what the agent makes of a policy that answers with `RESPONSE`."""
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(policy)
    ids = tokenizer(f"{RESPONSE}<|im_end|>", add_special_tokens=False)["input_ids"]
    answer = SimpleNamespace(token_ids=ids, finish_reason="stop", logprobs=None)

    async def generate(*_: Any, **__: Any) -> SimpleNamespace:
        return SimpleNamespace(outputs=[answer])

    engine = SimpleNamespace(generate=generate)
    sampling = SimpleNamespace(max_tokens=64, logprobs=None)
    return await executor.execute(RENDERED, "14", sampling, 256, tokenizer, engine)
