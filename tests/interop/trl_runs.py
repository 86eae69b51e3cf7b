"""Short runs of TRL's trainers on a tiny random policy, and what they logged."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pytest
from tokenizers import decoders
from transformers import PreTrainedTokenizerBase

from prm.aggregation.normalize import ZScore
from prm.aggregation.objectives import WeightedSum
from prm.models import checkpoint
from prm.rl.reward_function import RewardFunction
from prm.rl.trl import TRLRewards
from prm.scoring.scorer import RewardScorer
from prm.spec import ResponseHead
from tests.outcome_models import SPREAD_OBJECTIVES, save_outcome_model
from tests.tiny_models import character_tokenizer, tiny_model

THREE = ("helpfulness", "safety", "length")
WEIGHTS = {"helpfulness": 1.0, "safety": 2.0, "length": 0.5}
PROMPTS = ["what is 2", "name a prime", "say yes", "1 and 1"]
CHAT_TEMPLATE = (
    "{% for message in messages %}[{{ message.role }}]{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
NUM_GENERATIONS = 4

Which = Literal["grpo", "rloo"]

TRL_WARNINGS = pytest.mark.filterwarnings(
    "ignore:.gradient_checkpointing\\w*. is deprecated:FutureWarning"
)
"""TRL uses what transformers has renamed."""


def three_objectives(folder: Path) -> Path:
    """Save a random model of three objectives with weights; one is normalized and minimized."""
    return save_outcome_model(
        folder,
        response_heads=(
            *SPREAD_OBJECTIVES[:2],
            ResponseHead("length", direction="minimize"),
        ),
        normalizers={"length": ZScore(0.5, 2.0)},
        objective_aggregation=WeightedSum(dict(WEIGHTS)),
    )


def steps(folder: Path) -> Path:
    """Save a random process model."""
    return checkpoint.save(tiny_model(), folder)


def rewards_of(folder: Path, **options: Any) -> TRLRewards:
    return TRLRewards(RewardFunction(folder, device="cpu"), **options)


@dataclass(frozen=True)
class Run:
    """What a trainer logged at each step: its metrics, and the table of its completions."""

    metrics: list[dict[str, float]] = field(default_factory=list)
    tables: list[pd.DataFrame] = field(default_factory=list)

    def batches(self) -> Iterator[tuple[dict[str, float], pd.DataFrame]]:
        assert len(self.metrics) >= 2
        return zip(self.metrics, self.tables, strict=True)

    def table(self) -> pd.DataFrame:
        return pd.concat([table for _, table in self.batches()], ignore_index=True)


def recorder(trainer: Any, run: Run) -> Any:
    """Return a callback that keeps what the trainer is about to show, which RLOO writes nowhere."""
    from transformers import TrainerCallback

    class Recorder(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any, **kwargs: Any) -> None:
            if "reward" in logs:
                shown = trainer._logs
                columns = {name: shown[name] for name in ("prompt", "completion", "advantages")}
                run.metrics.append(dict(logs))
                run.tables.append(pd.DataFrame({**columns, **shown["rewards"], **shown["extra"]}))

    return Recorder()


def policy_tokenizer(chat_template: str = CHAT_TEMPLATE) -> PreTrainedTokenizerBase:
    """Return a tokenizer of single characters, which decodes without spaces between them."""
    tokenizer = character_tokenizer(chat_template)
    tokenizer.backend_tokenizer.decoder = decoders.Fuse()
    return tokenizer


def make_trainer(
    folder: Path,
    reward_funcs: Any,
    which: Which = "grpo",
    columns: Mapping[str, Sequence[Any]] | None = None,
    prompts: Sequence[Any] = PROMPTS,
    callbacks: Sequence[Any] = (),
    **options: Any,
) -> Any:
    """Return a trainer of a random policy; a step sees two prompts."""
    import trl
    from datasets import Dataset
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = policy_tokenizer()
    policy = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    config, trainer = {
        "grpo": (trl.GRPOConfig, trl.GRPOTrainer),
        "rloo": (trl.RLOOConfig, trl.RLOOTrainer),
    }[which]
    fields: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": 2,
        "per_device_train_batch_size": 2 * NUM_GENERATIONS,
        "num_generations": NUM_GENERATIONS,
        "max_completion_length": 12,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "shuffle_dataset": False,
        "beta": 0.0,
    }
    return trainer(
        model=policy,
        reward_funcs=reward_funcs,
        args=config(**fields | options),
        train_dataset=Dataset.from_dict({"prompt": list(prompts), **(columns or {})}),
        processing_class=tokenizer,
        callbacks=list(callbacks),
    )


def train(
    folder: Path,
    reward_funcs: Any,
    which: Which = "grpo",
    columns: Mapping[str, Sequence[Any]] | None = None,
    prompts: Sequence[Any] = PROMPTS,
    **options: Any,
) -> Run:
    """Run a few steps of a trainer on a random policy, and return what it logged."""
    running = make_trainer(folder, reward_funcs, which, columns, prompts, **options)
    run = Run()
    running.add_callback(recorder(running, run))
    running.train()
    return run


def offline(folder: Path, table: pd.DataFrame) -> list[Any]:
    """Score logged completions with `RewardScorer`; `None` for those without text."""
    pairs = list(zip(table["prompt"], table["completion"], strict=True))
    written = [pair for pair in pairs if pair[1].strip()]
    scores = iter(RewardScorer.from_pretrained(folder, "cpu").score(written))
    return [next(scores) if pair[1].strip() else None for pair in pairs]


def column(scores: Sequence[Any], kind: str, name: str = "") -> list[float | None]:
    """Return one attribute of scores, or one objective of it."""
    values = [None if score is None else getattr(score, kind) for score in scores]
    return [value[name] if name and value is not None else value for value in values]


def same(values: Sequence[float | None]) -> Any:
    """Compare with floats of which those that are missing are NaN."""
    numbers = [math.nan if value is None else value for value in values]
    return pytest.approx(numbers, abs=1e-5, nan_ok=True)


def mean(values: Sequence[float | None]) -> Any:
    known = [value for value in values if value is not None]
    return pytest.approx(sum(known) / len(known), abs=1e-5)


def count_forwards(rewards: TRLRewards) -> list[int]:
    """Return a list that grows by the number of completions at each forward pass."""
    forwards: list[int] = []
    rewards.function.observers.append(lambda results: forwards.append(len(results)))
    return forwards
