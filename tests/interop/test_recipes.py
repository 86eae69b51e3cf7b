"""The recipes in the documentation, called as the trainers call them."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoTokenizer

from prm.records import Chain, Rating
from prm.rl import verl
from prm.rl.shared import shared_reward_function
from prm.rl.token_rewards import StepCredit
from prm.scoring.scorer import RewardScorer
from tests.interop import recorded_trainers as trainers

PROMPT = "What is 2 + 3 * 4?"
STEPS = ["3 * 4 = 12", "2 + 12 = 15"]
RESPONSE = "\n".join(STEPS)
QUESTION = [{"role": "user", "content": PROMPT}]
ANSWER = {"role": "assistant", "content": RESPONSE}
MESSAGES = tuple(QUESTION)


@pytest.fixture(scope="module", autouse=True)
def models(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folders that the recipes name, in the working directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("recipes"))
        trainers.save_models()
        trainers.install()
        yield


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs/guides/rl-trainers.md").read_text(encoding="utf-8")


def recipe(page: str, name: str) -> dict[str, Any]:
    """Run the Python block whose first line is a comment with this name."""
    (code,) = re.findall(rf"^```python\n# {name}\n(.*?)^```", page, re.M | re.S)
    names: dict[str, Any] = {}
    exec(compile(code, name, "exec"), names)
    return names


def settings(page: str, name: str) -> dict[str, Any]:
    (text,) = re.findall(rf"^```yaml\n# {name}\n(.*?)^```", page, re.M | re.S)
    return dict(yaml.safe_load(text))


@pytest.fixture(scope="module")
def policy() -> Any:
    return AutoTokenizer.from_pretrained("Qwen/Qwen3-0.6B")


def chain_reward(prompt: Any = PROMPT) -> Any:
    """Return the expected reward of the response, scored as steps."""
    scorer = RewardScorer.from_pretrained("runs/arithmetic/model")
    return pytest.approx(scorer.score([Chain(prompt, STEPS)])[0].reward, abs=1e-5)


def response_score(prompt: Any = PROMPT) -> Any:
    scorer = RewardScorer.from_pretrained("runs/replies/model")
    return scorer.score([Rating(prompt, RESPONSE)])[0]


def test_verl(page: str) -> None:
    config = settings(page, "verl")
    call = {
        "data_source": "",
        "solution_str": RESPONSE,
        "ground_truth": "",
        "extra_info": {"prompt": PROMPT},
    }
    found = verl.compute_score(
        **call, **config["reward"]["custom_reward_function"]["reward_kwargs"]
    )
    expected = response_score()
    assert found == pytest.approx({"score": expected.reward, **expected.utilities}, abs=1e-5)
    assert set(config["algorithm"]["gdpo_reward_keys"]) == set(expected.utilities)


def test_verl_with_dense_rewards(page: str, policy: Any) -> None:
    """The options of the reward manager, which `tests/interop/test_verl.py` runs inside verl."""
    reward = settings(page, "verl, dense")["reward"]
    assert reward["reward_manager"]["module"]["path"] == f"pkg://{verl.__name__}"
    options = reward["custom_reward_function"]["reward_kwargs"]
    credit = StepCredit(**{key: options.pop(key) for key in verl.CREDIT if key in options})
    ids = policy(RESPONSE, add_special_tokens=False)["input_ids"]
    batch = {"responses": torch.tensor(ids), "attention_mask": torch.ones(len(ids) + 3)}
    item = SimpleNamespace(batch=batch, non_tensor_batch={"raw_prompt": QUESTION})
    function = shared_reward_function(**options)
    found = verl.score_item(item, function, policy, credit)
    scorer = RewardScorer.from_pretrained("runs/arithmetic/model")
    (score,) = scorer.score([Chain(MESSAGES, STEPS)])
    assert found["reward_score"] == pytest.approx(score.probabilities[-1], abs=1e-5)


def test_openrlhf(page: str, policy: Any) -> None:
    reward_func = recipe(page, "reward.py")["reward_func"]
    rendered = policy.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
    found = reward_func([f"{rendered}{RESPONSE}<|im_end|>"], [rendered], ["14"])
    assert found["rewards"].tolist() == pytest.approx([response_score().reward], abs=1e-5)


def test_nemo_rl(page: str) -> None:
    environment = recipe(page, "nemo_rl")["ObjectivesEnvironment"]({"model": "runs/replies/model"})
    found = environment.step([[*QUESTION, ANSWER], [*QUESTION, ANSWER]], [None, None])
    expected = response_score(MESSAGES).utilities
    keys = trainers.gdpo_reward_component_keys(found.rewards)
    assert keys == [f"reward/{name}" for name in sorted(expected)]
    for key in keys:
        value = expected[key.removeprefix("reward/")]
        assert found.rewards[key].tolist() == pytest.approx([value] * 2, abs=1e-5)
    assert found.terminateds.tolist() == [1.0, 1.0]


def test_skyrl_environment(page: str) -> None:
    environment = recipe(page, "skyrl")["ChainEnv"](None, extras={"reward_spec": {}})
    environment.init(QUESTION)
    found = environment.step(RESPONSE)
    assert found["reward"] == chain_reward(MESSAGES)
    assert found["done"] is True


def test_skyrl_generator(page: str, policy: Any) -> None:
    ids = policy([f"{RESPONSE}<|im_end|>", "20"], add_special_tokens=False)["input_ids"]
    generator = recipe(page, "skyrl, dense")["StepRewardGenerator"](None, None, ids, policy)
    output = asyncio.run(generator.generate({"prompts": [QUESTION] * 2}))
    scorer = RewardScorer.from_pretrained("runs/arithmetic/model")
    scores = scorer.score([Chain(MESSAGES, STEPS), Chain(MESSAGES, ["20"])])
    assert [len(rewards) for rewards in output["rewards"]] == [len(own) for own in ids]
    totals = [sum(rewards) for rewards in output["rewards"]]
    assert totals == pytest.approx([score.probabilities[-1] for score in scores], abs=1e-5)


def test_slime(page: str, policy: Any) -> None:
    rendered = policy.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
    samples = [
        trainers.Sample(rendered, f"{RESPONSE}<|im_end|>"),
        trainers.Sample(QUESTION, RESPONSE),
        trainers.Sample(PROMPT, " "),
    ]
    found = asyncio.run(trainers.slime_rewards(recipe(page, "slime")["reward"], samples))
    assert found == [chain_reward(), chain_reward(MESSAGES), 0.0]


def test_areal(page: str, policy: Any) -> None:
    reward_fn = recipe(page, "areal")["reward_fn"]
    data = {"messages": QUESTION, "answer": "14"}
    found = trainers.areal_reward(reward_fn, policy, data, f"{RESPONSE}<|im_end|>")
    assert found == chain_reward(MESSAGES)


def test_verifiers(page: str) -> None:
    task = recipe(page, "verifiers")["HelpfulTask"](SimpleNamespace(prompt=PROMPT))
    found = asyncio.run(trainers.verifiers_rewards(task, SimpleNamespace(last_reply=RESPONSE)))
    expected = response_score().utilities
    assert found == {
        "helpfulness": (pytest.approx(expected["helpfulness"], abs=1e-5), 1.0),
        "safety": (pytest.approx(expected["safety"], abs=1e-5), 2.0),
    }


def test_ms_swift(page: str) -> None:
    reward = recipe(page, "swift")["orms"]["prm"]()
    found = trainers.swift_rewards(reward, [[*QUESTION, ANSWER]])
    assert found == pytest.approx([response_score(MESSAGES).reward], abs=1e-5)
