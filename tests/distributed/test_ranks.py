"""Two ranks give what one rank gives: the update, the metrics, and each prediction once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from prm.data.formats.hf_stepwise import HFStepwise
from prm.data.readers import ChainSource
from prm.scoring.scorer import RewardScorer
from tests.runs import (
    OVERLAYS,
    assert_same_weights,
    checkpoint,
    fit,
    metrics,
    on_two_ranks,
    prm,
    read_jsonl,
    write_config,
    write_data,
)

LANGUAGE_MODEL = {"language_model": {"loss_weight": 0.3}}
CONSTANT = {"schedule": {"decay": "constant", "warmup": 0}}
VALIDATION = ("step_auroc", "error_ap", "ece", "brier", "processbench_f1")


def fit_on_two_ranks(folder: Path, overlay: str = "ddp", **changes: Any) -> Path:
    config = write_config(folder, "two.yaml", run_dir="two", **changes)
    on_two_ranks(folder, "fit", "--config", config, "--config", OVERLAYS / f"{overlay}.yaml")
    return folder / "two"


def assert_same_training(one: Path, two: Path) -> None:
    assert_same_weights(one, two)
    for column in ("train/loss", "train/grad_norm", "train/tokens", "train/lr"):
        assert metrics(one, column) == pytest.approx(metrics(two, column), rel=1e-5), column


def assert_same_validation(one: Path, two: Path) -> None:
    for name in VALIDATION:
        expected = metrics(one, f"val/{name}")
        assert expected == pytest.approx(metrics(two, f"val/{name}"), abs=1e-5), name


def assert_same_exports(one: Path, two: Path) -> None:
    chains = list(ChainSource("test.jsonl", HFStepwise()))
    first, second = (
        RewardScorer.from_pretrained(run / "model").score(chains) for run in (one, two)
    )
    for ours, theirs in zip(first, second, strict=True):
        assert ours.probabilities == pytest.approx(theirs.probabilities, abs=1e-5)


@pytest.mark.parametrize(
    ("overlay", "num_train", "model", "max_tokens"),
    [
        pytest.param("ddp", 21, LANGUAGE_MODEL, 96, id="ddp-uneven"),
        pytest.param("ddp", 17, LANGUAGE_MODEL, 512, id="ddp-filler"),
        pytest.param("ddp", 21, {"head": "mlp"}, 512, id="ddp-mlp", marks=pytest.mark.slow),
        pytest.param("ddp", 21, {"freeze_backbone": True}, 96, id="frozen", marks=pytest.mark.slow),
        pytest.param(
            "ddp", 21, {"gradient_checkpointing": True}, 96, id="recompute", marks=pytest.mark.slow
        ),
        pytest.param("fsdp2", 17, LANGUAGE_MODEL, 96, id="fsdp2-filler"),
        pytest.param(
            "fsdp2", 21, {"gradient_checkpointing": True}, 96, id="sharded", marks=pytest.mark.slow
        ),
    ],
)
def test_two_ranks_train_the_same_model(
    run_dir: Path, overlay: str, num_train: int, model: dict[str, Any], max_tokens: int
) -> None:
    """Batches of 8: with 17 chains, one rank of the last batch has nothing but a filler."""
    write_data(run_dir, num_train)
    changes = {"model": model, "data": {"max_tokens": max_tokens}}
    one = fit(run_dir, "one", **changes)
    two = fit_on_two_ranks(run_dir, overlay, **changes)
    assert_same_training(one, two)
    assert_same_validation(one, two)
    assert_same_exports(one, two)


def test_test_on_two_ranks_holds_each_record_once(run_dir: Path) -> None:
    write_data(run_dir)
    fit(run_dir)
    saved = ("--config", "run/config.yaml", "--ckpt_path", "run/checkpoints/best.ckpt")
    small = ("--data.init_args.max_tokens", "64")
    for command in ("test", "predict"):
        prm(command, *saved, "--results", "one")
        overlay = ("--config", str(OVERLAYS / "ddp.yaml"))
        on_two_ranks(run_dir, command, *saved, *overlay, *small, "--results", "two")
        one, two = (
            read_jsonl(run_dir / "run" / name / "predictions.jsonl") for name in ("one", "two")
        )
        assert [row["id"] for row in one] == [row["id"] for row in two]
        assert len({row["id"] for row in two}) == 7
        for first, second in zip(one, two, strict=True):
            assert first["probabilities"] == pytest.approx(second["probabilities"], abs=1e-5)


@pytest.mark.parametrize("overlay", ["ddp", pytest.param("fsdp2", marks=pytest.mark.slow)])
def test_a_run_on_two_ranks_resumes_on_one(run_dir: Path, overlay: str) -> None:
    write_data(run_dir, 21)
    whole = fit(run_dir, "whole", model=CONSTANT, trainer={"max_epochs": 2})
    fit_on_two_ranks(run_dir, overlay, model=CONSTANT)
    config = write_config(run_dir, run_dir="two", model=CONSTANT, trainer={"max_epochs": 2})
    prm("fit", "--config", config, "--ckpt_path", "two/checkpoints/last.ckpt")
    assert_same_training(whole, run_dir / "two")
    first, second = (checkpoint(run)["optimizer_states"] for run in (whole, run_dir / "two"))
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_a_run_on_two_sharded_ranks_resumes(run_dir: Path) -> None:
    write_data(run_dir, 21)
    whole = fit(run_dir, "whole", model=CONSTANT, trainer={"max_epochs": 2})
    fit_on_two_ranks(run_dir, "fsdp2", model=CONSTANT)
    overlay = ("--config", OVERLAYS / "fsdp2.yaml", "--trainer.max_epochs", "2")
    last = ("--ckpt_path", "two/checkpoints/last.ckpt")
    on_two_ranks(run_dir, "fit", "--config", "two.yaml", *overlay, *last)
    assert_same_training(whole, run_dir / "two")


@pytest.mark.slow
def test_one_command_starts_both_ranks(run_dir: Path) -> None:
    """As a user runs the overlay: the first process starts the second."""
    write_data(run_dir, 21)
    one = fit(run_dir, "one")
    config = write_config(run_dir, "two.yaml", run_dir="two")
    command = [sys.executable, "-m", "prm.cli.main", "fit", "--config", str(config)]
    subprocess.run([*command, "--config", str(OVERLAYS / "ddp.yaml")], check=True, timeout=110)
    assert_same_training(one, run_dir / "two")
