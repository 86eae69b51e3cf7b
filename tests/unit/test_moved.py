"""Names of version 0.1 that moved: one error with the new name, which exists."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from prm.cli.main import main
from prm.moved import MODULES, NAMES
from tests.runs import source, write_config, write_data

RENAMED = [(module, name) for module, names in NAMES.items() for name in names]


@pytest.mark.parametrize("old", MODULES)
def test_a_module_that_moved_says_where(old: str) -> None:
    new = MODULES[old].split()[0]
    with pytest.raises(ModuleNotFoundError, match=f"{old} is {new}"):
        importlib.import_module(old)
    package, _, name = old.rpartition(".")
    with pytest.raises(ModuleNotFoundError, match=f"{old} is {new}"):
        exec(f"from {package} import {name}")
    assert importlib.import_module(new)


@pytest.mark.parametrize(("module", "name"), RENAMED)
def test_a_name_that_moved_says_where(module: str, name: str) -> None:
    home, _, new = NAMES[module][name].rpartition(".")
    with pytest.raises(ImportError, match=f"{name} is {home}.{new} now"):
        getattr(importlib.import_module(module), name)
    assert getattr(importlib.import_module(home), new)


def test_other_names_are_missing_as_always() -> None:
    with pytest.raises(ImportError, match="cannot import name"):
        exec("from prm.spec import Nothing")
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'prm\.nothing'"):
        importlib.import_module("prm.nothing")


def _task(name: str, **options: Any) -> dict[str, Any]:
    return {"class_path": name, "init_args": options}


BACKBONE = _task("Pretrained", path="nowhere")
OLD = {
    "a process task": (
        {"model": _task("ProcessRewardTask", backbone=BACKBONE)},
        "RewardTask, with",
    ),
    "an outcome task": (
        {"model": _task("prm.training.outcome.OutcomeRewardTask", backbone=BACKBONE)},
        "RewardTask",
    ),
    "its objectives": ({"model": _task("RewardTask", objectives=[{}])}, "steps or responses now"),
    "its aggregation": ({"model": _task("RewardTask", aggregation="min")}, "step_aggregation for"),
    "its reward": ({"model": _task("RewardTask", reward_objective="a")}, "chain_reward now"),
    "a data module": ({"data": _task("ChainDataModule")}, "RecordDataModule now"),
    "a module of tasks": (
        {"model": _task("prm.training.process.ProcessRewardTask")},
        "prm.training.process is prm.training.task (RewardTask with steps) now",
    ),
    "a module of data": (
        {"data": _task("prm.data.datamodules.ChainDataModule")},
        "(one RecordDataModule for all records) now",
    ),
    "a module of losses": (
        {
            "model": _task(
                "RewardTask",
                backbone=BACKBONE,
                steps=[{"name": "correctness", "loss": _task("prm.losses.process.BCE")}],
            )
        },
        "prm.losses.process is prm.losses.steps now",
    ),
    "a source": (
        {"data": _task("RecordDataModule", train=[_task("ChainSource", **source("a.jsonl"))])},
        "Source, which needs no class_path",
    ),
}


@pytest.mark.parametrize("name", OLD)
def test_a_configuration_of_version_0_1_is_told_the_new_name(
    name: str, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, new = OLD[name]
    write_data(run_dir)
    path = write_config(run_dir)
    config = yaml.safe_load(path.read_text(encoding="utf-8")) | changes
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    try:
        code: Any = main(["fit", "--config", str(path)])
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2
    assert error.count("\n") == 1
    assert new in error
