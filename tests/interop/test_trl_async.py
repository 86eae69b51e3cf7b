"""The rollout worker of TRL's AsyncGRPO: its own child process, calling our reward functions.

The worker is TRL's, unchanged; completions come from a stand-in for vLLM on loopback. The training
step itself needs FlashAttention 3, which no CPU has.
"""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from prm.rl.reward_function import RewardFunction
from prm.rl.trl import TRLRewards
from prm.scoring.scorer import RewardScorer
from tests.interop.trl_runs import policy_tokenizer, three_objectives
from tests.tiny_models import CHARACTERS

pytest.importorskip("trl")
pytest.importorskip("aiohttp")
pytestmark = [
    pytest.mark.slow,  # TRL's child process takes its imports' time
    pytest.mark.filterwarnings("ignore:You are importing from 'trl.experimental'"),
]

NUM_GENERATIONS = 4
NUM_GROUPS = 3


class Completions(BaseHTTPRequestHandler):
    """Answers `/v1/completions` as vLLM does, with random letters."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        ids = [4 + random.randrange(len(CHARACTERS)) for _ in range(8)]
        choice = {"token_ids": ids, "logprobs": {"token_logprobs": [-1.0] * len(ids)}}
        body = json.dumps({"choices": [choice]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


@pytest.fixture
def engine() -> Iterator[str]:
    """Address of the stand-in for vLLM."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Completions)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def rollouts(engine: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that runs the worker with reward functions until it has scored enough."""
    from accelerate import PartialState
    from datasets import Dataset
    from trl.chat_template_utils import qwen3_chat_template
    from trl.experimental.async_grpo import async_rollout_worker

    monkeypatch.setattr(async_rollout_worker, "is_vllm_available", lambda: True)
    PartialState(cpu=True)  # a trainer has one

    def run(reward_funcs: list[Any]) -> list[Any]:
        prompts = [[{"role": "user", "content": text}] for text in ("say yes", "1 and 1")]
        columns = {"prompt": prompts, "objectives": [None, ["safety"]]}
        worker = async_rollout_worker.AsyncRolloutWorker(
            model_name="policy",
            dataset=Dataset.from_dict(columns),
            reward_funcs=reward_funcs,
            processing_class=policy_tokenizer(qwen3_chat_template),
            eos_token_ids=[2],
            num_generations=NUM_GENERATIONS,
            max_inflight_tasks=NUM_GENERATIONS,
            vllm_server_url=engine,
            max_tokens=8,
        )
        try:
            worker.start()
            return [
                worker.rollout_buffer.get(timeout=60) for _ in range(NUM_GROUPS * NUM_GENERATIONS)
            ]
        finally:
            worker.stop()

    return run


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_rollouts_get_the_scores_of_reward_scorer(
    asynchronous: bool, rollouts: Any, tmp_path: Path
) -> None:
    folder = three_objectives(tmp_path / "model")
    rewards = TRLRewards(RewardFunction(folder), asynchronous=asynchronous)
    scorer = RewardScorer.from_pretrained(folder, "cpu")
    for sample in rollouts(rewards.objectives()):
        response = sample.completion[0]["content"]
        score = scorer.score({"prompt": sample.prompt, "response": response})[0]
        every = sample.prompt[0]["content"] == "say yes"
        for name in rewards.function.objectives:
            expected = score.utilities[name] if every or name == "safety" else float("nan")
            found = sample.metrics[f"rewards/{name}"]
            assert found == pytest.approx(expected, abs=1e-5, nan_ok=True)
