"""LoRA: heads are trained and saved, adapters are merged into the export."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from prm.cli.main import main
from prm.data.formats.hf_stepwise import HFStepwise
from prm.data.sources.source import Source
from prm.scoring.scorer import RewardScorer
from tests.runs import (
    OVERLAYS,
    metrics,
    prm,
    read_jsonl,
    weights,
    write_config,
    write_data,
    write_pretrained,
)

pytest.importorskip("peft")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the LoRA overlay on a pretrained model."""
    folder = tmp_path_factory.mktemp("lora")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        write_data(folder)
        write_pretrained(folder / "base")
        backbone = {"class_path": "Pretrained", "init_args": {"path": "base"}}
        config = write_config(folder, model={"backbone": backbone}, trainer={"max_epochs": 3})
        prm("fit", "--config", config, "--config", OVERLAYS / "lora.yaml", "--model.lr", "0.01")
        prm("test", "--config", "run/config.yaml", "--ckpt_path", "run/checkpoints/best.ckpt")
    return folder / "run"


def test_it_trains(run: Path) -> None:
    losses = metrics(run, "train/loss")
    assert sum(losses[-3:]) < sum(losses[:3])


def test_adapters_the_marker_and_heads_are_trained(run: Path) -> None:
    state = weights(run)
    assert all(value.any() for name, value in state.items() if "lora_B" in name)
    assert any("trainable_tokens_delta" in name for name in state)
    assert any("heads" in name for name in state)


def test_the_export_has_no_adapters(run: Path) -> None:
    names = load_file(run / "model/model.safetensors")
    assert not [name for name in names if "lora" in name or "base_layer" in name]
    assert "score.weight" in names


def test_the_merged_export_scores_like_the_checkpoint(run: Path) -> None:
    chains = list(Source(str(run.parent / "test.jsonl"), HFStepwise()))
    scores = RewardScorer.from_pretrained(run / "model").score(chains)
    rows = read_jsonl(run / "test/predictions.jsonl")
    for score, row in zip(scores, rows, strict=True):
        assert row["probabilities"] == pytest.approx(score.probabilities, abs=1e-5)


def test_the_export_is_a_stock_folder(run: Path) -> None:
    config = json.loads((run / "model/config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["Qwen2ForTokenClassification"]
    assert not (run / "model/adapter_config.json").exists()


def test_a_resumed_run_goes_on_with_adapters_and_heads(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parent)
    resumed = ("--ckpt_path", "run/checkpoints/last.ckpt", "--run_dir", "resumed")
    prm("fit", "--config", "run/config.yaml", *resumed, "--trainer.max_epochs", 4)
    before, after = weights(run), weights(run.parent / "resumed")
    assert before.keys() == after.keys()
    for name, value in after.items():
        trained = "lora_" in name or "trainable_tokens_delta" in name or "heads" in name
        assert trained or torch.equal(value, before[name]), name


def test_a_name_without_a_layer_is_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run.parent)
    target = ("--model.lora.init_args.target_modules", "[nothing]", "--run_dir", "refused")
    assert main(["fit", "--config", "run/config.yaml", *target]) == 2
    assert "LoRA cannot be applied" in capsys.readouterr().err
