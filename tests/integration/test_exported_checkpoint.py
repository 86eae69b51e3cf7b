"""What `prm fit` exports is what `--monitor` chose, whatever other checkpoints a user keeps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file

from prm.cli.fit import RunCLI
from prm.cli.main import main
from tests.runs import checkpoint, fit, metrics, write_config, write_data

MONITOR = "val/step_auroc"


def mine(**options: Any) -> dict[str, Any]:
    return {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": options}


@pytest.fixture
def data(run_dir: Path) -> Path:
    write_data(run_dir)
    return run_dir


def exported_from(run: Path) -> str:
    found = re.search(r"\| weights \| (.+?) \|", (run / "model" / "README.md").read_text())
    assert found is not None
    return found[1]


def assert_best_is_exported(run: Path) -> None:
    """Weights and figures of the folder are those of the step with the highest metric."""
    values = metrics(run, MONITOR)
    assert len(set(values)) > 1
    best, place = checkpoint(run, "best"), values.index(max(values))
    assert best["global_step"] == 3 * (1 + place)
    assert exported_from(run) == "best.ckpt"
    layer = "layers.0.mlp.up_proj.weight"
    stored = {name: value for name, value in best["state_dict"].items() if name.endswith(layer)}
    state = load_file(run / "model" / "model.safetensors")
    found = {name: value for name, value in state.items() if name.endswith(layer)}
    assert len(stored) == len(found) == 1
    assert torch.equal(*stored.values(), *found.values())
    front = yaml.safe_load((run / "model" / "README.md").read_text().split("---\n")[1])
    (result,) = front["model-index"][0]["results"]
    shown = {metric["name"]: metric["value"] for metric in result["metrics"]}
    assert shown["step_auroc"] == pytest.approx(max(values), abs=1e-6)
    ece = metrics(run, "val/ece")[place]
    assert shown["ece"] == pytest.approx(ece, abs=1e-6)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("mode", ["max", "min"])
def test_a_checkpoint_of_the_users_own_is_written_and_not_exported(
    data: Path, monkeypatch: pytest.MonkeyPatch, mode: str, first: bool
) -> None:
    """It keeps the worst or the best of another metric, before or after the run's own."""
    options = {"dirpath": "mine", "filename": "mine", "monitor": MONITOR, "mode": mode}
    if mode == "max":
        options |= {"monitor": "train/loss"}
    ours = RunCLI._callbacks
    if not first:
        monkeypatch.setattr(
            RunCLI, "_callbacks", lambda *args: [*ours(*args), ModelCheckpoint(**options)]
        )
    callbacks = [mine(**options)] if first else []
    run = fit(data, trainer={"max_epochs": 4, "callbacks": callbacks}, model={"lr": 0.03})
    assert_best_is_exported(run)
    steps = torch.load(data / "mine" / "mine.ckpt", weights_only=True)["global_step"]
    if mode == "min":
        values = metrics(run, MONITOR)
        assert steps == 3 * (1 + values.index(min(values)))
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}


def test_several_of_them_beside_the_run_s_own(data: Path) -> None:
    callbacks = [
        mine(monitor="train/loss", mode="max", save_top_k=-1),
        mine(dirpath="mine", save_last=True),
    ]
    run = fit(data, trainer={"max_epochs": 3, "callbacks": callbacks}, model={"lr": 0.03})
    assert_best_is_exported(run)
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == sorted(
        ["best.ckpt", "last.ckpt", *(f"epoch={n}-step={3 * n + 3}.ckpt" for n in range(3))]
    )
    assert (data / "mine" / "last.ckpt").exists()


@pytest.mark.parametrize("options", [{"filename": "best"}, {"save_last": True}])
def test_one_that_would_write_over_the_run_s_own_is_refused(
    data: Path, capsys: pytest.CaptureFixture[str], options: dict[str, Any]
) -> None:
    config = write_config(data, trainer={"callbacks": [mine(monitor=MONITOR, **options)]})
    assert main(["fit", "--config", str(config)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "checkpoints: a ModelCheckpoint would write over" in error
    assert not (data / "run").exists()


def test_without_validation_the_last_step_is_exported(data: Path) -> None:
    callbacks = [mine(dirpath="mine", monitor="train/loss", mode="max")]
    nothing = {"validation": None, "validation_share": 0.0}
    run = fit(data, trainer={"callbacks": callbacks}, data=nothing)
    assert exported_from(run) == "last step"
