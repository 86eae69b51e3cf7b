"""Tiny models of every kind, saved, and a server of them all on a loopback port."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from prm.aggregation.normalize import ZScore
from prm.aggregation.objectives import WeightedSum
from prm.models import checkpoint
from prm.models.reward_model import RewardModel
from prm.models.sources import FromScratch
from prm.records import Rating
from prm.scoring.scorer import RewardScorer
from prm.spec import ResponseFormat, ResponseHead, RewardSpec, StepHead, Template
from tests.interop.serving import listening
from tests.outcome_models import BACKBONES
from tests.tiny_models import CHAINS, TWO_OBJECTIVES, tiny_model, tiny_tokenizer

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The template of the policy, and of the model `chat`."""

MARKS = ["<|im_start|>", "<|im_end|>"]

OBJECTIVES = (
    ResponseHead("helpfulness"),
    ResponseHead("safety"),
    ResponseHead("length", direction="minimize"),
)

OUTCOME: dict[str, Any] = {
    "step_heads": (),
    "response_heads": OBJECTIVES,
    "normalizers": {"safety": ZScore(0.3, 2.0)},
    "objective_aggregation": WeightedSum({"helpfulness": 1, "safety": 2, "length": 0.5}),
    "max_length": 96,
}

PROMPT = "What is 2 + 3 * 4?"
STEPS = ("3 * 4 = 12", "2 + 12 = 15", "It is 15.")
ANSWER = "\n".join(STEPS)

RATINGS = (
    Rating(PROMPT, "20", id="a"),
    Rating(PROMPT, ANSWER, id="b"),
    Rating("1 + 1 = ?", "Two.", id="c"),
    Rating("1 + 1 = ? " * 40, "Two.", id="too long"),
    Rating("1 + 1 = ?", "Two. " * 60, id="cut off"),
)
RECORDS = {
    "replies": RATINGS,
    "chat": RATINGS,
    "steps": CHAINS,
    "pairs": CHAINS,
    "classes": CHAINS,
}
"""Name of a served model to records that it can score."""


def chat_tokenizer() -> PreTrainedTokenizerBase:
    """Return a tokenizer with a chat template, as a policy's or a chat model's."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": MARKS})
    tokenizer.chat_template = CHATML
    return tokenizer


def rendered(prompt: str, response: str = "") -> str:
    """Return a prompt, and what follows it, as the policy reads and writes it."""
    return f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n{response}"


def _randomized(model: RewardModel) -> RewardModel:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.heads.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return model.eval()


def _outcome(
    tokenizer: PreTrainedTokenizerBase, cls: type[RewardModel], **fields: Any
) -> RewardModel:
    backbone = FromScratch({"model_type": "llama", **BACKBONES["llama"]}).model(tokenizer)
    return _randomized(cls(backbone, tokenizer, RewardSpec(**OUTCOME | fields)))


def _models() -> dict[str, RewardModel]:
    chat: dict[str, Any] = {
        "template": Template(style="chat", bos="one"),
        "response_format": ResponseFormat(end="turn"),
    }
    return {
        "replies": _outcome(tiny_tokenizer(), RewardModel),
        "steps": tiny_model("qwen2"),
        "pairs": tiny_model(
            "qwen2",
            RewardSpec(
                step_heads=TWO_OBJECTIVES, chain_reward=TWO_OBJECTIVES[0].name, max_length=256
            ),
        ),
        "classes": tiny_model(
            "qwen2", RewardSpec(step_heads=(StepHead(readout="softmax"),), max_length=256)
        ),
        "chat": _outcome(chat_tokenizer(), RewardModel, **chat),
        "joint": _outcome(tiny_tokenizer(), RewardModel, step_heads=(StepHead(),)),
    }


@dataclass
class Served:
    """A running server, the folders of its models, and scorers of their own."""

    url: str
    root: Path

    @cached_property
    def offline(self) -> dict[str, RewardScorer]:
        """Name to a scorer that shares nothing with the server."""
        return {path.name: RewardScorer.from_pretrained(path) for path in self.root.iterdir()}

    def folder(self, name: str) -> Path:
        """Return the folder of a model."""
        return self.root / name


def save_models(root: Path) -> None:
    """Save each model in a folder of its name."""
    for name, model in _models().items():
        checkpoint.save(model, root / name)


@contextmanager
def serving(root: Path, **options: Any) -> Iterator[Served]:
    """Serve the saved models until the block ends; `replies` is the default."""
    from prm.serve.app import create_app
    from prm.serve.options import ServeOptions
    from prm.serve.pool import ModelPool

    names = ["replies", "steps", "pairs", "classes", "chat", "joint"]
    scorers = {name: RewardScorer.from_pretrained(root / name) for name in names}
    pool = ModelPool(scorers, ServeOptions(**options))
    with listening(create_app(pool)) as url:
        yield Served(url, root)


def assert_equal_scores(got: list[Any], expected: list[Any]) -> None:
    """Check that scores are the same to 1e-5, and their other fields exactly."""
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        _assert_equal(one.to_row(), other.to_row(), "score")


def _assert_equal(got: Any, expected: Any, where: str) -> None:
    if isinstance(expected, dict):
        assert got.keys() == expected.keys(), where
        for key in expected:
            _assert_equal(got[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, list):
        for index, pair in enumerate(zip(got, expected, strict=True)):
            _assert_equal(*pair, f"{where}.{index}")
    elif isinstance(expected, float):
        assert got == pytest.approx(expected, abs=1e-5), where
    else:
        assert got == expected, where
