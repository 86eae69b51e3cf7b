"""A run whose records are in a store is the run whose records are in memory."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml

from prm.cli.main import main
from prm.data import module
from prm.data.store.disk import RecordStore
from prm.training.callbacks import LastCheckpoint
from tests.outcome_runs import (
    HELPFULNESS,
    LENGTH,
    SAFETY,
    joint_config,
    write_chains,
    write_outcome_config,
    write_outcomes,
)
from tests.runs import (
    OVERLAYS,
    assert_same_weights,
    checkpoint,
    metrics_by_step,
    on_ranks,
    prm,
    read_jsonl,
    write_config,
    write_data,
)

STORE = {"store": "store", "batch_size": 8}
LONGER = {"checkpoint_every": 1, "trainer": {"max_epochs": 2}}


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven units in a file, so that the little data of a test are in several."""
    monkeypatch.setattr(module, "RecordStore", partial(RecordStore, shard=7))


def process_config(folder: Path, run_dir: str, **data: Any) -> Path:
    write_data(folder, 24)
    held_out = {"validation": [], "validation_share": 0.3, "test": [], "test_share": 0.2}
    changes = LONGER | {"data": {"batch_size": 8} | held_out | data}
    return write_config(folder, f"{run_dir}.yaml", run_dir=run_dir, **changes)


def outcome_config(folder: Path, run_dir: str, **data: Any) -> Path:
    write_outcomes(folder)
    model = {
        "responses": [
            HELPFULNESS | {"normalizer": "zscore"},
            SAFETY | {"rating": {"class_path": "BinaryCrossEntropy"}},
            LENGTH | {"rating": {"class_path": "CumulativeLink", "init_args": {"num_levels": 3}}},
        ],
    }
    mixture = {"sampling": {"temperature": 2.0, "epoch_size": 40}, "batch_size": 10}
    changes = LONGER | {"model": model, "data": mixture | data}
    return write_outcome_config(folder, f"{run_dir}.yaml", run_dir=run_dir, **changes)


def joint(folder: Path, run_dir: str, **data: Any) -> Path:
    write_outcomes(folder)
    write_chains(folder)
    path = joint_config(folder, run_dir=run_dir, **LONGER, data=data)
    return path.rename(folder / f"{run_dir}.yaml")


def assert_same_run(first: Path, second: Path) -> None:
    assert_same_weights(first, second, rtol=0, atol=0)
    ours, theirs = checkpoint(first), checkpoint(second)
    torch.testing.assert_close(ours["optimizer_states"], theirs["optimizer_states"], rtol=0, atol=0)
    assert _data_state(ours) == _data_state(theirs)
    columns = (first / "metrics.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    for column in set(columns) - {"step", "epoch", "train/tokens_per_second", "train/data_wait"}:
        ours, theirs = metrics_by_step(first, column), metrics_by_step(second, column)
        assert ours == pytest.approx(theirs, rel=0, abs=0, nan_ok=True), column
    for path in sorted((first / "samples").iterdir()):
        assert path.read_bytes() == (second / "samples" / path.name).read_bytes()


def _data_state(loaded: dict[str, Any]) -> Any:
    return next(value for key, value in loaded.items() if "DataModule" in key)


@pytest.mark.parametrize("config", [process_config, outcome_config, joint])
def test_a_run_from_a_store_is_the_run_from_memory(run_dir: Path, config: Any) -> None:
    prm("fit", "--config", config(run_dir, "memory"))
    prm("fit", "--config", config(run_dir, "stored", store="store"))
    assert_same_run(run_dir / "memory", run_dir / "stored")


def test_a_run_from_a_store_resumes_inside_an_epoch(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = LastCheckpoint._save

    def save_and_copy(self: LastCheckpoint, trainer: L.Trainer) -> None:
        save(self, trainer)
        if trainer.global_step == 1:
            shutil.copytree("whole", "killed")

    monkeypatch.setattr(LastCheckpoint, "_save", save_and_copy)
    prm("fit", "--config", process_config(run_dir, "whole", store="store"))
    monkeypatch.setattr(LastCheckpoint, "_save", save)
    last = ("--ckpt_path", "killed/checkpoints/last.ckpt")
    prm("fit", "--config", process_config(run_dir, "killed", store="store"), *last)
    assert_same_weights(run_dir / "whole", run_dir / "killed", rtol=0, atol=0)


def test_a_run_from_memory_goes_on_from_a_store(run_dir: Path) -> None:
    prm("fit", "--config", process_config(run_dir, "run"))
    config = yaml.safe_load((run_dir / "run.yaml").read_text(encoding="utf-8"))
    config["trainer"]["max_epochs"] = 3
    config["data"]["init_args"]["store"] = "store"
    (run_dir / "run.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    prm("fit", "--config", "run.yaml", "--ckpt_path", "run/checkpoints/last.ckpt")


def test_workers_that_tokenize_and_pack_change_nothing(run_dir: Path) -> None:
    prm("fit", "--config", process_config(run_dir, "alone", store="one"))
    prm("fit", "--config", process_config(run_dir, "helped", store="two", num_workers=2))
    assert_same_run(run_dir / "alone", run_dir / "helped")


@pytest.mark.slow
def test_reports_from_a_store_are_those_from_memory(run_dir: Path) -> None:
    for name, data in (("memory", {}), ("stored", {"store": "store"})):
        prm("fit", "--config", process_config(run_dir, name, **data))
        best = ("--ckpt_path", f"{name}/checkpoints/best.ckpt", "--results", "test")
        prm("test", "--config", f"{name}/config.yaml", *best)
    found = [read_jsonl(run_dir / name / "test/predictions.jsonl") for name in ("memory", "stored")]
    assert found[0] == found[1]


def test_the_shuffled_control_is_refused(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = process_config(run_dir, "run", store="store", shuffle_labels=True)
    assert main(["fit", "--config", str(config)]) == 2
    assert "shuffle_labels" in capsys.readouterr().err


@pytest.mark.slow
def test_two_ranks_share_a_store(run_dir: Path) -> None:
    for name, data in (("memory", {}), ("stored", {"store": "store"})):
        config = process_config(run_dir, name, **data)
        on_ranks(run_dir, "fit", "--config", config, "--config", OVERLAYS / "ddp.yaml")
    assert_same_run(run_dir / "memory", run_dir / "stored")
    assert len(list((run_dir / "store").glob("*/units.json"))) == 1
