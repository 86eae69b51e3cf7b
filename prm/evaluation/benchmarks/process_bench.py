"""ProcessBench: finding the first wrong step of solutions of math problems.

Source:
    Zheng et al., "ProcessBench: Identifying Process Errors in Mathematical Reasoning"
    (arXiv 2412.06559).
"""

from __future__ import annotations

from prm.evaluation.benchmarks.base import Benchmark, Published
from prm.evaluation.steps import MACRO_F1
from prm.metrics.first_error import PROCESSBENCH_F1

PAPER = "arXiv 2412.06559, table 3"
R_PRM = "repository NJUNLP/R-PRM"

SIZES = {"gsm8k": 400, "math": 1000, "olympiadbench": 1000, "omnimath": 1000}


def _published(system: str, percent: tuple[float, ...], mean: float, by: str) -> Published:
    values = {subset: value / 100 for subset, value in zip(SIZES, percent, strict=True)}
    return Published(system, values, mean / 100, by)


PROCESS_BENCH = Benchmark(
    name="processbench",
    title="ProcessBench",
    data="Qwen/ProcessBench",
    format="ProcessBench",
    sizes=SIZES,
    metric=PROCESSBENCH_F1,
    headline=MACRO_F1,
    published=(
        _published("o1-mini, critic", (93.2, 88.9, 87.2, 82.4), 87.9, PAPER),
        _published("Qwen2.5-Math-PRM-7B", (82.4, 77.6, 67.5, 66.3), 73.5, R_PRM),
        _published("QwQ-32B-Preview, majority of 8", (88.0, 78.7, 57.8, 61.3), 71.5, PAPER),
        _published("R-PRM-7B-DPO", (80.7, 76.9, 63.8, 60.1), 70.4, R_PRM),
        _published("GPT-4o-0806, critic", (79.2, 63.6, 51.4, 53.5), 61.9, PAPER),
        _published("Qwen2.5-Math-7B-PRM800K", (68.2, 62.6, 50.7, 44.3), 56.5, PAPER),
        _published("Skywork-PRM-7B", (70.8, 53.6, 22.9, 21.0), 42.1, PAPER),
        _published("Skywork-PRM-1.5B", (59.0, 48.0, 19.3, 19.2), 36.4, PAPER),
        _published("Math-Shepherd-PRM-7B", (47.9, 29.5, 24.8, 23.8), 31.5, PAPER),
        _published("RLHFlow-PRM-Mistral-8B", (50.4, 33.4, 13.8, 15.8), 28.4, PAPER),
        _published("RLHFlow-PRM-Deepseek-8B", (38.8, 33.8, 16.9, 16.9), 26.6, PAPER),
    ),
)
