"""`prm size`: tables, exit codes, and commands that `prm fit` takes."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from prm.cli.fit import RunCLI
from prm.cli.main import main
from prm.report.sizing import COMPARED, command, compare
from prm.training.sizing.estimate import GPUS, MFU, Strategy, Training
from prm.training.sizing.shapes import PRESETS

Captured = pytest.CaptureFixture[str]
CONFIG = "configs/process/qwen2.5-math-prm800k.yaml"


def test_one_model_is_drawn_with_its_command(capsys: Captured) -> None:
    assert main(["size", "--model", "Qwen2.5-7B"]) == 0
    shown = capsys.readouterr().out
    assert "2 × 80 GB, fsdp2 (estimate)" in " ".join(shown.split())
    assert "--trainer.devices 2" in shown


def test_a_folder_is_sized_as_its_configuration_says(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "config.json").write_text(json.dumps(PRESETS["Qwen3-0.6B"]))
    assert main(["size", "--model", str(tmp_path), "--gpu_memory", "24", "--lora", "8"]) == 0
    shown = capsys.readouterr().out
    assert "596,049,920 parameters" in shown
    assert "overlay/lora.yaml" in shown


def test_what_does_not_fit_is_no_success(capsys: Captured) -> None:
    assert main(["size", "--model", "Qwen2.5-72B", "--num_gpus", "1"]) == 1
    assert "does not fit" in capsys.readouterr().out


def test_the_table_of_the_guide_is_the_command_s(repository: Path, capsys: Captured) -> None:
    assert main(["size"]) == 0
    table = capsys.readouterr().out
    assert table == compare(GPUS["H100"], MFU) + "\n"
    assert table in (repository / "docs/guides/sizing.md").read_text(encoding="utf-8")
    assert all(name in table for name in COMPARED)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "gpt"], "there is no such model"),
        (["--mfu", "2"], "--mfu is wrong"),
        (["--gpu_memory", "-1"], "--gpu_memory is wrong"),
        (["--gpus_per_node", "0"], "--gpus_per_node is wrong"),
        (["--model", "Qwen3-8B", "--lora", "8", "--freeze_backbone"], "exclude each other"),
    ],
)
def test_wrong_options_are_one_line(words: list[str], message: str, capsys: Captured) -> None:
    assert main(["size", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "training",
    [
        Training(precision="float32", checkpointing=False),
        Training(precision="bfloat16", frozen=True),
        Training(strategy="ddp", num_gpus=2, lora_rank=8),
        Training(strategy="fsdp2", num_gpus=16),
    ],
    ids=lambda training: training.strategy,
)
def test_commands_are_configurations(
    training: Training, repository: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run_dir / "configs").symlink_to(repository / "configs")
    built: list[RunCLI] = []
    monkeypatch.setattr(RunCLI, "_run_subcommand", lambda cli, _: built.append(cli))
    words = shlex.split(command(training).replace("CONFIG", CONFIG).replace("\\\n", " "))
    assert main([*words[1:], "--trainer.accelerator", "cpu"]) == 0
    (cli,) = built
    assert cli.model.recipe.gradient_checkpointing == training.checkpointing
    assert cli.trainer.num_nodes == max(1, training.num_gpus // 8)
    assert (cli.model.recipe.lora is not None) == (training.lora_rank is not None)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2", "zero2", "zero3"])
def test_overlays_exist(strategy: Strategy, repository: Path) -> None:
    shown = command(Training(strategy=strategy, num_gpus=2))
    for path in re.findall(r"configs/\S+\.yaml", shown):
        assert (repository / path).is_file(), path
