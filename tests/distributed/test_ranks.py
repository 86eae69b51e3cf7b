"""Two ranks give what one rank gives: the update, the metrics, and each prediction once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs import (
    OVERLAYS,
    assert_same_weights,
    checkpoint,
    fit,
    metrics,
    on_two_ranks,
    prm,
    read_jsonl,
    write_arithmetic,
    write_config,
    write_data,
)

LANGUAGE_MODEL = {"language_model": {"class_path": "LanguageModelLoss"}}

def fit_on_two_ranks(folder: Path, overlay: str = "ddp", run_dir: str = "two", **changes) -> Path:
    config = write_config(folder, f"{run_dir}.yaml", run_dir=run_dir, **changes)
    x = ["--trainer.strategy.init_args.save_distributed_checkpoint=false"] if overlay == "fsdp2" else []
    on_two_ranks(folder, "fit", "--config", config, "--config", OVERLAYS / f"{overlay}.yaml", *x)
    return folder / run_dir


@pytest.mark.parametrize("overlay", ["ddp", "fsdp2"])
def test_x(run_dir, overlay):
    write_data(run_dir, 21)
    ch = {"model": {"language_model": {"loss_weight": 0.3}}, "data": {"max_tokens": 128}}
    one = fit(run_dir, **ch)
    two = fit_on_two_ranks(run_dir, overlay, **ch)
    print(Path("rank0.log").read_text())
    for a in (one, two): print((a/"metrics.csv").read_text())
    assert_same_weights(one, two)
    assert 0
