"""Every configuration is read by the real parser, and those for real models run as they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from prm.cli.fit import RunCLI, main
from prm.data.datamodules import ChainDataModule
from prm.models.checkpoint import load
from prm.training.process import ProcessRewardTask
from tests.runs import metrics, read_jsonl, source, write_arithmetic, write_pretrained

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
RUNS = sorted((CONFIGS / "process").glob("*.yaml"))
OVERLAYS = sorted((CONFIGS / "overlay").glob("*.yaml"))
ON_CPU = ("--trainer.accelerator", "cpu", "--trainer.precision", "32", "--trainer.devices", "1")
NAME = {"ids": lambda path: path.stem if isinstance(path, Path) else None}


@pytest.fixture
def instantiated(monkeypatch: pytest.MonkeyPatch, run_dir: Path) -> list[RunCLI]:
    """The command lines that were built; nothing runs."""
    built: list[RunCLI] = []
    monkeypatch.setattr(RunCLI, "_run_subcommand", lambda cli, name: built.append(cli))
    return built


def test_every_file_is_tested() -> None:
    assert {*RUNS, *OVERLAYS} == set(CONFIGS.rglob("*.yaml"))
    assert len(RUNS) == 4
    assert len(OVERLAYS) == 8


@pytest.mark.parametrize("path", RUNS, **NAME)
def test_a_run_is_instantiated(path: Path, instantiated: list[RunCLI]) -> None:
    main(["fit", "--config", str(path), *ON_CPU])
    (cli,) = instantiated
    assert isinstance(cli.model, ProcessRewardTask)
    assert isinstance(cli.datamodule, ChainDataModule)
    assert (
        cli.trainer.default_root_dir == yaml.safe_load(path.read_text(encoding="utf-8"))["run_dir"]
    )


@pytest.mark.parametrize("overlay", OVERLAYS, **NAME)
@pytest.mark.parametrize("path", [RUNS[0], RUNS[-1]], **NAME)
def test_an_overlay_fits_a_run(path: Path, overlay: Path, instantiated: list[RunCLI]) -> None:
    if overlay.stem == "wandb":
        pytest.importorskip("wandb")
    main(["fit", "--config", str(path), "--config", str(overlay), "--trainer.accelerator", "cpu"])
    (cli,) = instantiated
    composed = _leaves(yaml.safe_load(cli.parser.dump(cli.config))["fit"])
    for name, value in _leaves(yaml.safe_load(overlay.read_text(encoding="utf-8"))).items():
        assert composed[name] == value, name


def _leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return dotted names to numbers and words; lists are left out."""
    if isinstance(value, dict):
        leaves = [_leaves(child, f"{prefix}.{name}") for name, child in value.items()]
        return {name: leaf for part in leaves for name, leaf in part.items()}
    return {} if isinstance(value, list) else {prefix: value}


@pytest.mark.parametrize("path", [*RUNS, *OVERLAYS], **NAME)
def test_no_path_is_absolute(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    values = re.findall(r"(?:path|run_dir|save_dir):\s*(\S+)", text)
    assert not [value for value in values if value.startswith(("/", "~"))]


@pytest.mark.parametrize("path", [*RUNS, *OVERLAYS], **NAME)
def test_a_file_says_what_it_is_for(path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("name", ["qwen2.5-math-prm800k", "math-shepherd"])
def test_a_configuration_for_a_real_model_runs(run_dir: Path, name: str) -> None:
    """Only the model, the data and the device are replaced."""
    write_pretrained(run_dir / "tiny", chat_template=True)
    write_arithmetic(run_dir / "train.jsonl", 300)
    data = {"train": [source("train.jsonl", name="train")]}
    if name == "qwen2.5-math-prm800k":
        write_arithmetic(run_dir / "test.jsonl", 9, "test")
        data["test"] = [source("test.jsonl")]
    replaced = {"data": {"init_args": {**data, "num_workers": 0}}}
    Path("replaced.yaml").write_text(yaml.safe_dump(replaced), encoding="utf-8")
    words = ("--config", str(CONFIGS / "process" / f"{name}.yaml"), "--config", "replaced.yaml")
    quiet = ("--trainer.enable_progress_bar", "false", "--trainer.val_check_interval", "1.0")
    path = ("--model.init_args.backbone.init_args.path", "tiny")
    main(["fit", *words, *ON_CPU, *quiet, *path, "--trainer.log_every_n_steps", "1"])
    run = Path("runs") / name
    assert metrics(run, "train/loss")
    assert load(run / "model").spec.step_aggregation is not None
    main(
        [
            "test",
            "--config",
            str(run / "config.yaml"),
            "--ckpt_path",
            str(run / "checkpoints/best.ckpt"),
        ]
    )
    assert read_jsonl(run / "test/predictions.jsonl")
