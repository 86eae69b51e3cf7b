"""Training cases: prm's task under Lightning's trainer beside TRL's trainers, on the same batches.

Both sides start from the same checkpoint and take the same optimizer steps (AdamW, constant rate,
gradient clipped at 1). A repetition is a step of the trainer's own loop, from the end of the step
before it to its own end: the batch is collated or packed inside it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from tests.benchmarks.harness import WARM_UP, Bar, Case, Laps, Side
from tests.benchmarks.machine import DTYPES, Device
from tests.benchmarks.workloads import (
    OUTCOME,
    PROCESS,
    Scale,
    batches_of,
    causal_pairs,
    in_order,
    length_grouped,
    random_chains,
    random_pairs,
    write_rows,
)

BATCH = {"cpu": 8, "cuda": 32}
"""Pairs or chains in an optimizer step."""

RATE = 1e-6
MAX_TOKENS = {"cpu": 2048, "cuda": 32768}
"""Tokens of a forward pass of prm; sets its memory, and on a CPU hardly its speed."""

POOL = 1600
"""Records that bucketing sorts: enough for it to work at its best, 50 batches at a time."""

CHECKPOINTING = 4
"""Forward passes' worth of work in a step that recomputes activations; 3 without."""


@dataclass(frozen=True)
class Plan:
    """What a training case runs.

    Args:
        kind: Pairs or chains.
        models: Folder of the models.
        scale: Size of model and texts.
        dtype: Of the weights; `mixed` keeps them in float32 and computes in bfloat16.
        bucketed: Whether the batches are those of length grouping.
        repetitions: Measured and warm-up repetitions, of one optimizer step each.
        device: Where both sides run.
    """

    kind: Literal["pairs", "chains"]
    models: Path
    scale: Scale
    dtype: Literal["bf16", "fp32", "mixed"]
    bucketed: bool
    repetitions: int
    device: Device = "cpu"

    @property
    def size(self) -> int:
        """Records in a batch."""
        return BATCH[self.device]

    @property
    def model(self) -> Path:
        """The checkpoint that both sides start from."""
        return self.models / (OUTCOME if self.kind == "pairs" else PROCESS)

    @property
    def weights(self) -> Any:
        """Type of the weights, as torch names it."""
        return DTYPES.get(self.dtype, "float32")

    def batches(self) -> list[list[Any]]:
        """Return the batches of all steps, in order, and one more: trainers fetch one ahead."""
        make: Any = random_pairs if self.kind == "pairs" else random_chains
        count = self.repetitions + 1
        if self.bucketed:
            return length_grouped(make(0, POOL, self.scale), self.size, count)
        return batches_of(make(0, count * self.size, self.scale), self.size)


def useful(batch: Sequence[Any]) -> int:
    """Return the tokens of all sequences, a prompt counted once per response."""
    return sum(sum(record.lengths) for record in batch)


def attention_flops(scale: Scale, batch: Sequence[Any], shared: bool) -> float:
    """Return the attention FLOPs that a batch needs, with prompts shared or not."""
    pairs = sum(
        record.tree[1] if shared else sum(map(causal_pairs, record.lengths)) for record in batch
    )
    return scale.attention_flops(pairs, passes=3)


def padded(batch: Sequence[Any]) -> int:
    """Return the tokens of a batch whose sequences are padded to the longest.

    Example:
        >>> from tests.benchmarks.workloads import Pair
        >>> padded([Pair("", ("", ""), 3, (2, 5)), Pair("", ("", ""), 1, (1, 1))])
        32
    """
    lengths = [length for record in batch for length in record.lengths]
    return len(lengths) * max(lengths)


class StepClock:
    """Reports every optimizer step as a repetition."""

    def __init__(self, laps: Laps, plan: Plan, passes: int, shared: bool) -> None:
        self.laps, self.scale, self.passes, self.shared = laps, plan.scale, passes, shared
        self.batches = iter(plan.batches())

    def step(self, loss: float, executed: int | None = None) -> None:
        """Report a step.

        Args:
            loss: Its loss, before the update.
            executed: Tokens that were computed; those of the padded batch if not given.
        """
        batch = next(self.batches)
        tokens = padded(batch) if executed is None else executed
        self.laps.done(
            useful(batch),
            self.scale.linear_flops(tokens, self.passes),
            attention_flops(self.scale, batch, self.shared),
            loss,
        )


def train_prm(laps: Laps, plan: Plan) -> None:
    """Run a task as `prm fit` does, without its files; on a GPU as `overlay/gpu.yaml` says."""
    import lightning as L
    import torch
    from safetensors.torch import load_file

    task = _task(plan)
    score = load_file(plan.model / "model.safetensors")
    clock = StepClock(laps, plan, passes=3, shared=True)

    class Clock(L.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            with torch.no_grad():
                for name, parameter in pl_module.model.heads.layers.named_parameters():
                    parameter.copy_(score[f"score.{name}"])
            laps.start()

        def on_train_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            executed = sum(part.trees.num_tokens for part in batch.micro_batches)
            clock.step(float(trainer.callback_metrics["train/loss"]), executed)

    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            accelerator=plan.device,
            devices=1,
            precision="bf16-mixed" if plan.dtype == "mixed" else "32-true",
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            callbacks=[Clock()],
            default_root_dir=folder,
        )
        trainer.fit(task, _data(plan, Path(folder)))


def _task(plan: Plan) -> Any:
    from torch.optim import AdamW

    from prm.losses.steps import CrossEntropy
    from prm.models.sources import Pretrained
    from prm.training.objectives import ResponseObjective, StepObjective
    from prm.training.optim import Schedule
    from prm.training.task import RewardTask

    source = Pretrained(str(plan.model), dtype=plan.weights)
    options: dict[str, Any] = {"lr": RATE, "schedule": Schedule("constant", warmup=0)}
    if plan.device == "cuda":
        options |= {"compile_layers": True, "optimizer": partial(AdamW, fused=True)}
    if plan.kind == "pairs":
        return RewardTask(source, responses=[ResponseObjective("good")], **options)
    return RewardTask(source, steps=[StepObjective(loss=CrossEntropy())], **options)


def _data(plan: Plan, folder: Path) -> Any:
    from prm.data.formats.hf_stepwise import HFStepwise
    from prm.data.formats.outcomes import Outcomes
    from prm.data.module import RecordDataModule
    from prm.data.sources.source import Source

    path = folder / "train.jsonl"
    records = [record for batch in plan.batches() for record in batch]
    write_rows(path, in_order(records))
    options: dict[str, Any] = {
        "batch_size": plan.size,
        "max_tokens": MAX_TOKENS[plan.device],
        "validation_share": 0,
    }
    if plan.kind == "pairs":
        return RecordDataModule([Source(str(path), Outcomes())], **options)
    return RecordDataModule([Source(str(path), HFStepwise())], **options)


def train_trl(laps: Laps, plan: Plan, checkpointing: bool = False) -> None:
    """Run `RewardTrainer.train` or `PRMTrainer.train` on token ids."""
    from transformers import TrainerCallback

    clock = StepClock(laps, plan, CHECKPOINTING if checkpointing else 3, shared=False)
    losses: list[float] = []

    class Clock(TrainerCallback):
        def on_train_begin(self, *args: Any, **options: Any) -> None:
            laps.start()

        def on_step_end(self, *args: Any, **options: Any) -> None:
            clock.step(losses.pop())

    trainer_class, config_class = _trl_classes(plan.kind)

    class KeepsLoss(trainer_class):  # type: ignore[misc]
        def training_step(self, *args: Any, **options: Any) -> Any:
            loss = super().training_step(*args, **options)
            losses.append(float(loss))
            return loss

    with tempfile.TemporaryDirectory() as folder:
        config = config_class(
            output_dir=folder,
            num_train_epochs=1,
            per_device_train_batch_size=plan.size,
            train_sampling_strategy="sequential",
            learning_rate=RATE,
            lr_scheduler_type="constant",
            max_length=None,
            gradient_checkpointing=checkpointing,
            bf16=plan.dtype == "mixed",
            use_cpu=plan.device == "cpu",
            dataloader_pin_memory=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        model, tokenizer, rows = _trl_inputs(plan)
        KeepsLoss(
            model=model,
            args=config,
            train_dataset=rows,
            processing_class=tokenizer,
            callbacks=[Clock()],
        ).train()


def _trl_classes(kind: str) -> tuple[Any, Any]:
    if kind == "pairs":
        from trl import RewardConfig, RewardTrainer

        return RewardTrainer, RewardConfig
    from trl.experimental.prm import PRMConfig, PRMTrainer

    return PRMTrainer, PRMConfig


def _trl_inputs(plan: Plan) -> tuple[Any, Any, Any]:
    """Return model, tokenizer and the token ids that prm computes."""
    import torch
    from datasets import Dataset
    from transformers import (
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
        PreTrainedTokenizerFast,
    )

    family = (
        AutoModelForSequenceClassification
        if plan.kind == "pairs"
        else AutoModelForTokenClassification
    )
    model = family.from_pretrained(plan.model, dtype=getattr(torch, plan.weights))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(plan.model)
    records = [record for batch in plan.batches() for record in batch]
    rows = [
        _pair_ids(record, tokenizer) if plan.kind == "pairs" else _chain_ids(record, tokenizer)
        for record in records
    ]
    return model, tokenizer, Dataset.from_list(rows)


def _pair_ids(pair: Any, tokenizer: Any) -> dict[str, list[int]]:
    prompt, *responses = tokenizer(
        [pair.prompt, *pair.responses], add_special_tokens=False
    ).input_ids
    chosen, rejected = ([*prompt, *ids, tokenizer.eos_token_id] for ids in responses)
    return {"chosen_ids": chosen, "rejected_ids": rejected}


def _chain_ids(chain: Any, tokenizer: Any) -> dict[str, list[int]]:
    from prm.spec import STEP_MARKER

    texts = [chain.prompt, *chain.steps]
    prompt, *steps = tokenizer(texts, add_special_tokens=False).input_ids
    marker = tokenizer.convert_tokens_to_ids(STEP_MARKER)
    ids, labels = list(prompt), [-100] * len(prompt)
    for step, label in zip(steps, chain.labels, strict=True):
        ids += [*step, marker]
        labels += [-100] * len(step) + [label]
    return {"input_ids": ids, "labels": labels}


PLAIN, DEFAULT, BUCKETED = "no checkpointing", "default (checkpointing)", "length-bucketed"

TOLERANCE = {"bf16": 0.02, "mixed": 0.02, "fp32": 1e-4}


def gpu_cases(models: Path, scale: Scale, pairs: int) -> list[Case]:
    """Return the training cases for a GPU; the bars are shares of its measured GEMM."""
    make = partial(
        _case, models=models, scale=scale, repetitions=pairs + WARM_UP, gemm=0.45, device="cuda"
    )
    return [
        make("pairwise-mixed", "pairs", "mixed", {PLAIN: 2.4, DEFAULT: None}),
        make("pairwise-mixed-bucketed", "pairs", "mixed", {BUCKETED: 1.6}),
        make("pairwise-bf16", "pairs", "bf16", {PLAIN: 2.4, DEFAULT: None}),
        make("process-mixed", "chains", "mixed", {PLAIN: 1.8}),
        make("process-bf16", "chains", "bf16", {PLAIN: 1.8}),
    ]


def cases(models: Path, scale: Scale, pairs: int) -> list[Case]:
    """Return the training cases."""
    make = partial(_case, models=models, scale=scale, repetitions=pairs + WARM_UP)
    return [
        make("pairwise-bf16", "pairs", "bf16", {PLAIN: 2.2, DEFAULT: None}, gemm=0.5, memory=0.55),
        make("pairwise-bf16-bucketed", "pairs", "bf16", {BUCKETED: 1.6}),
        make("pairwise-mixed", "pairs", "mixed", {PLAIN: 2.2, DEFAULT: None}, memory=0.55),
        make("pairwise-mixed-bucketed", "pairs", "mixed", {BUCKETED: 1.6}),
        make("pairwise-fp32", "pairs", "fp32", {PLAIN: 2.2}, gemm=0.62, memory=0.55),
        make("pairwise-fp32-bucketed", "pairs", "fp32", {BUCKETED: 1.6}),
        make("process-bf16", "chains", "bf16", {PLAIN: 1.8}, gemm=0.5),
        make("process-bf16-bucketed", "chains", "bf16", {BUCKETED: 1.3}),
        make("process-mixed", "chains", "mixed", {PLAIN: 1.8}),
        make("process-mixed-bucketed", "chains", "mixed", {BUCKETED: 1.3}),
    ]


TITLES = {
    "pairs": "pairwise training, batch {}, prompts ~200, responses 150 ± 100",
    "chains": "process training, batch {}, prompt 120, 8 ± 4 steps of 40",
}


NAMES = {"bf16": "bf16 weights", "fp32": "fp32", "mixed": "fp32 weights with bf16 autocast"}


def _case(
    name: str,
    kind: Literal["pairs", "chains"],
    dtype: Literal["bf16", "fp32", "mixed"],
    speed: dict[str, float | None],
    *,
    models: Path,
    scale: Scale,
    repetitions: int,
    gemm: float | None = None,
    memory: float | None = None,
    device: Device = "cpu",
) -> Case:
    plan = Plan(kind, models, scale, dtype, BUCKETED in speed, repetitions, device)
    peer, trainer = {
        "pairs": ("trl-1.16", "TRL 1.16 RewardTrainer"),
        "chains": ("trl-1.13", "TRL 1.13 PRMTrainer"),
    }[kind]
    sides = [Side("prm", partial(train_prm, plan=plan))]
    bars = []
    for variant, value in speed.items():
        run = partial(train_trl, plan=plan, checkpointing=variant == DEFAULT)
        sides.append(Side(f"{trainer}, {variant}", run, peer))
        bars.append(Bar("speed", value, (sides[-1].name,)))
    bars.append(Bar("gemm", gemm))
    bars.append(Bar("memory", memory, (sides[1].name,)))
    title = f"{TITLES[kind].format(plan.size)}, {NAMES[dtype]}" + (
        ", length-bucketed batches" if plan.bucketed else ""
    )
    return Case(
        name,
        title,
        tuple(sides),
        tuple(bars),
        "fp32" if dtype == "fp32" else "bf16",
        TOLERANCE[dtype],
    )
