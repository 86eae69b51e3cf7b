"""verl: recorded calls of its reward managers; with verl installed, the managers themselves."""

from __future__ import annotations

import asyncio
import inspect
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import prm.rl.verl
from prm.errors import ConfigError, DataError
from prm.models import checkpoint
from prm.records import Chain, Rating
from prm.rl.shared import shared_reward_function
from prm.rl.token_rewards import StepCredit
from prm.rl.verl import DenseScore, compute_score, compute_scores, dense_rm_scores, score_item
from prm.scoring.scorer import RewardScorer
from tests.outcome_models import outcome_model
from tests.tiny_models import tiny_model, tiny_tokenizer

PROMPT = "What is 2 + 3 * 4?"
STEPS = ["3 * 4 = 12", "2 + 12 = 15"]
RESPONSE = "\n".join(STEPS)
EXTRA = {"prompt": PROMPT, "num_turns": 2, "rollout_reward_scores": {}}

CALL = {
    "data_source": "arithmetic",
    "solution_str": RESPONSE,
    "ground_truth": "14",
    "extra_info": EXTRA,
}
"""verl 0.9.1, verl/experimental/reward_loop/reward_manager/naive.py, `run_single`."""

ROUTED_CALL = CALL | {"reward_router_address": "127.0.0.1:1", "reward_model_tokenizer": object()}
"""The same with `reward.reward_model.enable`."""

BATCH_CALL = {
    "data_sources": ["arithmetic"] * 2,
    "solution_strs": [RESPONSE, "20"],
    "ground_truths": ["14", "14"],
    "extra_infos": [EXTRA, EXTRA],
}
"""verl 0.9.1, verl/workers/reward_manager/batch.py, `verify`."""


def call_with_kwargs(raw_fn: Any, extra_kwargs: dict[str, Any], **kwargs: Any) -> Any:
    """verl 0.9.1, verl/trainer/ppo/reward.py, `_call_with_kwargs`."""
    return raw_fn(**{**kwargs, **extra_kwargs})


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint.save(tiny_model(), tmp_path_factory.mktemp("process") / "model")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint.save(outcome_model(), tmp_path_factory.mktemp("outcome") / "model")


@pytest.mark.parametrize("call", [CALL, ROUTED_CALL], ids=["naive", "routed"])
def test_score_and_objectives_are_those_of_the_scorer(outcome: Path, call: dict[str, Any]) -> None:
    options = {"model": str(outcome), "device": "cpu"}
    inspect.signature(compute_score).bind(**call, **options)
    found = partial(call_with_kwargs, compute_score, options)(**call)
    (expected,) = RewardScorer.from_pretrained(outcome, "cpu").score([Rating(PROMPT, RESPONSE)])
    assert found == pytest.approx({"score": expected.reward, **expected.utilities}, abs=1e-5)
    assert all(type(value) is float for value in found.values())


def test_a_batch_has_the_same_keys_for_every_response(process: Path) -> None:
    options = {"model": str(process), "device": "cpu", "step_aggregation": "product"}
    inspect.signature(compute_scores).bind(**BATCH_CALL, **options)
    found = compute_scores(**BATCH_CALL, **options)
    expected = RewardScorer.from_pretrained(process, "cpu", step_aggregation="product").score(
        [Chain(PROMPT, STEPS), Chain(PROMPT, ["20"])]
    )
    for mine, score in zip(found, expected, strict=True):
        assert mine == pytest.approx({"score": score.reward, "correctness": score.reward}, abs=1e-5)


def test_messages_from_a_table_are_a_prompt(outcome: Path) -> None:
    """A prompt that was read from Parquet is an array of messages."""
    import numpy as np

    options = {"model": str(outcome), "device": "cpu", "prompt_key": "question"}
    messages = np.array([{"role": "user", "content": PROMPT}], dtype=object)
    found = compute_score(**CALL | {"extra_info": {"question": messages}}, **options)
    texts = compute_score(**CALL | {"extra_info": {"question": PROMPT}}, **options)
    assert found == pytest.approx(texts)


def test_options_may_come_from_omegaconf_and_make_one_function(outcome: Path) -> None:
    mapping = {"name": "weighted_sum", "weights": {"helpfulness": 2, "toxicity": 0}}
    options = {"device": "cpu", "objective_aggregation": mapping}
    found = compute_score(**CALL, model=str(outcome), **options)
    assert found["score"] == pytest.approx(2 * found["helpfulness"])
    one = shared_reward_function(outcome, **options)
    assert shared_reward_function(str(outcome), **options) is one
    with pytest.raises(ConfigError, match=r"unknown options of the reward.*got temprature"):
        compute_score(**CALL, model=str(outcome), temprature=1)


def test_what_has_no_reward_is_refused_unless_something_stands_for_it(process: Path) -> None:
    options = {"model": str(process), "device": "cpu"}
    with pytest.raises(DataError, match="unscored"):
        compute_score(**CALL | {"solution_str": " "}, **options)
    found = compute_score(**CALL | {"solution_str": " "}, **options, unscored=-1.0)
    assert found == {"score": -1.0, "correctness": -1.0}
    with pytest.raises(DataError, match="prompt_key"):
        compute_score(**CALL | {"extra_info": {"num_turns": 2}}, **options)


def test_calls_from_several_threads_get_their_own_rewards(process: Path) -> None:
    options = {"model": str(process), "device": "cpu", "max_tokens": 4096}
    texts = [RESPONSE, "20", "It is 14."] * 4

    def score(text: str) -> float:
        return compute_score(**CALL | {"solution_str": text}, **options)["score"]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(score, texts))
    assert found == [score(text) for text in texts]


def row(response_ids: list[int], width: int, **non_tensor: Any) -> SimpleNamespace:
    """Return a row as verl's `DataProtoItem`: prompt padded on the left, response on the right."""
    num_pads = width - len(response_ids)
    mask = [0, 1, 1] + [1] * len(response_ids) + [0] * num_pads
    responses = torch.tensor([*response_ids, *[0] * num_pads])
    batch = {"responses": responses, "attention_mask": torch.tensor(mask)}
    return SimpleNamespace(batch=batch, non_tensor_batch={"raw_prompt": PROMPT} | non_tensor)


def test_dense_rewards_are_those_of_the_steps(process: Path) -> None:
    tokenizer = tiny_tokenizer(280)
    function = shared_reward_function(process, device="cpu")
    ids = [*tokenizer(RESPONSE, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]

    found = score_item(row(ids, 60), function, tokenizer, StepCredit("raw"))

    (score,) = RewardScorer.from_pretrained(process, "cpu").score([Chain(PROMPT, STEPS)])
    dense = found["reward_score"]
    assert dense == pytest.approx(sum(score.probabilities))
    assert found["reward_extra_info"]["score"] == pytest.approx(score.reward, abs=1e-5)
    written = [reward for reward in dense.token_rewards if reward]
    assert written == pytest.approx(list(score.probabilities), abs=1e-5)
    assert dense.token_rewards[-2] > 0 == dense.token_rewards[-1]
    sent = pickle.loads(pickle.dumps(dense))
    assert (sent, sent.token_rewards) == (dense, dense.token_rewards)


def test_tokens_of_tools_get_no_reward(process: Path) -> None:
    tokenizer = tiny_tokenizer()
    function = shared_reward_function(process, device="cpu")
    step, tool = (
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in (STEPS[0], "\n12\n")
    )
    item = row([*step, *tool], 60, __num_turns__=4)
    with pytest.raises(DataError, match="response_mask"):
        score_item(item, function, tokenizer, StepCredit())
    item.batch["response_mask"] = torch.tensor([1] * len(step) + [0] * (60 - len(step)))
    rewards = score_item(item, function, tokenizer, StepCredit())["reward_score"]
    assert [index for index, reward in enumerate(rewards.token_rewards) if reward] == [
        len(step) - 1
    ]


def test_token_rewards_of_another_response_are_refused() -> None:
    responses, scores = torch.zeros(1, 4), [DenseScore([0.0, 0.5])]
    found = dense_rm_scores(responses, torch.tensor([2]), scores)
    assert found.tolist() == [[0.0, 0.5, 0.0, 0.0]]
    for wrong in ([DenseScore([0.5])], [0.5]):
        with pytest.raises(DataError, match="response 0"):
            dense_rm_scores(responses, torch.tensor([2]), wrong)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """The event loop that verl's managers find, and leave open."""
    pytest.importorskip("verl")
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield loop
    asyncio.set_event_loop(None)
    loop.close()


def verl_config(model: Path, **manager: Any) -> Any:
    from omegaconf import OmegaConf

    function = {
        "path": "pkg://prm.rl.verl",
        "name": "compute_score",
        "reward_kwargs": {"model": str(model), "device": "cpu"},
    }
    chosen = {"source": "register", "name": "naive", "module": {"path": None}} | manager
    return OmegaConf.create(
        {"reward": {"custom_reward_function": function, "reward_manager": chosen}}
    )


def data_proto(tokenizer: Any, responses: list[str]) -> Any:
    import numpy as np
    from verl import DataProto

    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in responses]
    rows = [row(one, 40) for one in ids]
    tensors = {
        "prompts": torch.ones(len(rows), 3, dtype=torch.long),
        "responses": torch.stack([item.batch["responses"] for item in rows]),
        "attention_mask": torch.stack([item.batch["attention_mask"] for item in rows]),
    }
    columns = {
        "data_source": np.array(["arithmetic"] * len(rows), dtype=object),
        "reward_model": np.array([{"ground_truth": "14"}] * len(rows), dtype=object),
        "extra_info": np.array([{"prompt": PROMPT} for _ in rows], dtype=object),
    }
    return DataProto.from_dict(tensors=tensors, non_tensors=columns)


@pytest.mark.filterwarnings("default")
def test_verl_calls_the_function_through_its_naive_manager(
    process: Path, loop: asyncio.AbstractEventLoop
) -> None:
    from verl.trainer.ppo.reward import load_reward_manager

    tokenizer = tiny_tokenizer()
    manager = load_reward_manager(verl_config(process), tokenizer)
    data = data_proto(tokenizer, [RESPONSE, "20"])

    found = loop.run_until_complete(manager.run_single(data[:1]))

    (score,) = RewardScorer.from_pretrained(process, "cpu").score([Chain(PROMPT, STEPS)])
    assert found["reward_score"] == pytest.approx(score.reward, abs=1e-5)
    assert set(found["reward_extra_info"]) == {"score", "correctness"}


@pytest.mark.filterwarnings("default")
def test_verl_writes_dense_rewards_with_the_step_reward_manager(
    process: Path, loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """verl's own way from a batch to `rm_scores`; its two workers are in this process."""
    import ray
    from verl.experimental.reward_loop.reward_loop import RewardLoopManager, RewardLoopWorker
    from verl.trainer.ppo.reward import load_reward_manager

    tokenizer = tiny_tokenizer()
    module = {"path": "pkg://prm.rl.verl"}
    config = verl_config(process, source="importlib", name="StepRewardManager", module=module)
    config.reward.custom_reward_function.reward_kwargs.mode = "difference"
    manager = load_reward_manager(config, tokenizer, reward_router_address=None)
    worker = SimpleNamespace(config=config, reward_manager=manager)
    worker.compute_score = partial(RewardLoopWorker.compute_score, worker)

    def compute_score_batch(data: Any) -> Any:
        found = loop.run_until_complete(RewardLoopWorker.compute_score_batch(worker, data))
        return pickle.loads(pickle.dumps(found))

    actor = SimpleNamespace(compute_score_batch=SimpleNamespace(remote=compute_score_batch))
    reward_loop = SimpleNamespace(
        reward_model_manager=None,
        reward_loop_workers=[actor, actor],
        reward_manager_cls=prm.rl.verl.StepRewardManager,
    )
    monkeypatch.setattr(ray, "get", list)

    found = RewardLoopManager.compute_rm_score(
        reward_loop, data_proto(tokenizer, [RESPONSE, "20", "It is 14."])
    )

    expected = RewardScorer.from_pretrained(process, "cpu").score(
        [Chain(PROMPT, STEPS), Chain(PROMPT, ["20"]), Chain(PROMPT, ["It is 14."])]
    )
    dense = found.batch["rm_scores"]
    last = [score.probabilities[-1] for score in expected]
    assert dense.sum(dim=1).tolist() == pytest.approx(last, abs=1e-5)
    assert dense.count_nonzero(dim=1).tolist() == [2, 1, 1]
    rewards = found.non_tensor_batch["score"].tolist()
    assert rewards == pytest.approx([score.reward for score in expected], abs=1e-5)


@pytest.mark.filterwarnings("default")
def test_verl_writes_the_total_while_it_streams(loop: asyncio.AbstractEventLoop) -> None:
    agent_loop = pytest.importorskip("verl.experimental.agent_loop.agent_loop")
    output = agent_loop.AgentLoopOutput(
        prompt_ids=[1],
        response_ids=[2, 3, 4],
        response_mask=[1, 1, 1],
        metrics=agent_loop.AgentLoopMetrics(),
        reward_score=None,
    )
    output.reward_score = DenseScore([0.0, 0.5, 0.25])
    assert output.as_dict()["rm_scores"].tolist() == [0.0, 0.0, 0.75]
