"""First half of `make demo`: a process model of arithmetic chains."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from prm.cli.main import run
from prm.data.formats.hf_stepwise import HFStepwise
from prm.data.sources.source import Source
from prm.records import Chain
from prm.report.terminal import draw_chain
from prm.scores.chains import ChainScore
from prm.scoring.scorer import RewardScorer

CONFIG = "configs/process/arithmetic.yaml"
CONTROL = "configs/overlay/shuffled-labels.yaml"
RUN = Path("runs/arithmetic")
CONTROL_RUN = Path("runs/arithmetic-shuffled")
DATA = Path("runs/arithmetic-data")
TRAIN_CHAINS, TEST_CHAINS = 62_000, 2_000


def make_data() -> None:
    """Generate training and test chains."""
    for split, count in (("train", TRAIN_CHAINS), ("test", TEST_CHAINS)):
        run(
            *("data", "make", "arithmetic", "--output", str(DATA / f"{split}.jsonl")),
            *("--num_chains", str(count), "--split", split, "--overwrite", "true"),
        )


def train() -> None:
    """Train from scratch."""
    run("fit", "--config", CONFIG, "--overwrite", "true")


def test() -> None:
    """Measure on the test chains."""
    run(*_test_words(RUN))


def control() -> None:
    """Train with shuffled labels and measure that."""
    run("fit", "--config", CONFIG, "--config", CONTROL, "--overwrite", "true")
    run(*_test_words(CONTROL_RUN))


def _test_words(folder: Path) -> Sequence[str]:
    checkpoint = folder / "checkpoints" / "last.ckpt"
    config = str(folder / "config.yaml")
    return ("test", "--config", config, "--ckpt_path", str(checkpoint), "--verbose", "false")


def show(console: Console) -> None:
    """Draw the first test chain whose wrong step the model finds."""
    scorer = RewardScorer.from_pretrained(RUN / "model")
    chains = Source(str(DATA / "test.jsonl"), HFStepwise(), limit=100).load()
    draw_chain(console, *_first_found(chains, scorer.score(chains)))


def _first_found(chains: Sequence[Chain], scores: Sequence[ChainScore]) -> tuple[Chain, ChainScore]:
    for chain, score in zip(chains, scores, strict=True):
        if chain.first_error() == score.first_error() != -1:
            return chain, score
    return chains[0], scores[0]


def places() -> str:
    """Return where everything lies, and the figures."""
    report = json.loads((RUN / "test" / "report.json").read_text(encoding="utf-8"))
    control = json.loads((CONTROL_RUN / "test" / "report.json").read_text(encoding="utf-8"))
    lines = [
        f"model       {RUN}/model            (prm score --model {RUN}/model --help)",
        f"report      {RUN}/test/report.md   (plots and report.json beside it)",
        f"training    {RUN}/metrics.csv, {RUN}/checkpoints, {RUN}/samples",
        f"data        {DATA}/train.jsonl, {DATA}/test.jsonl",
        f"control     {CONTROL_RUN}/test/report.md",
        "",
        f"step AUROC {_metric(report, 'step_auroc')}",
        f"ProcessBench-style F1 {_metric(report, 'processbench_f1')}",
        f"shuffled labels: step AUROC {_metric(control, 'step_auroc')}",
    ]
    return "\n".join(lines)


def _metric(report: dict[str, object], name: str) -> str:
    value = report["overall"]["model"]["metrics"][name]  # type: ignore[index]
    return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
