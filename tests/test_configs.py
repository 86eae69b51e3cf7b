"""Every configuration is read by the real parser, and those for real models run as they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentParser

from prm.aggregation.objectives import (
    OBJECTIVE_AGGREGATIONS,
    ObjectiveAggregation,
    from_config,
)
from prm.cli.fit import RunCLI, main
from prm.data.module import RecordDataModule
from prm.models.checkpoint import load
from prm.training.task import RewardTask
from tests.runs import metrics, read_jsonl, source, write_arithmetic, write_pretrained

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
KINDS = ("process", "outcome", "joint")
RUNS = [path for kind in KINDS for path in sorted((CONFIGS / kind).glob("*.yaml"))]
AGGREGATIONS = sorted((CONFIGS / "aggregation").glob("*.yaml"))
OVERLAYS = sorted((CONFIGS / "overlay").glob("*.yaml"))
FOR_ONE_KIND = {"processbench": "process", "outcome-benchmarks": "outcome"}
OBJECTIVES = ("helpfulness", "safety", "factuality")
ON_CPU = ("--trainer.accelerator", "cpu", "--trainer.precision", "32", "--trainer.devices", "1")
NAME = {"ids": lambda path: path.stem if isinstance(path, Path) else None}


@pytest.fixture
def instantiated(monkeypatch: pytest.MonkeyPatch, run_dir: Path) -> list[RunCLI]:
    """The command lines that were built; nothing runs."""
    built: list[RunCLI] = []
    monkeypatch.setattr(RunCLI, "_run_subcommand", lambda cli, name: built.append(cli))
    return built


def test_every_file_is_tested() -> None:
    assert {*RUNS, *OVERLAYS, *AGGREGATIONS} == set(CONFIGS.rglob("*.yaml"))
    assert {path.parent.name for path in RUNS} >= {"process", "outcome"}
    assert set(FOR_ONE_KIND) < {path.stem for path in OVERLAYS}


@pytest.mark.parametrize("path", RUNS, **NAME)
def test_a_run_is_instantiated(path: Path, instantiated: list[RunCLI]) -> None:
    main(["fit", "--config", str(path), *ON_CPU])
    (cli,) = instantiated
    assert isinstance(cli.model, RewardTask)
    assert isinstance(cli.datamodule, RecordDataModule)
    assert cli.model.spec.kind == path.parent.name
    assert (
        cli.trainer.default_root_dir == yaml.safe_load(path.read_text(encoding="utf-8"))["run_dir"]
    )


def _compositions() -> list[tuple[Path, Path]]:
    """Return one run of each kind with every overlay that is for it."""
    firsts = {path.parent.name: path for path in reversed(RUNS)}
    return [
        (run, overlay)
        for kind, run in firsts.items()
        for overlay in OVERLAYS
        if FOR_ONE_KIND.get(overlay.stem, kind) == kind
    ]


@pytest.mark.parametrize(("path", "overlay"), _compositions(), **NAME)
def test_an_overlay_fits_a_run(path: Path, overlay: Path, instantiated: list[RunCLI]) -> None:
    for package in ("wandb", "deepspeed"):
        if overlay.stem.startswith(package):
            pytest.importorskip(package)
    main(["fit", "--config", str(path), "--config", str(overlay), "--trainer.accelerator", "cpu"])
    (cli,) = instantiated
    composed = _leaves(yaml.safe_load(cli.parser.dump(cli.config))["fit"])
    for name, value in _leaves(yaml.safe_load(overlay.read_text(encoding="utf-8"))).items():
        assert composed.get(name) == value, name


def _leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return dotted names to numbers and words; lists are left out."""
    if isinstance(value, dict):
        leaves = [_leaves(child, f"{prefix}.{name}") for name, child in value.items()]
        return {name: leaf for part in leaves for name, leaf in part.items()}
    return {} if isinstance(value, list) else {prefix: value}


@pytest.mark.parametrize("path", AGGREGATIONS, **NAME)
def test_an_aggregation_is_built_by_its_name_and_by_the_parser(path: Path) -> None:
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    built = from_config(config)
    built.check(OBJECTIVES)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--aggregation", type=ObjectiveAggregation)
    parsed = parser.parse_object({"aggregation": config})
    assert parser.instantiate_classes(parsed).aggregation == built


def test_every_aggregation_has_a_file() -> None:
    built = [from_config(yaml.safe_load(path.read_text(encoding="utf-8"))) for path in AGGREGATIONS]
    assert {type(aggregation) for aggregation in built} == set(OBJECTIVE_AGGREGATIONS.values())


@pytest.mark.parametrize("path", [*RUNS, *OVERLAYS, *AGGREGATIONS], **NAME)
def test_no_path_is_absolute(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    values = re.findall(r"(?:path|run_dir|save_dir):\s*(\S+)", text)
    assert not [value for value in values if value.startswith(("/", "~"))]


@pytest.mark.parametrize("path", [*RUNS, *OVERLAYS, *AGGREGATIONS], **NAME)
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
