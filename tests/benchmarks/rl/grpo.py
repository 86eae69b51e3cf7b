"""GRPO on a tiny policy with TRL, and a control reward without information."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.rl.measure import Examiner, means
from tests.benchmarks.rl.tasks import Task

Reward = Callable[..., Sequence[float | None]]
"""What TRL calls: `reward(prompts=..., completions=..., **columns)`."""


@dataclass(frozen=True)
class Settings:
    """How a policy is trained and probed.

    Args:
        num_steps: Optimizer steps, each on new samples.
        num_prompts: Prompts of a step.
        num_generations: Responses to each.
        learning_rate: Constant rate of AdamW.
        beta: Weight of the divergence from the start policy in the loss.
        num_train_prompts: Different prompts to train on.
        num_test_prompts: Different held-out prompts, before and after.
        num_probes: Times that the policy is probed during training.
        num_probe_prompts: Held-out prompts of a probe.
    """

    num_steps: int = 100
    num_prompts: int = 8
    num_generations: int = 8
    learning_rate: float = 3e-4
    beta: float = 0.0
    num_train_prompts: int = 2000
    num_test_prompts: int = 400
    num_probes: int = 8
    num_probe_prompts: int = 100


class Shuffled:
    """A reward whose values are permuted over the batch: as noisy, and without information.

    Args:
        reward: The reward.
        seed: Rewards that are shuffled with one seed are permuted alike.
    """

    def __init__(self, reward: Reward, seed: int) -> None:
        self.__name__ = f"shuffled_{reward.__name__}"
        self._reward = reward
        self._random = random.Random(seed)

    def __call__(self, **columns: Any) -> list[float | None]:
        values = list(self._reward(**columns))
        self._random.shuffle(values)
        return values


def train(
    examiner: Examiner,
    rewards: Reward | list[Reward],
    settings: Settings,
    folder: str,
    callbacks: Sequence[Any] = (),
) -> tuple[list[Any], list[Any], list[Any], list[Any]]:
    """Train the start policy; return rows before and after, the curve, and TRL's log.

    Args:
        examiner: Measures the policy.
        rewards: TRL's `reward_funcs`.
        settings: Sizes and rates.
        folder: TRL's output folder.
        callbacks: More callbacks of the trainer.
    """
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import GRPOTrainer

    task, seed = examiner.task, examiner.seed
    policy = copy.deepcopy(examiner.start)
    prompts = task.distinct_prompts("train", settings.num_train_prompts, seed)
    probe = make_probe(examiner, settings)
    trainer = GRPOTrainer(
        model=policy,
        reward_funcs=rewards,
        args=configuration(task, settings, folder, seed),
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=examiner.tokenizer,
        callbacks=[*callbacks, probe],
    )
    trainer.remove_callback(PrinterCallback)
    before = examiner.examine(policy, settings.num_test_prompts)
    trainer.train()
    after = examiner.examine(policy, settings.num_test_prompts)
    return before, after, probe.curve, trainer.state.log_history


def configuration(task: Task, settings: Settings, folder: str, seed: int) -> Any:
    """Return TRL's configuration."""
    from trl import GRPOConfig

    return GRPOConfig(
        output_dir=folder,
        max_steps=settings.num_steps,
        per_device_train_batch_size=settings.num_prompts * settings.num_generations,
        num_generations=settings.num_generations,
        max_completion_length=task.max_new_tokens,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant",
        adam_beta2=0.99,
        beta=settings.beta,
        seed=seed,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )


def make_probe(examiner: Examiner, settings: Settings) -> Any:
    """Return a callback that shows progress and probes the policy; `curve` has what it found."""
    from rich.progress import Progress
    from transformers import TrainerCallback

    every = max(settings.num_steps // settings.num_probes, 1)

    class Probe(TrainerCallback):
        def __init__(self) -> None:
            self.curve: list[dict[str, float]] = []

        def look(self, policy: Any, step: int) -> None:
            rows = examiner.examine(policy, settings.num_probe_prompts)
            self.curve.append({"step": step, **means(rows)})
            policy.train()

        def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            self.progress = Progress(transient=True)
            self.progress.start()
            self.bar = self.progress.add_task("Training", total=state.max_steps)
            self.look(rest["model"], 0)

        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            self.progress.advance(self.bar)
            if state.global_step % every == 0:
                self.look(rest["model"], state.global_step)

        def on_train_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            self.progress.stop()

    return Probe()
