"""What the machine can do: matrix products at the model's shapes, and memory bandwidth."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.harness import Laps
from tests.benchmarks.workloads import Scale

GEMM = "GEMM"
"""Name of the side that measures the machine in every case."""

ROWS = 4096
"""Tokens in the matrix products: about what a training step of the suite computes."""

DTYPES = {"bf16": "bfloat16", "fp32": "float32"}


def gemm(laps: Laps, scale: Scale, dtype: str) -> None:
    """Multiply with every linear layer of the decoder, forward: 2 N FLOPs per token."""
    import torch
    from torch.nn.functional import linear

    kind = getattr(torch, DTYPES[dtype])
    rows = scale.length(ROWS)
    weights = [torch.randn(shape, dtype=kind) for shape in scale.layer_shapes * scale.num_layers]
    states = {weight.shape[1]: torch.randn(rows, weight.shape[1], dtype=kind) for weight in weights}
    laps.start()
    while True:
        with torch.inference_mode():
            for weight in weights:
                linear(states[weight.shape[1]], weight)
        laps.done(tokens=rows, flops=scale.linear_flops(rows, passes=1))


def bandwidth(megabytes: int = 256, repetitions: int = 7) -> float:
    """Return bytes read and written per second by a large copy, the median of some."""
    import torch

    source = torch.ones(megabytes * 2**18)
    target = torch.zeros_like(source)
    seconds = []
    for _ in range(repetitions):
        started = time.perf_counter()
        target.copy_(source)
        seconds.append(time.perf_counter() - started)
    return 2 * source.nbytes / median(seconds)


def describe(threads: int) -> dict[str, Any]:
    """Return what the figures depend on."""
    packages = ("torch", "lightning", "transformers", "accelerate", "datasets", "numpy")
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": threads,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in (*packages, "prm")},
        "load_before": os.getloadavg()[0],
    }


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
