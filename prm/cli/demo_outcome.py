"""Second half of `make demo`: an outcome model of generated replies, with three heads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from prm.aggregation.objectives import WeightedSum
from prm.arrays import Indices
from prm.cli.main import run
from prm.scores.rewrite import write_scores
from prm.scores.stored import read_scores
from prm.scores.tables import ScoreTable

CONFIG = "configs/outcome/replies.yaml"
RUN = Path("runs/replies")
DATA = Path("runs/replies-data")
SCORES = RUN / "scores.jsonl"
ONE_PROMPT = RUN / "one-prompt.jsonl"
TRAIN_PROMPTS, TEST_PROMPTS = 24_000, 500
WEIGHTINGS = (
    {"helpfulness": 3, "safety": 0.5, "factuality": 0.5},
    {"helpfulness": 0.5, "safety": 3, "factuality": 0.5},
)
"""Helpfulness first, and safety first."""


def make_data() -> None:
    """Generate training replies, each prompt supervising one objective, and rated test replies."""
    train = ("--num_prompts", str(TRAIN_PROMPTS), "--split", "train")
    test = ("--num_prompts", str(TEST_PROMPTS), "--split", "test", "--supervision", "ratings")
    for name, options in (("train", train), ("test", test)):
        output = str(DATA / f"{name}.jsonl")
        run("data", "make", "replies", "--output", output, *options, "--overwrite", "true")


def train() -> None:
    """Train three heads on one backbone, from scratch."""
    run("fit", "--config", CONFIG, "--overwrite", "true")


def test() -> None:
    """Measure on the test replies, and store the scores of all of them."""
    checkpoint, config = RUN / "checkpoints" / "last.ckpt", RUN / "config.yaml"
    run("test", "--config", str(config), "--ckpt_path", str(checkpoint), "--verbose", "false")
    source, output = str(DATA / "test.jsonl"), str(SCORES)
    words = ("--input", source, "--output", output, "--keep_text", "true", "--overwrite", "true")
    run("score", "--model", str(RUN / "model"), *words)


def show() -> None:
    """Rank the replies to one prompt under two weightings; nothing is scored again."""
    table = read_scores(SCORES)
    rows = _flipped(table)
    write_scores(SCORES, ONE_PROMPT, rows, {}, table.spec)
    for weights in WEIGHTINGS:
        options = [f"--aggregation.weights.{name}={value}" for name, value in weights.items()]
        run("rank", str(ONE_PROMPT), *options)


def _flipped(table: ScoreTable) -> Indices:
    """Return the rows of the prompt whose best reply loses most when the weights change.

    Of the prompts that were drawn once, so that few replies are shown.
    """
    first, second = (
        table.with_aggregation(WeightedSum(weights)).rewards() for weights in WEIGHTINGS
    )
    prompts = [np.flatnonzero(table.groups == group) for group in np.unique(table.groups)]
    fewest = min(len(rows) for rows in prompts)
    prompts = [rows for rows in prompts if len(rows) == fewest]
    losses = [float(second[rows].max() - second[rows[first[rows].argmax()]]) for rows in prompts]
    return prompts[int(np.argmax(losses))]


def places() -> str:
    """Return where everything lies, and the figures."""
    report = json.loads((RUN / "test" / "report.json").read_text(encoding="utf-8"))
    lines = [
        f"model       {RUN}/model            (prm score --model {RUN}/model --help)",
        f"report      {RUN}/test/report.md   (plots and report.json beside it)",
        f"scores      {SCORES}     (prm reward | rank | filter | audit tradeoffs)",
        f"data        {DATA}/train.jsonl, {DATA}/test.jsonl",
        "",
        *(f"{name}: {_figures(report, name)}" for name in report["objectives"]),
    ]
    return "\n".join(lines)


def _figures(report: dict[str, Any], objective: str) -> str:
    """Return the figures of one objective: AUROC where its values are 0 and 1, and Spearman."""
    scores = report["objectives"][objective]["overall"]["scores"]["model"]
    shown = []
    for metric in ("auroc", "spearman"):
        value = scores[metric]
        if value["value"] is not None:
            interval = f"[{value['low']:.3f}, {value['high']:.3f}]"
            shown.append(f"{metric} {value['value']:.3f} {interval}")
    return ", ".join(shown)
