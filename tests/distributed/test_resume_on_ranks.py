"""A run that moves between numbers of ranks and strategies is the run of one rank."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.runs import (
    OVERLAYS,
    assert_same_weights,
    checkpoint,
    fit,
    kill_when_held,
    metrics_by_step,
    on_ranks,
    prm,
    start_ranks,
    write_config,
    write_data,
)

CONSTANT = {"schedule": {"decay": "constant", "warmup": 0}}

Leg = tuple[str, int]
"""Overlay and number of ranks of an epoch; the overlay of one plain process is empty."""

ONE: Leg = ("", 1)


def run_leg(folder: Path, leg: Leg, epoch: int) -> None:
    """Train the epoch, from where the run stands."""
    overlay, num_ranks = leg
    trainer = {"max_epochs": epoch + 1}
    config = write_config(folder, "leg.yaml", run_dir="moved", model=CONSTANT, trainer=trainer)
    words = ["fit", "--config", config]
    if epoch:
        words += ["--ckpt_path", "moved/checkpoints/last.ckpt"]
    if not overlay:
        prm(*words)
    else:
        words += ["--config", OVERLAYS / f"{overlay}.yaml"]
        on_ranks(folder, *words, num_ranks=num_ranks)


def assert_same_run(whole: Path, moved: Path) -> None:
    """Compare loss curve, weights and optimizer states; float sums differ in their order."""
    assert_same_weights(whole, moved)
    for column in ("train/loss", "train/grad_norm", "train/tokens", "train/lr"):
        expected, actual = metrics_by_step(whole, column), metrics_by_step(moved, column)
        assert actual == pytest.approx(expected, rel=1e-5), column
    first, second = (checkpoint(run)["optimizer_states"] for run in (whole, moved))
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-7)
    assert checkpoint(whole)["lr_schedulers"] == checkpoint(moved)["lr_schedulers"]


@pytest.mark.parametrize(
    "legs",
    [
        [("ddp", 2), ("fsdp2-sharded", 3), ONE],
        [ONE, ("fsdp2", 2), ("ddp", 2)],
        *(
            pytest.param(legs, marks=pytest.mark.slow)
            for legs in (
                [ONE, ("ddp", 2), ("fsdp2", 3)],
                [("fsdp2", 2), ("fsdp2", 3), ONE],
                [("fsdp2", 3), ("fsdp2-sharded", 2), ("fsdp2", 1)],
                [("fsdp2-sharded", 1), ("fsdp2-sharded", 2), ("fsdp2-sharded", 3)],
                [("fsdp2-sharded", 3), ("fsdp2-sharded", 1), ("ddp", 2)],
                [("fsdp2-sharded", 2), ("ddp", 3), ("fsdp2-sharded", 2)],
            )
        ),
    ],
    ids=lambda legs: "-".join(f"{overlay or 'plain'}{num_ranks}" for overlay, num_ranks in legs),
)
def test_a_run_moves_between_ranks(run_dir: Path, legs: list[Leg]) -> None:
    write_data(run_dir, 21)
    whole = fit(run_dir, "whole", model=CONSTANT, trainer={"max_epochs": len(legs)})
    for epoch, leg in enumerate(legs):
        run_leg(run_dir, leg, epoch)
    assert_same_run(whole, run_dir / "moved")


def test_a_kill_leaves_a_whole_sharded_checkpoint(run_dir: Path) -> None:
    """Killed when all shards are written beside those of the checkpoint before."""
    write_data(run_dir, 21)
    changes = {"checkpoint_every": 1, "data": {"batch_size": 3}, "model": CONSTANT}
    whole = fit(run_dir, "whole", **changes)
    config = write_config(run_dir, "killed.yaml", run_dir="killed", **changes)
    words = ["fit", "--config", config, "--config", OVERLAYS / "fsdp2-sharded.yaml"]
    kill_when_held(run_dir, start_ranks(run_dir, words, HOLD="meta.pt:4"))
    assert len(list((run_dir / "killed/checkpoints/last.ckpt").glob("tensors-*"))) == 2
    assert checkpoint(run_dir / "killed")["global_step"] == 3
    resumed = write_config(run_dir, "resumed.yaml", run_dir="killed", **changes)
    prm("fit", "--config", resumed, "--ckpt_path", "killed/checkpoints/last.ckpt")
    assert_same_weights(whole, run_dir / "killed")
