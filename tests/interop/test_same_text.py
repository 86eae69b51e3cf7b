"""One text, its reward by every entrance, in published chat templates: equal, or refused alike."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from transformers import PreTrainedTokenizerBase

from prm.cli.main import main
from prm.messages import read_messages
from prm.models import checkpoint
from prm.models.reward_model import RewardModel
from prm.records import Chain, Rating
from prm.rl.openrlhf import OpenRLHFReward
from prm.rl.reward_function import RewardFunction
from prm.scoring.client import RemoteScorer
from prm.scoring.scorer import RewardScorer
from prm.spec import ResponseFormat, ResponseHead, RewardSpec, Template
from prm.texts.steps import split_steps
from tests.interop.serving import listening
from tests.openai_server import StubServer, chat_completion, running
from tests.outcome_models import BACKBONES
from tests.tiny_models import tiny_backbone, tiny_tokenizer

trl = pytest.importorskip("trl", reason="the published templates come with TRL")

TEMPLATES = ("qwen2_5", "qwen3", "llama3_2", "gemma3", "gptoss")

SOON = ("qwen3", "llama3_2")
"""Those of the default tests: one that thinks, one that writes the date."""

SCHEMA = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Look it up.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {
            "id": "call00001",
            "type": "function",
            "function": {"name": "weather", "arguments": '{"city": "Oslo"}'},
        }
    ],
}
TOOL = {"role": "tool", "tool_call_id": "call00001", "name": "weather", "content": "-3 C"}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


PROMPTS: dict[str, Any] = {
    "text": "What is 2 + 3 * 4?",
    "line separator": "1 + 1\u2028and 7 - 5?",
    "indented": "  1 + 1 = ?",
    "system": [{"role": "system", "content": "Be brief."}, user("1 + 1 = ?")],
    "dialogue": [user("1 + 1 = ?"), {"role": "assistant", "content": "2"}, user("Sure?")],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "1 + 1 = ?"}]}],
    "call": [{**user("Weather in Oslo?"), "tools": [SCHEMA]}, CALL, TOOL],
    "ends with the assistant": [user("1 + 1 = ?"), {"role": "assistant", "content": "It is"}],
}
RESPONSES = {
    "lines": "3 * 4 = 12\n2 + 12 = 14",
    "carriage returns": "3 * 4 = 12\r\n2 + 12 = 14\r\n",
    "spaces": "3 * 4 = 12  \n  2 + 12 = 14 ",
    "empty steps": "\n3 * 4 = 12\n\n \n2 + 12 = 14\n",
    "unicode line ends": "3 * 4 = 12\u20282 + 12\x85= 14\x0bso",
    "thinking": "<think>\n3 * 4 = 12\n</think>\n\nIt is 14.",
}
TEXTS = [
    *((prompt, RESPONSES["lines"]) for prompt in PROMPTS.values()),
    *((PROMPTS["text"], response) for response in list(RESPONSES.values())[1:]),
    (PROMPTS["call"], RESPONSES["thinking"]),
]

Found = float | str
"""A reward, or why there is none."""


@dataclass
class Surface:
    """A model, its server, and what is needed to ask it in other ways."""

    folder: Path
    url: str
    tmp: Path
    tokenizer: PreTrainedTokenizerBase

    @cached_property
    def scorer(self) -> RewardScorer:
        return RewardScorer.from_pretrained(self.folder, device="cpu")

    @cached_property
    def function(self) -> RewardFunction:
        return RewardFunction(self.folder, device="cpu")

    @property
    def reads_steps(self) -> bool:
        return self.scorer.spec.kind == "process"

    def record(self, prompt: Any, response: str) -> Chain | Rating:
        steps = [step.text for step in split_steps(response, self.scorer.spec.step_format)]
        return Chain(prompt, steps) if self.reads_steps else Rating(prompt, response)


def template_of(name: str) -> str:
    file = Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja"
    if not file.is_file():
        pytest.skip(f"this TRL brings no {file.name}")
    return file.read_text(encoding="utf-8")


def tokenizer_of(name: str) -> PreTrainedTokenizerBase:
    text, tokenizer = template_of(name), tiny_tokenizer()
    marks = sorted(set(re.findall(r"<\|[a-z_]+\|>|<(?:start|end)_of_turn>", text)))
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    tokenizer.chat_template = text
    return tokenizer


def model_of(name: str, kind: str) -> RewardModel:
    tokenizer = tokenizer_of(name)
    heads = {"response_heads": (ResponseHead("quality"),)} if kind == "outcome" else {}
    spec = RewardSpec(
        template=Template("chat"),
        response_format=ResponseFormat(end="turn"),
        max_length=1024,
        **heads,  # type: ignore[arg-type]
    )
    fields = {**BACKBONES["llama"], "max_position_embeddings": 1024}
    model = RewardModel(tiny_backbone("llama", tokenizer, **fields), tokenizer, spec)
    with torch.no_grad():
        model.heads.layers.weight.normal_(generator=torch.Generator().manual_seed(0))  # type: ignore[union-attr,operator]
    return model.eval()


MODELS = [
    pytest.param((name, kind), id=f"{name}-{kind}", marks=() if name in SOON else pytest.mark.slow)
    for name in TEMPLATES
    for kind in ("outcome", "process")
]


@pytest.fixture(scope="module", params=MODELS)
def surface(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Surface]:
    from prm.serve.app import create_app
    from prm.serve.options import ServeOptions
    from prm.serve.pool import ModelPool

    name, kind = request.param
    tmp = tmp_path_factory.mktemp(f"{name}-{kind}")
    folder = checkpoint.save(model_of(name, kind), tmp / "model")
    pool = ModelPool({"model": RewardScorer.from_pretrained(folder)}, ServeOptions())
    with listening(create_app(pool)) as url:
        yield Surface(folder, url, tmp, tokenizer_of(name))


# Entrances: each returns what is found for one prompt and response


def by_scorer(surface: Surface, prompt: Any, response: str) -> Found:
    return _found(surface.scorer.score([surface.record(prompt, response)])[0])


def by_file(surface: Surface, prompt: Any, response: str, kind: str) -> Found:
    path, output = surface.tmp / f"rows.{kind}", surface.tmp / "scores.jsonl"
    _write(path, {"q": prompt, "a": response})
    words = f"score --model {surface.folder} --input {path} --output {output} --overwrite true"
    columns = (
        "ChainColumns --format.completions a"
        if surface.reads_steps
        else ("OutcomeColumns --format.response a")
    )
    separator = ["--format.separator", r"\n"] if surface.reads_steps else []
    asked = [*words.split(), *f"--format {columns} --format.prompt q".split(), *separator]
    assert main(asked) in (0, 1)  # 1 where nothing was scored
    row = json.loads(output.read_text(encoding="utf-8"))
    return row["reason"] if row["reward"] is None else float(row["reward"])


def by_standard_input(surface: Surface, prompt: Any, response: str) -> Found | None:
    if not isinstance(prompt, str) or prompt != prompt.strip() or response != response.strip():
        return None
    text = f"{prompt}\n\n{response}\n".encode()
    before, out = (sys.stdin, sys.stdout), io.StringIO()
    try:
        sys.stdin, sys.stdout = io.TextIOWrapper(io.BytesIO(text)), out
        assert main(["score", "--model", str(surface.folder), "--json", "true"]) == 0
    finally:
        sys.stdin, sys.stdout = before
    return float(json.loads(out.getvalue())["reward"])


def by_function(surface: Surface, prompt: Any, response: str) -> Found:
    answer = [{"role": "assistant", "content": response}]
    texts, talks = (surface.function.score([prompt], [said])[0] for said in (response, answer))
    assert texts.reward == talks.reward
    return _found(texts.score)


def by_agent_turns(surface: Surface, prompt: Any, response: str) -> Found | None:
    """As a trainer of agents has it: the calls are turns of the completion."""
    if isinstance(prompt, str) or len(prompt) == 1:
        return None
    start, *turns = prompt
    completion = [*turns, {"role": "assistant", "content": response}]
    return _found(surface.function.score([[start]], [completion])[0].score)


def by_client(surface: Surface, prompt: Any, response: str) -> Found:
    scorer = RemoteScorer(surface.url)
    (score,) = scorer.score([surface.record(prompt, response)])
    (ranked,) = scorer.rank(prompt, [response])
    assert ranked.score.reward == pytest.approx(score.reward, abs=1e-5)
    if surface.reads_steps:
        found = scorer.steps(prompt, response)
        assert found.reward == pytest.approx(score.reward, abs=1e-5)
    return _found(score)


def by_classify(surface: Surface, prompt: Any, response: str) -> Found:
    """As vLLM is asked, with messages."""
    turns = [user(prompt)] if isinstance(prompt, str) else prompt
    messages = [*turns, {"role": "assistant", "content": response}]
    return _answer(surface, "/classify", {"model": "model:reward", "messages": messages}, _probs)


def by_slime(surface: Surface, prompt: Any, response: str) -> Found:
    return _answer(surface, "/rm", {"prompt": prompt, "response": response}, float)


def by_openrlhf(surface: Surface, prompt: Any, response: str) -> Found | None:
    rendered = _rendered(surface, prompt)
    if rendered is None or response != response.strip():
        return None
    end = "<|im_end|>\n" if "<|im_end|>" in rendered else ""
    query = rendered + response + end
    body = {"query": [query], "prompts": [rendered], "labels": [""]}
    served = _answer(surface, "/get_reward", body, lambda found: found["rewards"][0])
    surface.tokenizer.save_pretrained(surface.tmp / "policy")
    function = OpenRLHFReward(surface.folder, policy=surface.tmp / "policy", unscored=-100.0)
    local = float(function([query], [rendered], [""])["rewards"][0])  # type: ignore[index]
    assert served == pytest.approx(local, abs=1e-5)
    return served


def by_llama_factory(surface: Surface, prompt: Any, response: str) -> Found | None:
    if _rendered(surface, prompt) is None or response != response.strip():
        return None
    turns = [user(prompt)] if isinstance(prompt, str) else list(read_messages(prompt, None))
    whole = [*turns, {"role": "assistant", "content": response}]
    text = surface.tokenizer.apply_chat_template(whole, tokenize=False)  # type: ignore[arg-type]
    body = {"model": "model", "messages": [text]}
    return _answer(surface, "/v1/score/evaluation", body, lambda found: found["scores"][0])


def by_search(surface: Surface, prompt: Any, response: str) -> Found:
    rows, output = surface.tmp / "problems.jsonl", surface.tmp / "found.jsonl"
    _write(rows, {"prompt": prompt})
    with running(StubServer(lambda body: chat_completion(body, response))) as server:
        words = f"search --model {surface.folder} --generator {server.url} --generator_model m"
        asked = [*words.split(), *f"--input {rows} --n 1 --output {output}".split()]
        assert main([*asked, "--overwrite", "true"]) in (0, 1)  # 1 where nothing was scored
    row = json.loads(output.read_text(encoding="utf-8"))
    rewards = [one["reward"] for one in row["candidates"] if one["reward"] is not None]
    return float(rewards[0]) if rewards else str(row["reason"])


ENTRANCES: dict[str, Callable[[Surface, Any, str], Found | None]] = {
    **{
        kind: (lambda *asked, kind=kind: by_file(*asked, kind))
        for kind in ("jsonl", "csv", "parquet")
    },
    "standard input": by_standard_input,
    "RewardFunction": by_function,
    "turns of an agent": by_agent_turns,
    "RemoteScorer": by_client,
    "vLLM": by_classify,
    "slime": by_slime,
    "OpenRLHF": by_openrlhf,
    "LLaMA-Factory": by_llama_factory,
    "search": by_search,
}


@pytest.mark.parametrize("number", range(len(TEXTS)))
def test_a_text_has_one_reward(surface: Surface, number: int) -> None:
    prompt, response = TEXTS[number]
    expected = by_scorer(surface, prompt, response)
    for name, entrance in ENTRANCES.items():
        found = entrance(surface, prompt, response)
        if isinstance(expected, str):
            assert found is None or _reason(found) == _reason(expected), name
        elif found is not None:
            assert found == pytest.approx(expected, abs=1e-5), name


def _found(score: Any) -> Found:
    return str(score.reason) if score.reward is None else float(score.reward)


def _reason(text: Found) -> str:
    """Return a reason without the place that it names."""
    found = re.search(r"(the prompt ends|the chat template|prompt contains)[^:]*", str(text))
    assert found is not None, text
    return found.group()


def _probs(found: Any) -> float:
    return float(found["data"][0]["probs"][0])


def _answer(surface: Surface, path: str, body: Any, read: Callable[[Any], Any]) -> Found:
    answer = httpx.post(surface.url + path, json=body)
    if answer.status_code == 422:
        error = answer.json()["error"]
        return f"{error['message']}: {error['got']}"
    assert answer.status_code == 200, answer.text
    found = read(answer.json())
    return found if isinstance(found, float) else str(answer.json()["reasons"][0])


def _rendered(surface: Surface, prompt: Any) -> str | None:
    """Return the prompt as a policy of the same family is shown it, today; `None` if it cannot be.

    A prompt with calls is not read back from its rendering.
    """
    messages = [user(prompt)] if isinstance(prompt, str) else list(read_messages(prompt, None))
    if any("tool_calls" in turn for turn in messages) or messages[-1]["role"] == "assistant":
        return None
    try:
        return str(
            surface.tokenizer.apply_chat_template(
                messages,  # type: ignore[arg-type]
                tokenize=False,
                add_generation_prompt=True,
            )
        )
    except Exception:
        return None


def _write(path: Path, row: dict[str, Any]) -> None:
    if path.suffix == ".jsonl":
        path.write_text(json.dumps(row) + "\n", encoding="utf-8")
        return
    cells = {k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()}
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([list(cells), list(cells.values())])
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([cells]), path)
