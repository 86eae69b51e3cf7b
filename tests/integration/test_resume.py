"""A run that was killed and resumed is the run that was not: weights, optimizer, order, metrics."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from prm.cli.main import main
from prm.training.callbacks import LastCheckpoint
from tests.runs import (
    assert_same_weights,
    checkpoint,
    fit,
    kill_when_held,
    metrics,
    metrics_by_step,
    prm,
    start,
    write_arithmetic,
    write_config,
    write_data,
)

CONSTANT = {"schedule": {"decay": "constant", "warmup": 0}}


def resume(folder: Path, run_dir: str, **changes: object) -> Path:
    config = write_config(folder, "resumed.yaml", run_dir=run_dir, **changes)
    prm("fit", "--config", config, "--ckpt_path", f"{run_dir}/checkpoints/last.ckpt")
    return folder / run_dir


def assert_same_run(whole: Path, resumed: Path, step: int) -> None:
    """Compare everything; the row of the step that was being saved may not have been written."""
    assert_same_weights(whole, resumed, rtol=0, atol=0)
    first, second = checkpoint(whole), checkpoint(resumed)
    torch.testing.assert_close(
        first["optimizer_states"], second["optimizer_states"], rtol=0, atol=0
    )
    assert first["lr_schedulers"] == second["lr_schedulers"]
    torch.testing.assert_close(
        checkpoint(whole, "best")["state_dict"], checkpoint(resumed, "best")["state_dict"]
    )
    for column in ("train/loss", "train/lr", "train/tokens", "train/grad_norm", "val/step_auroc"):
        expected, actual = metrics_by_step(whole, column), metrics_by_step(resumed, column)
        assert {step: 0.0} | expected == {step: expected.get(step, 0.0)} | actual, column


@pytest.mark.parametrize(
    ("step", "trainer"),
    [
        (2, {}),
        (3, {}),
        (5, {"val_check_interval": 2}),
        *(pytest.param(step, {}, marks=pytest.mark.slow) for step in (1, 4, 5, 6, 7, 8, 9)),
    ],
)
def test_resuming_at_any_step_gives_the_same_run(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, step: int, trainer: dict[str, Any]
) -> None:
    """Three batches an epoch: inside an epoch, at its end, at a validation inside an epoch."""
    write_data(run_dir, 21)
    changes = {"checkpoint_every": 1, "trainer": {"max_epochs": 3, **trainer}}
    save = LastCheckpoint._save

    def save_and_copy(self: LastCheckpoint, trainer: L.Trainer) -> None:
        save(self, trainer)
        if trainer.global_step == step and not Path("killed").exists():
            shutil.copytree("run", "killed")

    with monkeypatch.context() as patched:
        patched.setattr(LastCheckpoint, "_save", save_and_copy)
        whole = fit(run_dir, **changes)
    resumed = resume(run_dir, "killed", **changes)
    assert_same_run(whole, resumed, step - 1)


def test_a_killed_process_resumes_to_the_same_run(run_dir: Path) -> None:
    """Killed inside the writing of a checkpoint: the one before is whole."""
    write_data(run_dir, 21)
    changes = {"checkpoint_every": 1, "trainer": {"max_epochs": 2}, "data": {"batch_size": 3}}
    config = write_config(run_dir, run_dir="killed", **changes)
    process = start(run_dir, ["fit", "--config", config], HOLD="last.ckpt:5")
    kill_when_held(run_dir, [process])
    step = checkpoint(run_dir / "killed")["global_step"]
    assert step == 4
    assert not (run_dir / "killed/model").exists()
    whole = fit(run_dir, **changes)
    resumed = resume(run_dir, "killed", **changes)
    assert_same_run(whole, resumed, step - 1)
    assert (resumed / "model/prm_config.json").is_file()


def test_a_finished_run_continues_to_more_epochs(run_dir: Path) -> None:
    write_data(run_dir, 21)
    whole = fit(run_dir, trainer={"max_epochs": 2}, model=CONSTANT)
    fit(run_dir, "longer", model=CONSTANT)
    resumed = resume(run_dir, "longer", trainer={"max_epochs": 2}, model=CONSTANT)
    assert_same_run(whole, resumed, -1)


@pytest.mark.parametrize("change", ["chains", "labels", "batch_size", "seed"])
def test_changed_training_data_are_refused(
    run_dir: Path, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    write_data(run_dir, 21)
    fit(run_dir)
    data: dict[str, int] = {}
    if change == "chains":
        write_arithmetic(run_dir / "train.jsonl", 21, seed=5)
    elif change == "labels":
        text = (run_dir / "train.jsonl").read_text(encoding="utf-8")
        (run_dir / "train.jsonl").write_text(text.replace("0.0", "0.5"), encoding="utf-8")
    else:
        data = {change: 7}
    config = write_config(run_dir, data=data, trainer={"max_epochs": 2})
    assert main(["fit", "--config", str(config), "--ckpt_path", "run/checkpoints/last.ckpt"]) == 2
    assert "the training data changed since the checkpoint" in capsys.readouterr().err


def test_a_token_budget_may_change(run_dir: Path) -> None:
    write_data(run_dir, 21)
    changes = {"model": CONSTANT, "trainer": {"max_epochs": 2}}
    whole = fit(run_dir, **changes)
    fit(run_dir, "other", model=CONSTANT)
    resumed = resume(run_dir, "other", data={"max_tokens": 64}, **changes)
    assert_same_weights(whole, resumed)


def test_packing_ahead_keeps_the_order(run_dir: Path) -> None:
    write_data(run_dir, 21)
    here = fit(run_dir, "here")
    assert_same_weights(here, fit(run_dir, "ahead", data={"num_workers": 1}))


def test_checkpoints_hold_no_code(run_dir: Path) -> None:
    """`checkpoint` reads with `weights_only`; the schedule's function is not in it."""
    write_data(run_dir, 9)
    loaded = checkpoint(fit(run_dir))
    assert loaded["lr_schedulers"][0]["lr_lambdas"] == [None] * len(
        loaded["optimizer_states"][0]["param_groups"]
    )
    assert set(loaded["prm"]) == {"spec", "tokenizer", "metrics"}


def test_metrics_of_an_overwritten_run_are_not_kept(run_dir: Path) -> None:
    write_data(run_dir, 21)
    fit(run_dir, trainer={"max_epochs": 2})
    prm("fit", "--config", run_dir / "run.yaml", "--overwrite", "true", "--trainer.max_epochs", 1)
    assert metrics(run_dir / "run", "step") == [0, 1, 2, 2]
