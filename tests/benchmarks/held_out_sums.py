"""Does the arithmetic model judge sums that it has never seen? Run after `make demo`:

    .venv/bin/python tests/benchmarks/held_out_sums.py

One pair of operands in twenty is held out: training chains that write such a step are left out, and
the test keeps only chains that do. The steps of those chains are then compared: held-out sums
against the others. Results go to `runs/held-out-sums`.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from prm.cli.main import main as prm
from prm.metrics.intervals import auroc_interval

DATA, RUN = Path("runs/arithmetic-data"), Path("runs/held-out-sums")
HELD_OUT = 20


def held_out(step: str) -> bool:
    """Whether the pair of operands on the left of a step is held out."""
    digest = hashlib.sha256(step.partition("=")[0].strip().encode()).hexdigest()
    return int(digest, 16) % HELD_OUT == 0


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a JSON lines file."""
    with path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def keep(part: str, with_held_out: bool) -> Path:
    """Write the chains of a part that do, or do not, write a held-out sum."""
    path = RUN / f"{part}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    chosen = (
        row
        for row in rows(DATA / f"{part}.jsonl")
        if any(map(held_out, row["completions"])) == with_held_out
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in chosen), encoding="utf-8")
    return path


def sources(path: Path) -> str:
    """Return a list of one source for the command line."""
    return json.dumps([{"path": str(path), "format": {"class_path": "HFStepwise"}}])


def report(test: Path) -> None:
    """Print the step AUROC of held-out sums and of the other steps of the same chains."""
    predictions = {row["id"]: row for row in rows(RUN / "test" / "predictions.jsonl")}
    found: dict[bool, list[tuple[float, float, str]]] = {True: [], False: []}
    for row in rows(test):
        scores = predictions[row["id"]]["probabilities"]
        for step, label, score in zip(row["completions"], row["labels"], scores, strict=True):
            if label is not None:
                found[held_out(step)].append((score, label, row["group"]))
    for name, part in (("held-out sums", found[True]), ("other steps", found[False])):
        probabilities, labels, groups = zip(*part, strict=True)
        interval = auroc_interval(np.array(probabilities), np.array(labels), groups)
        sys.stdout.write(f"{name}: {len(part)} steps, step AUROC {interval}\n")


def main() -> int:
    """Train without the held-out sums, test on chains with them, and report."""
    train, test = keep("train", with_held_out=False), keep("test", with_held_out=True)
    config = ("--config", "configs/process/arithmetic.yaml", "--run_dir", str(RUN))
    data = ("--data.init_args.train", sources(train), "--data.init_args.test", sources(test))
    checkpoint = ("--ckpt_path", str(RUN / "checkpoints" / "last.ckpt"), "--verbose", "false")
    code = prm(["fit", *config, *data, "--overwrite", "true"])
    code = code or prm(["test", *config, *data, *checkpoint])
    if code == 0:
        report(test)
    return code


if __name__ == "__main__":
    sys.exit(main())
