"""Estimates of memory and speed as tables, and the command that starts the run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.console import Console

from prm.report import terminal
from prm.report.cells import count, share
from prm.report.document import Block, Code, Document, Section, Text, named_table
from prm.report.markdown import render_table
from prm.training.sizing.estimate import (
    Gpu,
    Strategy,
    Training,
    activation_bytes,
    fit_gpus,
    flops_per_token,
    memory,
    num_trained,
    session_bytes_per_token,
    tokens_per_second,
)
from prm.training.sizing.shapes import DecoderShape, load_shape

COMPARED = tuple(f"Qwen2.5-{size}" for size in ("0.5B", "1.5B", "3B", "7B", "14B", "32B", "72B"))
"""Models of the table that compares sizes."""

AUTO: tuple[Strategy, ...] = ("single", "fsdp2")
"""What is tried if no strategy is asked for."""

_OVERLAYS = {
    "ddp": "ddp",
    "fsdp2": "fsdp2",
    "zero2": "deepspeed-zero2",
    "zero3": "deepspeed-zero3",
}

_PARTS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "AdamW states",
    "gathered": "gathered layers",
    "activations": "activations",
    "workspace": "work space of a layer",
}


@dataclass(frozen=True, slots=True)
class Estimate:
    """A training of a model on GPUs.

    Args:
        model: Name of the model, or its folder.
        shape: Its sizes.
        training: How it is trained.
        gpu: The GPUs.
        mfu: Share of their peak that useful work reaches.
        fits: Whether the memory is enough.
    """

    model: str
    shape: DecoderShape
    training: Training
    gpu: Gpu
    mfu: float
    fits: bool


def draw(console: Console, estimate: Estimate, gpus_per_node: int) -> None:
    """Draw what one training needs, and the command that starts it."""
    terminal.draw(console, document(estimate, gpus_per_node))


def document(estimate: Estimate, gpus_per_node: int = 8) -> Document:
    """Return what one training needs, and the command that starts it."""
    total = memory(estimate.shape, estimate.training)
    rows = [[words, _gb(getattr(total, name))] for name, words in _PARTS.items()]
    table = named_table(["on each GPU", "GB"], [*rows, ["in all", _gb(total.total)]])
    blocks: list[Block] = [table, Text(_speed(estimate), brief=True)]
    if estimate.fits:
        blocks.append(Text("Start it with, on every node:", brief=True))
        blocks.append(Code(command(estimate.training, gpus_per_node)))
    else:
        reason = "This does not fit: add GPUs, shard, or lower --max_tokens."
        blocks.append(Text(reason, "bad", brief=True))
    training, gpu = estimate.training, estimate.gpu
    place = f"{training.num_gpus} × {gpu.memory:g} GB, {training.strategy}"
    title = f"{estimate.model} on {place} (estimate)"
    return Document("Memory and speed of a training", "", [Section(title, blocks)])


def _speed(estimate: Estimate) -> str:
    shape, training = estimate.shape, estimate.training
    peak, mfu = estimate.gpu.tflops, estimate.mfu
    speed = tokens_per_second(shape, training, peak, mfu)
    return (
        f"{count(shape.num_parameters)} parameters, {count(num_trained(shape, training))} of them "
        f"trained; {flops_per_token(shape, training) / 1e9:,.1f} GFLOP per token\n"
        f"{count(speed)} tokens/s if {share(mfu, 0)} of {peak:g} TFLOP/s is reached on each GPU"
    )


def command(training: Training, gpus_per_node: int = 8) -> str:
    r"""Return the command that starts a training; CONFIG stands for the run's configuration.

    Example:
        >>> print(command(Training(strategy="ddp", num_gpus=2, checkpointing=False)))
        prm fit --config CONFIG --config configs/overlay/ddp.yaml \
            --config configs/overlay/bf16.yaml --trainer.devices 2 \
            --model.init_args.gradient_checkpointing false \
            --data.init_args.max_tokens 16384
    """
    devices = min(training.num_gpus, gpus_per_node)
    lines = [
        ["prm", "fit", "--config", "CONFIG", *_overlay(training)],
        [*_precision(training), "--trainer.devices", str(devices)],
        _checkpointing(training),
        ["--data.init_args.max_tokens", str(training.max_tokens)],
    ]
    if training.num_gpus > devices:
        lines[1] += ["--trainer.num_nodes", str(-(-training.num_gpus // devices))]
    if training.lora_rank is not None:
        overlay = ["--config", "configs/overlay/lora.yaml"]
        lines.insert(
            1, [*overlay, "--model.init_args.lora.init_args.rank", str(training.lora_rank)]
        )
    if training.frozen:
        lines.append(["--model.init_args.freeze_backbone", "true"])
    return " \\\n    ".join(shlex.join(line) for line in lines)


def compare(gpu: Gpu, mfu: float, models: Sequence[str] = COMPARED) -> str:
    """Return the Markdown table that compares sizes of models.

    Args:
        gpu: The GPUs.
        mfu: Share of their peak that useful work reaches.
        models: Their names or folders.
    """
    head = [
        "model",
        "parameters",
        "states, GB",
        "kept per token, KB",
        "with checkpointing, KB",
        "session per token, KB",
        "GPUs",
        "tokens/s per GPU",
        "GPUs with LoRA",
    ]
    return render_table(named_table(head, [_row(model, gpu, mfu) for model in models]))


def _row(model: str, gpu: Gpu, mfu: float) -> list[str]:
    shape = load_shape(model)
    whole = replace(Training(), max_tokens=1)
    states = memory(shape, whole)
    kept = [
        activation_bytes(shape, replace(Training(), checkpointing=on)) / Training().max_tokens
        for on in (False, True)
    ]
    full = fit_gpus(shape, Training(), gpu.memory, AUTO)
    adapters = fit_gpus(shape, Training(lora_rank=16), gpu.memory, AUTO)
    speed = None if full is None else tokens_per_second(shape, full, gpu.tflops, mfu)
    return [
        model,
        count(shape.num_parameters),
        _gb(states.weights + states.gradients + states.optimizer),
        *(count(value / 1e3) for value in kept),
        count(session_bytes_per_token(shape, "bf16-mixed") / 1e3),
        _gpus(full),
        "" if full is None or speed is None else count(speed / full.num_gpus),
        _gpus(adapters),
    ]


def _gpus(training: Training | None) -> str:
    return "none" if training is None else f"{training.num_gpus} ({training.strategy})"


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.1f}"


def _overlay(training: Training) -> list[str]:
    name = _OVERLAYS.get(training.strategy)
    if training.strategy == "fsdp2" and training.precision == "bf16-mixed":
        name = "fsdp2-bf16"
    return [] if name is None else ["--config", f"configs/overlay/{name}.yaml"]


def _checkpointing(training: Training) -> list[str]:
    if training.checkpointing:
        return ["--config", "configs/overlay/gradient-checkpointing.yaml"]
    return ["--model.init_args.gradient_checkpointing", "false"]


def _precision(training: Training) -> list[str]:
    if training.precision == "float32":
        return ["--trainer.precision", "32-true"]
    if training.precision == "bfloat16":
        return ["--model.init_args.backbone.init_args.dtype", "bfloat16"]
    if training.strategy == "fsdp2":
        return []
    return ["--config", "configs/overlay/bf16.yaml"]
