"""What the machine can do: matrix products at the model's shapes, and memory bandwidth."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Literal

import prm
from tests.benchmarks.harness import WARM_UP, Laps
from tests.benchmarks.workloads import Scale

GEMM = "GEMM"
"""Name of the side that measures the machine in every case."""

ROWS, GPU_ROWS = 4096, 16384
"""Tokens in the matrix products: about what a training step of the suite computes."""

DTYPES = {"bf16": "bfloat16", "fp32": "float32"}

Device = Literal["cpu", "cuda"]


def gemm(laps: Laps, scale: Scale, dtype: str, device: Device = "cpu") -> None:
    """Multiply with every linear layer of the decoder, forward: 2 N FLOPs per token."""
    import torch
    from torch.nn.functional import linear

    options: Any = {"dtype": getattr(torch, DTYPES[dtype]), "device": device}
    rows = scale.length(ROWS if device == "cpu" else GPU_ROWS)
    weights = [torch.randn(shape, **options) for shape in scale.layer_shapes * scale.num_layers]
    states = {weight.shape[1]: torch.randn(rows, weight.shape[1], **options) for weight in weights}
    laps.start()
    while True:
        with torch.inference_mode():
            for weight in weights:
                linear(states[weight.shape[1]], weight)
        if device == "cuda":
            torch.cuda.synchronize()
        laps.done(tokens=rows, flops=scale.linear_flops(rows, passes=1))


def bandwidth(device: Device, repetitions: int = 7) -> float:
    """Return bytes read and written per second by a large copy, the median of some."""
    import torch

    source = torch.ones(2**26 if device == "cpu" else 2**30, device=device)
    target = torch.zeros_like(source)
    seconds = []
    for _ in range(repetitions + WARM_UP):
        started = time.perf_counter()
        target.copy_(source)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return 2 * source.nbytes / median(seconds[WARM_UP:])


def describe(threads: int, device: Device) -> dict[str, Any]:
    """Return what the figures depend on."""
    import torch

    packages = ("torch", "lightning", "transformers", "accelerate", "numpy")
    return {
        "cpu": _cpu(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "cores": os.cpu_count(),
        "threads": threads,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages} | {"prm": prm.__version__},
        "load_before": os.getloadavg()[0],
    }


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
