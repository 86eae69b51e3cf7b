"""Bad input to `prm fit | test | predict`: one clear line before anything is written."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from prm.cli.main import main
from prm.errors import OutputError
from prm.locks import LOCK_FILE
from prm.training.checkpoints import snapshot
from tests.refusals import Case, refuse
from tests.runs import LLAMA, fit, source, write_arithmetic, write_config, write_data
from tests.tiny_models import tiny_backbone, tiny_tokenizer

PRETRAINED = "prm.models.sources.Pretrained"
FIT = "fit --config base.yaml"
RESUME = f"{FIT} --ckpt_path "


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and a finished run, which tests copy."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        write_data(folder, 12, 5)
        fit(folder)
    return folder


def pretrained(**options: Any) -> dict[str, Any]:
    return {"backbone": {"class_path": PRETRAINED, "init_args": {"path": "mine", **options}}}


def from_scratch(**config: Any) -> dict[str, Any]:
    scratch = {"config": LLAMA | config, "vocab_size": 270}
    return {"backbone": {"class_path": "prm.models.sources.FromScratch", "init_args": scratch}}


def objective(**options: Any) -> dict[str, Any]:
    return {"steps": [options]}


def balanced() -> dict[str, Any]:
    return objective(
        loss={"class_path": "prm.losses.steps.BCE", "init_args": {"error_weight": "balanced"}}
    )


def lora(**options: Any) -> dict[str, Any]:
    return {"lora": {"class_path": "prm.models.lora.LoRA", "init_args": options}}


def train_on(rows: list[dict[str, Any]]) -> Callable[[Path], object]:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    return lambda folder: (folder / "train.jsonl").write_text(text, encoding="utf-8")


def save_backbone(folder: Path, tokenizer: bool = True, family: str = "qwen2") -> None:
    words = tiny_tokenizer()
    tiny_backbone(family, words).save_pretrained(folder / "mine")
    if tokenizer:
        words.save_pretrained(folder / "mine")


def without_weights(folder: Path) -> None:
    save_backbone(folder)
    (folder / "mine" / "model.safetensors").unlink()


CORRECT = {"prompt": "1 + 1?", "completions": ["2", "so 2"], "labels": [1, 1]}

CONFIGURATIONS: dict[str, tuple[Mapping[str, Any], tuple[str, ...]]] = {
    "an option that does not exist": ({"epochs": 3}, ("'epochs'",)),
    "an unknown backbone class": (
        {"model": {"backbone": {"class_path": "FromScrach"}}},
        ("--backbone: there is no class FromScrach", "Did you mean FromScratch?"),
    ),
    "a typo in a key": ({"data": {"batchsize": 8}}, ("batchsize",)),
    "a number that is a word": ({"model": {"lr": "fast"}}, ("lr", "float", "fast")),
    "a length that is a fraction": ({"model": {"max_length": 12.5}}, ("max_length", "int", "12.5")),
    "no training data": ({"data": {"train": []}}, ("no sources to train on", "data.train")),
    "training data that are missing": (
        {"data": {"train": [source("absent.jsonl")]}},
        ("there is no file absent.jsonl",),
    ),
    "validation data that are missing": (
        {"data": {"validation": [source("absent.jsonl")]}},
        ("there is no file absent.jsonl",),
    ),
    "no labels for the objective": (
        {"model": objective(name="redundancy")},
        ("no training chain has a label of objective 'redundancy'",),
    ),
    "an unknown monitored metric": (
        {"monitor": "val/loss"},
        ("monitor is wrong", "val/step_auroc", "got val/loss"),
    ),
    "an unknown step aggregation": (
        {"model": {"step_aggregation": "median"}},
        ("unknown step aggregation", "softmin", "got median"),
    ),
    "an unknown model type": ({"model": from_scratch(model_type="lama")}, ("'lama'",)),
    "sizes that do not fit": ({"model": from_scratch(num_attention_heads=3)}, ("llama", "3")),
    "a length over the positions": (
        {"model": {"max_length": 300}},
        ("max_length is over the backbone's position limit", "at most 256, got 300"),
    ),
    "a budget below a chain": (
        {"data": {"max_tokens": 8}},
        ("train.jsonl:1, row", "does not fit a micro-batch", "at most 8 tokens (max_tokens)"),
    ),
    "a length that drops every chain": (
        {"model": {"max_length": 4}},
        ("no chains are left for train", "12 read", "train.jsonl:1", "max_length 4"),
    ),
    "a chain that is too long, with on_too_long error": (
        {"model": {"max_length": 40, "on_too_long": "error"}},
        ("train.jsonl:", "chain is too long", "at most 40 tokens"),
    ),
    "a chat template that is missing": (
        {"model": {"template": {"style": "chat"}}},
        ("'chat' needs a tokenizer with a chat template",),
    ),
    "a step marker that is empty": (
        {"model": {"step_format": {"marker": ""}}},
        ("step marker ''",),
    ),
    "a LoRA target that is missing": (
        {"model": lora(target_modules=["q_prj"])},
        ("LoRA cannot be applied", "q_prj"),
    ),
    "a warmup below 0": ({"model": {"schedule": {"warmup": -1}}}, ("schedule is wrong", "-1")),
    "an accelerator that is missing": (
        {"trainer": {"accelerator": "tpu"}},
        ("the trainer cannot be built", "torch_xla"),
    ),
    "gradient clipping by the trainer": (
        {"trainer": {"gradient_clip_val": 1.0}},
        ("gradient_clip_val is not used", "model.gradient_clip"),
    ),
    "gradient accumulation by the trainer": (
        {"trainer": {"accumulate_grad_batches": 2}},
        ("accumulate_grad_batches is not used", "data.batch_size"),
    ),
    "float16": ({"trainer": {"precision": "16-mixed"}}, ("Use bf16-mixed",)),
    "more devices than there are": (
        {"trainer": {"accelerator": "cuda", "devices": 64}},
        ("the trainer cannot be built", "accelerator"),
    ),
    "a hub model without a network": (
        {"model": pretrained(path="nobody/no-such-model")},
        ("nobody/no-such-model: cannot load the tokenizer", "reachable or cached"),
    ),
}

ARRANGED: dict[str, tuple[Mapping[str, Any], Callable[[Path], Any], tuple[str, ...]]] = {
    "one class where balance is asked for": (
        {"model": balanced()},
        train_on([CORRECT] * 12),
        ("'balanced' needs both classes", "24 correct, 0 wrong"),
    ),
    "a model folder without tokenizer": (
        {"model": pretrained()},
        lambda folder: save_backbone(folder, tokenizer=False),
        ("mine: no tokenizer files",),
    ),
    "a model folder without weights": (
        {"model": pretrained()},
        without_weights,
        ("mine: cannot load the model",),
    ),
    "an encoder": (
        {"model": pretrained()},
        lambda folder: save_backbone(folder, family="bert"),
        ("BertModel lets tokens see later tokens", "causal decoder"),
    ),
    "a training row with a label too few": (
        {},
        train_on([CORRECT, CORRECT | {"labels": [1]}]),
        ("train.jsonl:2", "expected 2 labels, one per step, got 1"),
    ),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_bad_configuration_is_one_clear_line(
    name: str, run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, says = CONFIGURATIONS[name]
    write_data(run_dir, 12, 5)
    write_config(run_dir, **changes)
    refuse(Case(name, FIT, says), run_dir, monkeypatch, capsys)


@pytest.mark.parametrize("name", ARRANGED)
def test_bad_training_files_are_one_clear_line(
    name: str, run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, arrange, says = ARRANGED[name]
    write_data(run_dir, 12, 5)
    arrange(run_dir)
    write_config(run_dir, **changes)
    refuse(Case(name, FIT, says), run_dir, monkeypatch, capsys)


def cut_checkpoint(folder: Path, patch: pytest.MonkeyPatch) -> None:
    path = folder / "run" / "checkpoints" / "last.ckpt"
    path.write_bytes(path.read_bytes()[:-1000])


def other_data(folder: Path, patch: pytest.MonkeyPatch) -> None:
    write_arithmetic(folder / "train.jsonl", 12, seed=5)


def other_config(**changes: Any) -> Callable[[Path, pytest.MonkeyPatch], object]:
    return lambda folder, patch: write_config(folder, **changes)


def unwritable(folder: Path, patch: pytest.MonkeyPatch) -> None:
    (folder / "file").write_text("")
    write_config(folder, run_dir="file/run")


def written_elsewhere(folder: Path, patch: pytest.MonkeyPatch) -> None:
    def held(*_: object) -> NoReturn:
        raise BlockingIOError

    (folder / "run" / LOCK_FILE).touch()
    patch.setattr(fcntl, "flock", held)


LAST = "run/checkpoints/last.ckpt"
RUNS = [
    Case("a run folder in use", FIT, ("run: the run folder already holds a run", "--overwrite")),
    Case(
        "a run folder that another run writes",
        RESUME + LAST,
        ("run: another process is writing into this folder", "--run_dir"),
        arrange=written_elsewhere,
    ),
    Case("no checkpoint to test", "test --config base.yaml", ("test needs a trained model",)),
    Case(
        "a checkpoint that is missing",
        RESUME + "absent.ckpt",
        ("absent.ckpt: there is no such checkpoint",),
    ),
    Case(
        "a checkpoint that is cut off",
        RESUME + LAST,
        (f"{LAST}: cannot read the checkpoint",),
        arrange=cut_checkpoint,
    ),
    Case(
        "a checkpoint with code in it",
        RESUME + "code.ckpt",
        ("code.ckpt: cannot read the checkpoint",),
        arrange=lambda folder, patch: torch.save(Path("a"), folder / "code.ckpt"),
    ),
    Case(
        "a checkpoint of something else",
        RESUME + "other.ckpt",
        ("other.ckpt: this is not a checkpoint of prm",),
        arrange=lambda folder, patch: torch.save({"state_dict": {}}, folder / "other.ckpt"),
    ),
    Case(
        "a checkpoint of another contract",
        f"test --config base.yaml --ckpt_path {LAST}",
        ("template differs from the checkpoint's",),
        arrange=other_config(model={"template": {"suffix": "?"}}),
    ),
    Case(
        "a checkpoint of another size",
        f"test --config base.yaml --ckpt_path {LAST}",
        ("does not fit the model", "(271, 32), got shape (271, 16)"),
        arrange=other_config(model=from_scratch(hidden_size=32)),
    ),
    Case(
        "resuming with other data",
        RESUME + LAST,
        ("the training data changed since the checkpoint",),
        arrange=other_data,
    ),
    Case(
        "nothing to predict on",
        f"predict --config base.yaml --ckpt_path {LAST}",
        ("there are no sources for predict", "data.predict"),
        arrange=other_config(data={"predict": []}),
    ),
    Case(
        "a run folder below a file",
        FIT,
        ("file: the run folder cannot be written", "file/run"),
        arrange=unwritable,
    ),
]


@pytest.mark.parametrize("case", RUNS, ids=lambda case: case.name)
def test_a_bad_run_or_checkpoint_is_one_clear_line(
    case: Case,
    finished: Path,
    run_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(finished, run_dir, dirs_exist_ok=True)
    write_config(run_dir)
    refuse(case, run_dir, monkeypatch, capsys)


@pytest.mark.parametrize(
    "broken", ["prm.training.checkpoints.run_files.atomic_file", "prm.models.checkpoint.save"]
)
def test_a_disk_that_fills_up_while_training(
    broken: str, run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was written before stays whole; there is no half-written checkpoint or model."""

    def full(*_arguments: Any, **_options: Any) -> NoReturn:
        raise OutputError("cannot write", got=os.strerror(errno.ENOSPC), where="run")

    write_data(run_dir, 12, 5)
    write_config(run_dir)
    monkeypatch.setattr(broken, full)
    assert main(FIT.split()) == 2
    last_line = capsys.readouterr().err.splitlines()[-1]
    assert last_line == "error: run: cannot write: got No space left on device"
    assert not (run_dir / "run" / "model").exists()
    for path in (run_dir / "run").rglob("*.ckpt"):
        snapshot.read(path)
