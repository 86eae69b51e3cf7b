"""The formulas of `prm size` beside what torch allocates and how fast this machine trains.

Run as `python -m tests.benchmarks.sizing`; it prints Markdown tables and takes about a minute.
Parameters, states and kept activations must be equal to the byte. Peaks and speed are shown with
their ratio: work space is an estimate, a process holds more than torch, and speed is the machine's.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, AutoModel

from prm.markdown import table
from prm.models.backbone import Backbone
from prm.models.heads import Heads
from prm.training.sizing.estimate import (
    Precision,
    Training,
    activation_bytes,
    activation_bytes_per_layer,
    flops_per_token,
    memory,
)
from prm.training.sizing.shapes import PRESETS, DecoderShape
from prm.trees.packing import PackedTrees, pack
from prm.trees.tree import Segment, TokenTree

MODEL_S = {
    "model_type": "qwen2",
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "vocab_size": 8192,
}
"""27.3 million linear weights: the model of the other benchmarks."""

SMALL = {
    **MODEL_S,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 300,
}
FAMILIES = ("qwen2", "qwen3", "llama")
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "bf16-mixed")
PEAK_TOKENS = 2048
ALLOCATED_TOKENS = 768
STEPS = 3


@dataclass(frozen=True)
class Run:
    """What a training of model S took."""

    peak: int
    seconds: float
    num_tokens: int
    gemm: float


@dataclass(frozen=True)
class Check:
    """A formula beside a measurement."""

    what: str
    formula: float
    measured: float

    def row(self) -> list[str]:
        ratio = self.measured / self.formula
        return [self.what, f"{self.formula:,.0f}", f"{self.measured:,.0f}", f"{ratio:.3f}"]


def build(config: dict[str, Any], precision: Precision = "float32") -> Backbone:
    fields = {"max_position_embeddings": 8192, **config}
    torch.manual_seed(0)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    return Backbone(AutoModel.from_config(AutoConfig.for_model(**fields), dtype=dtype), 8192)


def trees_of(num_tokens: int, path_length: int = 128) -> PackedTrees:
    """Return trees of a prompt and two responses, half of a path each."""
    half = tuple(range(5, 5 + path_length // 2))
    response = Segment(half, 0, (len(half) - 1,))
    tree = TokenTree((Segment(half), response, response))
    return pack([tree] * max(1, num_tokens // tree.num_tokens))


def autocast(precision: Precision) -> AbstractContextManager[Any]:
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed")


def parameter_checks() -> list[Check]:
    checks = []
    for name, config in PRESETS.items():
        with torch.device("meta"):
            model = AutoModel.from_config(AutoConfig.for_model(**config))
        measured = sum(parameter.numel() for parameter in model.parameters())
        checks.append(Check(name, DecoderShape.from_config(config).num_parameters, measured))
    return checks


def state_checks() -> list[Check]:
    """Compare weights, gradients and AdamW states with what a step of torch's leaves behind."""
    checks = []
    for precision in ("float32", "bfloat16"):
        backbone = build(SMALL, precision)
        states, _ = backbone(trees_of(256))
        states.float().sum().backward()
        optimizer = torch.optim.AdamW(backbone.parameters())
        optimizer.step()
        moments = [value for state in optimizer.state.values() for value in state.values()]
        kept = [*backbone.parameters(), *(value for value in moments if value.ndim)]
        kept += [item.grad for item in backbone.parameters() if item.grad is not None]
        measured = sum(tensor.nbytes for tensor in kept)
        estimate = memory(DecoderShape.from_config(SMALL), Training(precision))
        formula = estimate.weights + estimate.gradients + estimate.optimizer
        checks.append(Check(f"states, {precision}", formula, measured))
    return checks


def kept_bytes(backbone: Backbone, trees: PackedTrees, precision: Precision) -> int:
    """Return the bytes of all storages that autograd keeps of a forward pass, weights apart."""
    weights = {item.untyped_storage().data_ptr() for item in backbone.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in weights:
            kept[address] = tensor
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor), autocast(precision):
        backbone(trees)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def per_layer(config: dict[str, Any], precision: Precision, checkpointing: bool) -> tuple[int, int]:
    """Return what a third layer adds to the kept bytes, and the tokens of the pass."""
    sizes = []
    for num_layers in (2, 3):
        backbone = build({**config, "num_hidden_layers": num_layers}, precision)
        trees = trees_of(512)
        backbone(trees)
        if checkpointing:
            enable_checkpointing(backbone)
        sizes.append(kept_bytes(backbone, trees, precision))
    return sizes[1] - sizes[0], trees.num_tokens


def enable_checkpointing(backbone: Backbone) -> None:
    from prm.training.build import checkpoint_activations

    checkpoint_activations(backbone.model)
    backbone.train()


def activation_checks() -> list[Check]:
    checks = []
    for family in FAMILIES:
        for precision in PRECISIONS:
            config = {**SMALL, "model_type": family}
            shape = DecoderShape.from_config(config)
            measured, num_tokens = per_layer(config, precision, checkpointing=False)
            formula = num_tokens * activation_bytes_per_layer(shape, precision)
            if precision == "bf16-mixed":
                formula += 2 * shape.linear_per_layer
            checks.append(Check(f"a layer of {family}, {precision}", formula, measured))
    for precision in PRECISIONS:
        measured, num_tokens = per_layer(SMALL, precision, checkpointing=True)
        shape = DecoderShape.from_config(SMALL)
        training = Training(precision, max_tokens=num_tokens)
        more = replace(shape, num_layers=shape.num_layers + 1)
        formula = activation_bytes(more, training) - activation_bytes(shape, training)
        checks.append(Check(f"a checkpointed layer, {precision}", formula, measured))
    return checks


def train(precision: Precision, checkpointing: bool, threads: int) -> Run:
    """Train model S for some steps, and measure matrix products at its shapes afterwards.

    A step of a small model comes first: it loads the libraries, which are not counted.
    """
    torch.set_num_threads(threads)
    steps(SMALL, precision, checkpointing, trees_of(256), 1)
    gc.collect()
    before = resident_bytes()
    trees = trees_of(PEAK_TOKENS, path_length=512)
    seconds = steps(MODEL_S, precision, checkpointing, trees, STEPS)
    peak = peak_bytes() - before
    rate = gemm_rate(precision, trees.num_tokens)
    return Run(peak, median(seconds[1:]), trees.num_tokens, rate)


def steps(
    config: dict[str, Any],
    precision: Precision,
    checkpointing: bool,
    trees: PackedTrees,
    num_steps: int,
) -> list[float]:
    """Train a model from scratch and return the seconds of each step."""
    backbone = build(config, precision)
    heads = Heads(backbone.hidden_size, 1)
    with torch.no_grad():
        backbone(trees_of(64, 16))
    if checkpointing:
        enable_checkpointing(backbone)
    optimizer = torch.optim.AdamW([*backbone.parameters(), *heads.parameters()])
    seconds = []
    for _ in range(num_steps):
        start = time.perf_counter()
        with autocast(precision):
            loss = heads(backbone(trees)[0]).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        seconds.append(time.perf_counter() - start)
    return seconds


def allocated_peak(precision: Precision, checkpointing: bool) -> Check:
    """Compare the most bytes that torch holds in two steps of model S with the formula."""
    trees = trees_of(ALLOCATED_TOKENS, path_length=512)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        steps(MODEL_S, precision, checkpointing, trees, 2)
    with tempfile.TemporaryDirectory() as folder:
        profiler.export_chrome_trace(str(Path(folder) / "trace.json"))
        events = json.loads((Path(folder) / "trace.json").read_text())["traceEvents"]
    held = [event["args"]["Total Allocated"] for event in events if event["name"] == "[memory]"]
    training = Training(precision, max_tokens=trees.num_tokens, checkpointing=checkpointing)
    formula = memory(DecoderShape.from_config(MODEL_S), training).total
    return Check(f"{precision}{', checkpointing' * checkpointing}", formula, max(held))


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def gemm_rate(precision: Precision, num_tokens: int) -> float:
    """Return the FLOP/s of a matrix product at model S's shapes."""
    dtype = torch.float32 if precision == "float32" else torch.bfloat16
    states = torch.randn(num_tokens, MODEL_S["hidden_size"], dtype=dtype)
    layer = nn.Linear(MODEL_S["hidden_size"], MODEL_S["intermediate_size"], False, dtype=dtype)
    seconds = []
    with torch.no_grad():
        for _ in range(15):
            start = time.perf_counter()
            layer(states)
            seconds.append(time.perf_counter() - start)
    return 2 * num_tokens * layer.weight.numel() / median(seconds[3:])


def in_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a fresh process, whose peak memory is its own."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(function, arguments)


def training_checks(threads: int) -> tuple[list[Check], list[list[str]]]:
    """Return peaks of model S beside the formula, and rows of its speed."""
    shape = DecoderShape.from_config(MODEL_S)
    peaks, speeds = [], []
    for precision in PRECISIONS:
        for checkpointing in (False, True):
            run = in_process(train, precision, checkpointing, threads)
            training = Training(
                precision, max_tokens=run.num_tokens, checkpointing=checkpointing, path_length=512
            )
            name = f"{precision}{', checkpointing' * checkpointing}"
            peaks.append(Check(name, memory(shape, training).total, run.peak))
            limit = run.gemm / flops_per_token(shape, training)
            speed = run.num_tokens / run.seconds
            rates = [f"{value:,.0f}" for value in (run.gemm / 1e9, limit, speed)]
            speeds.append([name, *rates, f"{speed / limit:.2f}"])
    return peaks, speeds


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.sizing")
    parser.add_argument("--threads", type=int, default=2)
    threads = parser.parse_args(argv).threads
    head = ["", "formula", "measured", "measured / formula"]
    exact = [*parameter_checks(), *state_checks(), *activation_checks()]
    peaks, speeds = training_checks(threads)
    print("Parameters, and bytes of states and of kept activations\n")
    print(table(head, [check.row() for check in exact]))
    held = [allocated_peak(precision, on) for precision in PRECISIONS for on in (False, True)]
    print(f"\nMost bytes that torch holds, model S, micro-batches of {ALLOCATED_TOKENS:,} tokens\n")
    print(table(head, [check.row() for check in held]))
    print(f"\nPeak of the process, model S, micro-batches of {PEAK_TOKENS:,} tokens\n")
    print(table(head, [check.row() for check in peaks]))
    print(f"\nTokens/s of training model S on {threads} threads\n")
    print(table(["", "GEMM, GFLOP/s", "limit", "measured", "share of the limit"], speeds))
    return int(any(check.formula != check.measured for check in exact))


if __name__ == "__main__":
    sys.exit(main())
