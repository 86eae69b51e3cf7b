"""What would ruin a training run without a word stops it, before weights or a model are lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from prm.cli.main import main
from prm.errors import ModelError
from prm.locks import alone_in
from prm.training.checkpoints import snapshot
from prm.training.distributed import check_finite
from tests.runs import fit, kill_when_held, metrics, source, start, write_config, write_data

DIVERGING = {"lr": 1e9, "gradient_clip": None, "schedule": {"decay": "constant", "warmup": 0.0}}


def refused(capsys: pytest.CaptureFixture[str], config: Path) -> str:
    capsys.readouterr()
    assert main(["fit", "--config", str(config)]) == 2
    lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def test_a_run_that_diverges_exports_nothing(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data(run_dir)
    config = write_config(run_dir, model=DIVERGING, trainer={"max_epochs": 4}, checkpoint_every=1)
    assert "not finite" in refused(capsys, config)
    assert not (run_dir / "run" / "model").exists()
    for path in (run_dir / "run" / "checkpoints").glob("*.ckpt"):
        state = snapshot.read(path)["state_dict"]
        assert all(value.isfinite().all() for value in state.values() if value.is_floating_point())


def test_the_records_of_a_loss_that_is_not_finite_are_named(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"id": f"r-{n}", "prompt": f"{n}? " * 8, "response": "yes", "ratings": {"grade": n % 3}}
        for n in range(12)
    ]
    rows[7]["ratings"] = {"grade": 3e38}
    (run_dir / "rated.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data: dict[str, Any] = {"path": "rated.jsonl", "format": {"class_path": "Outcomes"}}
    loss = {"class_path": "MeanSquaredError"}
    config = write_config(
        run_dir,
        model={"steps": None, "responses": [{"name": "grade", "rating": loss}]},
        data={
            **{part: [data] for part in ("train", "validation", "test", "predict")},
            "max_tokens": 40,
        },
    )
    error = refused(capsys, config)
    assert "training stopped before optimizer step 0" in error
    assert "a loss of grade" in error
    assert "rated.jsonl:8, row 'r-7'" in error
    assert not (run_dir / "run" / "model").exists()


def test_weights_that_are_not_finite_are_refused() -> None:
    layer = torch.nn.Linear(2, 2)
    check_finite(layer)
    with torch.no_grad():
        layer.weight[0, 0] = torch.inf
    with pytest.raises(ModelError, match="weights are not finite"):
        check_finite(layer)


def test_validation_labels_of_one_class_are_refused_before_training(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A best checkpoint would be the first one, whatever comes after it."""
    write_data(run_dir)
    good = {"prompt": "1 + 1?", "completions": ["1 + 1 = 2", "so 2"], "labels": [1, 1]}
    (run_dir / "validation.jsonl").write_text(json.dumps(good) + "\n")
    error = refused(capsys, write_config(run_dir))
    assert "the validation data do not decide val/step_auroc: expected one of val/" in error
    assert not list((run_dir / "run").rglob("*.ckpt"))
    assert main(["fit", "--config", "base.yaml", "--monitor", "val/correct_acc"]) == 0


def test_a_metric_that_no_validation_gives_chooses_nothing(
    run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The first checkpoint would be the best one, as undefined numbers are never better."""
    write_data(run_dir)
    easy = {"steps": [{"name": "correctness"}], "lr": 1e-9}
    config = write_config(run_dir, model=easy, trainer={"max_epochs": 2})
    assert main(["fit", "--config", str(config), "--monitor", "val/prm_score"]) == 0
    assert "No validation gave val/prm_score" in caplog.text
    assert "last step" in (run_dir / "run" / "model" / "README.md").read_text(encoding="utf-8")


def test_rates_below_0_are_refused(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in {
        "lr": -1.0,
        "head_lr_factor": -0.5,
        "weight_decay": -0.1,
        "gradient_clip": -1.0,
    }.items():
        config = write_config(run_dir, model={name: value}, data={"train": [source("none.jsonl")]})
        assert f"{name} is wrong" in refused(capsys, config)


@pytest.mark.parametrize("resumed", [False, True])
def test_a_run_folder_has_one_writer(
    run_dir: Path, capsys: pytest.CaptureFixture[str], resumed: bool
) -> None:
    """Another run, or the same one resumed, is refused before it writes, until the first ends."""
    write_data(run_dir)
    trainer = {"max_epochs": 1}
    if resumed:
        fit(run_dir, trainer=trainer)
        trainer = {"max_epochs": 2}
    config = write_config(run_dir, trainer=trainer, checkpoint_every=1)
    words = ["fit", "--config", str(config)]
    words += ["--ckpt_path", "run/checkpoints/last.ckpt"] if resumed else []
    first = start(run_dir, words, HOLD="last.ckpt:1")
    try:
        while not (run_dir / "held").exists() and first.is_alive():
            first.join(0.01)
        before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
        for more in ([], ["--overwrite", "true"]):
            capsys.readouterr()
            assert main([*words, *more]) == 2
            assert capsys.readouterr().err.strip().splitlines()[-1] == (
                "error: run: another process is writing into this folder. "
                "Wait until it ends, or name another --run_dir"
            )
        assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")} == before
    finally:
        kill_when_held(run_dir, [first])
    assert main([*words, "--overwrite", "true"]) == 0
    assert metrics(run_dir / "run", "step")[-1] == (5 if resumed else 2)
    assert not (run_dir / "run" / ".lock").exists()


def test_a_folder_of_results_has_one_writer(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data(run_dir, 12, 5)
    run = fit(run_dir)
    words = ["--config", "run/config.yaml", "--ckpt_path", "run/checkpoints/best.ckpt"]
    for command in ("test", "predict"):
        with alone_in(run / "test", ""):
            assert main([command, *words]) == 2
            assert "run/test: another process is writing" in capsys.readouterr().err
            assert main([command, *words, "--results", "other"]) == 0
    with alone_in(run, ""):
        assert main(["test", *words]) == 0
