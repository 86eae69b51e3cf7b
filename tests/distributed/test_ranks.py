"""Two ranks give what one rank gives: the update, the metrics, and each prediction once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from prm.data.formats.hf_stepwise import HFStepwise
from prm.data.sources.source import Source
from prm.scoring.scorer import RewardScorer
from tests.runs import (
    OVERLAYS,
    assert_same_weights,
    fit,
    metrics,
    on_ranks,
    prm,
    read_jsonl,
    weights,
    write_config,
    write_data,
    write_pretrained,
)

LANGUAGE_MODEL = {"language_model": {"loss_weight": 0.3}}
ALONE = ("--trainer.strategy", "auto", "--trainer.devices", "1")
VALIDATION = ("step_auroc", "error_ap", "ece", "brier", "processbench_f1")


def fit_on_ranks(folder: Path, overlay: str = "ddp", **changes: Any) -> Path:
    config = write_config(folder, "two.yaml", run_dir="two", **changes)
    on_ranks(folder, "fit", "--config", config, "--config", OVERLAYS / f"{overlay}.yaml")
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
    chains = list(Source("test.jsonl", HFStepwise()))
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
    two = fit_on_ranks(run_dir, overlay, **changes)
    assert_same_training(one, two)
    assert_same_validation(one, two)
    assert_same_exports(one, two)


@pytest.mark.parametrize("overlay", ["ddp", pytest.param("fsdp2-sharded", marks=pytest.mark.slow)])
def test_test_on_two_ranks_holds_each_record_once(run_dir: Path, overlay: str) -> None:
    write_data(run_dir)
    fit(run_dir)
    saved = ("--config", "run/config.yaml", "--ckpt_path", "run/checkpoints/best.ckpt")
    small = ("--data.init_args.max_tokens", "64")
    for command in ("test", "predict"):
        prm(command, *saved, "--results", "one")
        ranks = ("--config", str(OVERLAYS / f"{overlay}.yaml"))
        on_ranks(run_dir, command, *saved, *ranks, *small, "--results", "two")
        one, two = (
            read_jsonl(run_dir / "run" / name / "predictions.jsonl") for name in ("one", "two")
        )
        assert [row["id"] for row in one] == [row["id"] for row in two]
        assert len({row["id"] for row in two}) == 7
        for first, second in zip(one, two, strict=True):
            assert first["probabilities"] == pytest.approx(second["probabilities"], abs=1e-5)


@pytest.mark.slow
def test_one_command_starts_both_ranks(run_dir: Path) -> None:
    """As a user runs the overlay: the first process starts the second."""
    write_data(run_dir, 21)
    one = fit(run_dir, "one")
    config = write_config(run_dir, "two.yaml", run_dir="two")
    command = [sys.executable, "-m", "prm.cli.main", "fit", "--config", str(config)]
    subprocess.run([*command, "--config", str(OVERLAYS / "ddp.yaml")], check=True, timeout=110)
    assert_same_training(one, run_dir / "two")


def pretrained(folder: Path, **options: Any) -> dict[str, Any]:
    """Return the options of a backbone that only rank 0 reads."""
    write_pretrained(folder / "tiny")
    backbone = {"class_path": "prm.models.sources.Pretrained", "init_args": {"path": "tiny"}}
    return {"backbone": backbone, **options}


@pytest.mark.parametrize(
    "options",
    [LANGUAGE_MODEL, pytest.param({"lora": {"rank": 2}}, marks=pytest.mark.slow)],
    ids=["language-model", "lora"],
)
def test_shards_of_a_pretrained_model_come_from_rank_0(
    run_dir: Path, options: dict[str, Any]
) -> None:
    """The other ranks hold its shape alone; buffers that no checkpoint holds come along."""
    if "lora" in options:
        pytest.importorskip("peft")
    write_data(run_dir, 9)
    changes = {"model": pretrained(run_dir, **options)}
    one = fit(run_dir, "one", **changes)
    two = fit_on_ranks(run_dir, "fsdp2-sharded", **changes)
    if "lora" not in options:  # whose second matrix starts at random
        assert_same_training(one, two)
        assert_same_exports(one, two)
    prm("test", "--config", "two/config.yaml", "--ckpt_path", "two/checkpoints/best.ckpt", *ALONE)


@pytest.mark.slow
def test_bfloat16_shards_train_nearly_the_same_model(run_dir: Path) -> None:
    """Only weights that are gathered are bfloat16: those in the checkpoint stay float32."""
    write_data(run_dir, 21)
    one = fit(run_dir, "one")
    two = fit_on_ranks(run_dir, "fsdp2-bf16")
    for ours, theirs in zip(metrics(one, "train/loss"), metrics(two, "train/loss"), strict=True):
        assert ours == pytest.approx(theirs, abs=0.05)
    assert {value.dtype for value in weights(two).values()} == {torch.float32}
