"""An outcome run that was killed and resumed is the run that was not, whatever else it learns."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from prm.cli.main import main
from prm.training.callbacks import LastCheckpoint
from tests.outcome_runs import (
    HELPFULNESS,
    LENGTH,
    SAFETY,
    fit_outcomes,
    sources,
    write_outcome_config,
    write_outcomes,
)
from tests.runs import assert_same_weights, checkpoint, metrics_by_step, prm, weights

LEARNED = {
    "responses": [
        HELPFULNESS | {"preference": {"class_path": "Davidson"}, "normalizer": "zscore"},
        SAFETY | {"normalizer": "quantile"},
        LENGTH | {"rating": {"class_path": "CumulativeLink", "init_args": {"num_levels": 3}}},
    ],
    "learn_weights": True,
}


def weighted(**weights: float) -> list[dict[str, Any]]:
    """Return the training sources with sampling weights."""
    return [
        {**source, "weight": weights.get(name)}
        for name, source in zip(("pairs", "verdicts", "lengths"), sources("train"), strict=True)
    ]


MIXTURE = {
    "train": weighted(pairs=3.0),
    "sampling": {"temperature": 2.0, "epoch_size": 40},
    "batch_size": 10,
}

COLUMNS = ("train/loss", "train/grad_norm", "train/tokens", "val/ranking", "val/reward/pair_nll")


CHANGES: dict[str, Any] = {
    "checkpoint_every": 1,
    "trainer": {"max_epochs": 2},
    "model": LEARNED,
    "data": MIXTURE,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, beside copies of it as it was after each step."""
    folder = tmp_path_factory.mktemp("resume")
    save = LastCheckpoint._save

    def save_and_copy(self: LastCheckpoint, trainer: L.Trainer) -> None:
        save(self, trainer)
        if not Path(f"killed-{trainer.global_step}").exists():
            shutil.copytree("run", f"killed-{trainer.global_step}")

    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setattr(LastCheckpoint, "_save", save_and_copy)
        write_outcomes(folder)
        return fit_outcomes(folder, **CHANGES)


@pytest.mark.parametrize("step", [3, 4, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 6))])
def test_resuming_gives_the_same_run(
    whole: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Four batches an epoch: inside an epoch, at its end, and inside the second one."""
    monkeypatch.chdir(whole.parent)
    run = f"killed-{step}"
    config = write_outcome_config(whole.parent, "resumed.yaml", run_dir=run, **CHANGES)
    prm("fit", "--config", config, "--ckpt_path", f"{run}/checkpoints/last.ckpt")
    assert_same_run(whole, whole.parent / run, step - 1)


def assert_same_run(whole: Path, resumed: Path, step: int) -> None:
    """Compare everything; the row of the step that was being saved may not have been written."""
    assert_same_weights(whole, resumed, rtol=0, atol=0)
    first, second = checkpoint(whole), checkpoint(resumed)
    torch.testing.assert_close(
        first["optimizer_states"], second["optimizer_states"], rtol=0, atol=0
    )
    for column in COLUMNS:
        expected, actual = metrics_by_step(whole, column), metrics_by_step(resumed, column)
        assert {step: 0.0} | expected == {step: expected.get(step, 0.0)} | actual, column
    for name in ("model.safetensors", "prm_config.json"):
        assert (whole / "model" / name).read_bytes() == (resumed / "model" / name).read_bytes()


def test_learned_losses_are_in_the_checkpoint(whole: Path) -> None:
    learned = {name: value for name, value in weights(whole).items() if name.startswith("loss.")}
    ends = ("log_tie", "raw_thresholds", "log_variances")
    assert {name.rpartition(".")[2] for name in learned} == set(ends)
    assert all(value.any() for value in learned.values())


@pytest.mark.parametrize(
    "data",
    [
        MIXTURE | {"train": weighted(pairs=9.0)},
        pytest.param(
            MIXTURE | {"sampling": {"temperature": 1.0, "epoch_size": 40}}, marks=pytest.mark.slow
        ),
        pytest.param(
            MIXTURE | {"sampling": {"temperature": 2.0, "epoch_size": 80}}, marks=pytest.mark.slow
        ),
    ],
    ids=["weight", "temperature", "size"],
)
def test_another_mixture_is_refused(
    run_dir: Path, capsys: pytest.CaptureFixture[str], data: dict[str, Any]
) -> None:
    write_outcomes(run_dir)
    fit_outcomes(run_dir, data=MIXTURE)
    config = write_outcome_config(run_dir, data=data, trainer={"max_epochs": 2})
    assert main(["fit", "--config", str(config), "--ckpt_path", "run/checkpoints/last.ckpt"]) == 2
    assert "the training data changed since the checkpoint" in capsys.readouterr().err
