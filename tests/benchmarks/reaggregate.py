"""How long it takes to aggregate stored scores anew: a million rows with three objectives.

Run as `python tests/benchmarks/reaggregate.py`; it writes its files into `runs/reaggregate`.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from prm.aggregation.objectives import WeightedSum
from prm.cli.main import main as prm
from prm.scores.tables import spec_path
from prm.spec import ResponseHead, RewardSpec

FOLDER = Path("runs/reaggregate")
OBJECTIVES = ("helpfulness", "safety", "factuality")
NUM_ROWS, PER_PROMPT = 1_000_000, 4


def write_scores(path: Path) -> None:
    """Write random scores as `prm score` writes them."""
    scores = np.random.default_rng(0).normal(size=(NUM_ROWS, len(OBJECTIVES))).round(6).tolist()
    with path.open("w") as file:
        for index, values in enumerate(scores):
            named = dict(zip(OBJECTIVES, values, strict=True))
            prompt, response = divmod(index, PER_PROMPT)
            row = {"id": f"p{prompt}", "group": f"p{prompt}", "response": response}
            row |= {"scores": named, "spreads": None, "utilities": named, "reward": sum(values)}
            row |= {"aggregation": "weighted_sum", "num_truncated": 0, "reason": ""}
            file.write(json.dumps(row) + "\n")
    objectives = tuple(ResponseHead(name) for name in OBJECTIVES)
    weights = WeightedSum(dict.fromkeys(OBJECTIVES, 1.0))
    spec = RewardSpec(response_heads=objectives, objective_aggregation=weights)
    spec_path(path).write_text(spec.to_json())


def main() -> int:
    """Write the rows, aggregate them from and to both kinds of files, and print the times."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    scores = FOLDER / "scores.jsonl"
    write_scores(scores)
    steps = (
        ("JSON lines to JSON lines", scores, FOLDER / "again.jsonl"),
        ("JSON lines to Parquet", scores, FOLDER / "again.parquet"),
        ("Parquet to Parquet", FOLDER / "again.parquet", FOLDER / "twice.parquet"),
    )
    for name, source, output in steps:
        started = time.perf_counter()
        weight = "--aggregation.weights.safety=2"
        code = prm(["reward", str(source), weight, "--output", str(output), "--overwrite"])
        if code != 0:
            return code
        print(f"{name}: {time.perf_counter() - started:.1f} s for {NUM_ROWS:,} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
