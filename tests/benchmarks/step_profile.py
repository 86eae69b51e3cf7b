"""Where the time of prm's training step goes: `python -m tests.benchmarks.step_profile`.

Runs a training case's side of prm under torch's profiler and prints the share of each kind of work,
and the largest operators of what is neither matrix products, attention nor optimizer.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import Stop
from tests.benchmarks.training import Plan, train_prm
from tests.benchmarks.workloads import SCALES, write_models

PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::linear", "mkldnn::")
ATTENTION = ("attention", "Attention")
OPTIMIZER = "Optimizer.step"
SHOWN = 12
"""Operators that are listed one by one."""


class Profiled:
    """In place of `Laps`: profiles the steps after the first one."""

    def __init__(self, steps: int) -> None:
        from torch.profiler import ProfilerActivity, profile

        self.left = steps + 1
        self.seconds = 0.0
        self.profiler = profile(activities=[ProfilerActivity.CPU])

    def start(self) -> None:
        """The first step begins."""

    def done(self, *result: Any) -> None:
        """A step is over."""
        self.left -= 1
        if self.left == 0:
            self.seconds += time.perf_counter()
            self.profiler.stop()
            raise Stop
        if self.seconds == 0:
            self.profiler.start()
            self.seconds -= time.perf_counter()


def kinds(events: Any) -> tuple[Counter[str], Counter[str]]:
    """Return the self time, in microseconds, by kind of work and of the remaining operators."""
    by_kind: Counter[str] = Counter()
    others: Counter[str] = Counter()
    for event in events:
        names = list(_names(event))
        kind = _kind(names)
        by_kind[kind] += event.self_cpu_time_total
        if kind == "other operators":
            others[names[0]] += event.self_cpu_time_total
    return by_kind, others


def _names(event: Any) -> Iterator[str]:
    """Yield the name of an event and of those that it runs in."""
    while event is not None:
        yield event.name
        event = event.cpu_parent


def _kind(names: list[str]) -> str:
    if any(name.startswith(OPTIMIZER) for name in names):
        return "optimizer"
    if any(word in name for name in names for word in ATTENTION):
        return "attention"
    if names[0].startswith(PRODUCTS):
        return "matrix products"
    return "other operators"


def main() -> int:
    """Profile some steps and print the shares."""
    parser = argparse.ArgumentParser(description="Where the time of a training step goes")
    parser.add_argument("--kind", choices=("pairs", "chains"), default="pairs")
    parser.add_argument("--dtype", choices=("bf16", "fp32", "mixed"), default="bf16")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--scale", choices=list(SCALES), default="S")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()

    import torch

    torch.set_num_threads(options.threads)
    scale = SCALES[options.scale]
    laps: Any = Profiled(options.steps)
    with tempfile.TemporaryDirectory() as models:
        write_models(Path(models), scale)
        plan = Plan(options.kind, Path(models), scale, options.dtype, False, options.steps + 1)
        try:
            train_prm(laps, plan)
        except Stop:
            report(laps, options.steps)
    return 0


def report(laps: Profiled, steps: int) -> None:
    """Print milliseconds per step; what no operator accounts for is Python."""
    by_kind, others = kinds(laps.profiler.events())
    total = laps.seconds * 1e6
    by_kind["outside of operators"] = round(total - sum(by_kind.values()))
    for name, time_spent in by_kind.most_common():
        print(f"{time_spent / steps / 1e3:9.1f} ms {time_spent / total:6.1%}  {name}")
    for name, time_spent in others.most_common(SHOWN):
        print(f"{time_spent / steps / 1e3:9.1f} ms {time_spent / total:6.1%}      {name}")


if __name__ == "__main__":
    sys.exit(main())
