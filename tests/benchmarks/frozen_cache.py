"""Heads on a frozen backbone: from cached states, and with full passes in every epoch.

Run as `python -m tests.benchmarks.frozen_cache`; it writes a table and a JSON file into
`runs/bench`. Model S has random weights; the heads train on random chains.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.benchmarks.ratios import Estimate, estimate
from tests.benchmarks.workloads import (
    PROCESS,
    SCALES,
    LabeledSteps,
    Scale,
    random_chains,
    write_models,
    write_rows,
)

OUTPUT = Path("runs/bench")
BATCH, MAX_TOKENS = 8, 8192
EPOCHS = 20
"""Epochs of the run that finds everything in the cache."""

SCORING = "scoring pass"
FINE_TUNING = "epoch, all weights trained"
FROZEN = "epoch, frozen, full passes"
COLD = "first epoch, empty cache"
SECOND = "first epoch of a new objective"
LATER = "later epoch, from the cache"
ROWS = (SCORING, FINE_TUNING, FROZEN, COLD, SECOND, LATER)


class Bench:
    """The runs that are timed.

    Args:
        folder: Where models, data and caches lie.
        dtype: Type of the backbone's weights.
    """

    def __init__(self, folder: Path, dtype: str) -> None:
        self.folder = folder
        self.dtype = dtype

    def repetition(self) -> dict[str, float]:
        """Return the seconds of every row, one after the other."""
        shutil.rmtree(self.folder / "states", ignore_errors=True)
        seconds = {SCORING: self.score()}
        seconds[FINE_TUNING] = self.epochs(1)[0]
        seconds[FROZEN] = self.epochs(1, freeze_backbone=True)[0]
        cached = {"freeze_backbone": True, "state_cache": self.folder / "states"}
        seconds[COLD] = self.epochs(1, **cached)[0]
        seconds[SECOND], *later = self.epochs(EPOCHS, loss="mse", **cached)
        seconds[LATER] = sum(later) / len(later)
        return seconds

    def score(self) -> float:
        """Score all chains once."""
        import torch

        from prm.scoring.scorer import RewardScorer

        scorer = RewardScorer.from_pretrained(
            self.folder / PROCESS, dtype=getattr(torch, self.dtype), max_tokens=MAX_TOKENS
        )
        chains = list(self._data().sources["train"][0])
        scorer.score(chains[:1])
        started = time.perf_counter()
        scorer.score(chains)
        return time.perf_counter() - started

    def epochs(self, count: int, loss: str = "bce", **options: Any) -> list[float]:
        """Train some epochs and return the seconds of each; the first holds its preparations."""
        import lightning as L

        from prm.losses.steps import BCE, MSE
        from prm.models.sources import FromRewardModel
        from prm.training.objectives import StepObjective
        from prm.training.task import RewardTask

        backbone = FromRewardModel(str(self.folder / PROCESS), self.dtype)  # type: ignore[arg-type]
        objective = StepObjective(loss={"bce": BCE, "mse": MSE}[loss]())
        task = RewardTask(backbone, [objective], **options)
        ends: list[float] = []
        trainer = L.Trainer(
            accelerator="cpu",
            max_epochs=count,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[_ends(ends)],
        )
        trainer.fit(task, self._data())
        return [end - start for start, end in pairwise(ends)]

    def _data(self) -> Any:
        from prm.data.formats.hf_stepwise import HFStepwise
        from prm.data.module import RecordDataModule
        from prm.data.sources.source import Source

        source = Source(str(self.folder / "chains.jsonl"), HFStepwise())
        return RecordDataModule(
            [source], batch_size=BATCH, max_tokens=MAX_TOKENS, validation_share=0.0
        )


def _ends(ends: list[float]) -> Any:
    """Return a callback that notes the start of training and the end of each epoch."""
    from lightning.pytorch.callbacks import LambdaCallback

    def note(*_: Any) -> None:
        ends.append(time.perf_counter())

    return LambdaCallback(on_train_start=note, on_train_epoch_end=note)


def table(estimates: dict[str, Estimate], num_chains: int, num_tokens: int, dtype: str) -> str:
    """Return the Markdown table."""
    lines = [
        f"{num_chains} chains, {num_tokens} tokens, {dtype}: median seconds with 95 % interval.",
        "",
        "| what | seconds | times faster than a frozen epoch with full passes |",
        "|---|---|---|",
    ]
    lines += [
        f"| {name} | {found} | {estimates[FROZEN].value / found.value:.3g} |"
        for name, found in estimates.items()
    ]
    return "\n".join(lines) + "\n"


def measure(
    chains: Sequence[LabeledSteps], scale: Scale, dtype: str, repetitions: int
) -> list[dict[str, float]]:
    """Return the seconds of every row in each round; one round before them warms up."""
    from prm.models.checkpoint import quiet

    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)
    rounds = []
    with tempfile.TemporaryDirectory() as temporary, quiet():
        folder = Path(temporary)
        write_models(folder, scale)
        write_rows(folder / "chains.jsonl", chains)
        bench = Bench(folder, dtype)
        for index in range(repetitions + 1):
            rounds.append(bench.repetition())
            found = ", ".join(f"{name} {value:.3g} s" for name, value in rounds[-1].items())
            print(f"round {index}: {found}", file=sys.stderr)
    return rounds[1:]


def main(argv: Sequence[str] | None = None) -> int:
    """Time everything in turns, and write what was found."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", choices=SCALES, default="S")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--num_chains", type=int, default=16)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    chains = random_chains(0, options.num_chains, SCALES[options.scale])
    rounds = measure(chains, SCALES[options.scale], options.dtype, options.repetitions)
    estimates = {name: estimate([one[name] for one in rounds]) for name in ROWS}
    text = table(estimates, len(chains), sum(one.length for one in chains), options.dtype)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / "frozen_cache.md").write_text(text, "utf-8")
    result = {"options": vars(options), "seconds": rounds}
    (OUTPUT / "frozen_cache.json").write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
