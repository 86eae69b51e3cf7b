"""The model folder: equal scores after reloading, and one clear error for each way to break it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import (
    CHAINS,
    TWO_OBJECTIVES,
    character_tokenizer,
    columns_packed,
    tiny_model,
)

from prm.errors import ModelError, OutputError, PrmError, SpecError
from prm.models import checkpoint
from prm.models.reward_model import RewardModel
from prm.spec import SPEC_FILE, SPEC_VERSION, RewardSpec

SPEC = RewardSpec(step_heads=TWO_OBJECTIVES, chain_reward="correctness", max_length=256)
WEIGHTS = "model.safetensors"


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def model() -> RewardModel:
    return tiny_model(spec=SPEC)


@pytest.fixture(scope="module")
def saved(model: RewardModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint.save(model, tmp_path_factory.mktemp("saved") / "model", card="# A model\n")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of the saved folder, to be broken."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_ruined_model_is_not_written(tmp_path: Path, value: float) -> None:
    ruined = tiny_model(spec=SPEC)
    with torch.no_grad():
        next(ruined.heads.parameters()).fill_(value)
    with pytest.raises(ModelError, match="scores that are not finite"):
        checkpoint.save(ruined, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def same_scores(one: RewardModel, other: RewardModel) -> None:
    for a, b in zip(columns_packed(one, CHAINS), columns_packed(other, CHAINS), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def edit_spec(folder: Path, **fields: Any) -> None:
    path = folder / SPEC_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


# Round trips


def test_a_reloaded_model_scores_the_same(model: RewardModel, saved: Path) -> None:
    loaded = checkpoint.load(saved)
    same_scores(model, loaded)
    assert loaded.spec.with_(golden_chains=()) == model.spec
    assert not loaded.training


@pytest.mark.parametrize(
    ("family", "head"), [("qwen2", "mlp"), ("mistral", "mlp"), ("gpt2", "linear"), ("opt", "mlp")]
)
def test_families_and_heads_come_back(family: str, head: Any, tmp_path: Path) -> None:
    fields = {"word_embed_proj_dim": 32, "ffn_dim": 32} if family == "opt" else {}
    model = tiny_model(family, SPEC, head, **fields)
    same_scores(model, checkpoint.load(checkpoint.save(model, tmp_path / "model")))


@pytest.mark.slow
def test_a_family_without_a_token_classifier_comes_back(tmp_path: Path) -> None:
    model = tiny_model("mamba", SPEC)
    folder = checkpoint.save(model, tmp_path / "model")
    assert (folder / checkpoint.HEADS_FILE).is_file()
    same_scores(model, checkpoint.load(folder))


def test_saving_what_was_loaded_changes_nothing(saved: Path, tmp_path: Path) -> None:
    again = checkpoint.save(checkpoint.load(saved), tmp_path / "again", card="# A model\n")
    for name in names_in(saved):
        if name not in (SPEC_FILE, "tokenizer_config.json"):
            assert (again / name).read_bytes() == (saved / name).read_bytes(), name
    assert RewardSpec.load(again).with_(golden_chains=()) == RewardSpec.load(saved).with_(
        golden_chains=()
    )


def test_saving_does_not_change_the_model(tmp_path: Path) -> None:
    model = tiny_model(spec=SPEC).train()
    before = [columns.clone() for columns in columns_packed(model, CHAINS)]
    names = [name for name, _ in model.named_parameters()]
    checkpoint.save(model, tmp_path / "model")
    assert model.training
    assert [name for name, _ in model.named_parameters()] == names
    for a, b in zip(before, columns_packed(model, CHAINS), strict=True):
        assert a.equal(b)


def test_nothing_in_the_folder_can_run_code(saved: Path) -> None:
    names = set(names_in(saved))
    assert {SPEC_FILE, WEIGHTS, "config.json", "tokenizer.json", "README.md"} <= names
    assert {Path(name).suffix for name in names} <= {".json", ".safetensors", ".md", ".jinja"}
    assert "auto_map" not in json.loads((saved / "config.json").read_text())


def test_labels_are_named_in_column_order(saved: Path) -> None:
    labels = json.loads((saved / "config.json").read_text())["id2label"]
    assert labels == {"0": "correctness", "1": "not_redundancy", "2": "redundancy"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_model_is_read_in_any_precision(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    folder = checkpoint.save(tiny_model(spec=SPEC).to(dtype), tmp_path / "model")
    assert next(checkpoint.load(folder).backbone.parameters()).dtype == dtype
    exact = checkpoint.load(folder, dtype=torch.float32)
    assert next(exact.backbone.parameters()).dtype == torch.float32


def test_heads_are_read_exactly_beside_a_half_precision_backbone(saved: Path) -> None:
    heads = checkpoint.load(saved, dtype=torch.bfloat16).heads.state_dict()
    stored = load_file(saved / WEIGHTS)
    assert heads["layers.weight"].equal(stored["score.weight"])


@pytest.mark.parametrize("on_too_long", ["truncate", "drop", "error"])
@pytest.mark.parametrize("max_length", [4, 20])
def test_a_model_of_short_chains_can_be_saved(
    on_too_long: Any, max_length: int, tmp_path: Path
) -> None:
    """The golden chains are longer than what this model reads."""
    model = tiny_model(spec=SPEC.with_(max_length=max_length, on_too_long=on_too_long))
    checkpoint.load(checkpoint.save(model, tmp_path / "model"))


# Broken folders


def _cut(folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:-100])


BREAKS: dict[str, tuple[Callable[[Path], Any], type[PrmError], str]] = {
    "no spec": (lambda f: (f / SPEC_FILE).unlink(), SpecError, f"no {SPEC_FILE}"),
    "newer spec": (
        lambda f: edit_spec(f, version=SPEC_VERSION + 1),
        SpecError,
        "newer than this library",
    ),
    "cut spec": (lambda f: _cut(f, SPEC_FILE), SpecError, "not JSON"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), ModelError, "cannot load the weights"),
    "cut weights": (lambda f: _cut(f, WEIGHTS), ModelError, "cannot load the weights"),
    "empty weights": (
        lambda f: (f / WEIGHTS).write_bytes(b""),
        ModelError,
        "cannot load the weights",
    ),
    "no config": (lambda f: (f / "config.json").unlink(), ModelError, "cannot load the weights"),
    "cut config": (lambda f: _cut(f, "config.json"), ModelError, "cannot load the weights"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), ModelError, "tokenizer"),
    "cut tokenizer": (lambda f: _cut(f, "tokenizer.json"), ModelError, "tokenizer"),
    "no tokenizer files": (
        lambda f: [(f / n).unlink() for n in ("tokenizer.json", "tokenizer_config.json")],
        PrmError,
        "tokenizer",
    ),
    "cut tokenizer config": (
        lambda f: _cut(f, "tokenizer_config.json"),
        ModelError,
        "tokenizer",
    ),
    "foreign tokenizer": (
        lambda f: character_tokenizer().save_pretrained(f),
        SpecError,
        "not the one this model was trained with",
    ),
    "no head": (
        lambda f: edit_weights(f, lambda w: [w.pop("score.weight"), w.pop("score.bias")]),
        ModelError,
        "heads do not fit",
    ),
    "no head bias": (
        lambda f: edit_weights(f, lambda w: w.pop("score.bias")),
        ModelError,
        "heads do not fit",
    ),
    "extra head": (
        lambda f: edit_weights(
            f, lambda w: w.update({"value.weight": torch.ones(3, 32), "value.bias": torch.ones(3)})
        ),
        ModelError,
        "left over",
    ),
    "extra weight": (
        lambda f: edit_weights(f, lambda w: w.update({"model.layers.9.foo": torch.ones(3)})),
        ModelError,
        "left over",
    ),
    "wide head": (
        lambda f: edit_weights(f, lambda w: w.update({"score.weight": torch.ones(4, 32)})),
        ModelError,
        "heads do not fit",
    ),
    "fewer objectives": (
        lambda f: edit_spec(f, step_heads=[{"name": "correctness", "readout": "sigmoid"}]),
        ModelError,
        "heads do not fit",
    ),
    "missing layer": (
        lambda f: edit_weights(f, lambda w: w.pop("model.layers.0.mlp.up_proj.weight")),
        ModelError,
        "weights are missing",
    ),
    "wrong shape": (
        lambda f: edit_weights(f, lambda w: w.update({"model.norm.weight": torch.ones(7)})),
        ModelError,
        "cannot load the weights",
    ),
    "swapped head rows": (
        lambda f: edit_weights(
            f, lambda w: w.update({"score.weight": w["score.weight"].flip(0).contiguous()})
        ),
        ModelError,
        "does not score",
    ),
    "an index that leaves the folder": (
        lambda f: (f / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"model.norm.weight": "../other.safetensors"}})
        ),
        ModelError,
        "names a file outside the folder",
    ),
    "other weights": (
        lambda f: edit_weights(
            f, lambda w: w.update({"model.norm.weight": w["model.norm.weight"] * 1.1})
        ),
        ModelError,
        "does not score 'correctness' as the saved one did",
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_each_broken_folder_is_one_clear_error(folder: Path, name: str) -> None:
    change, error, problem = BREAKS[name]
    change(folder)
    with pytest.raises(error, match=problem) as caught:
        checkpoint.load(folder)
    assert str(folder) in str(caught.value) or "tokenizer is not" in str(caught.value)


def test_verification_can_be_turned_off(folder: Path) -> None:
    BREAKS["other weights"][0](folder)
    checkpoint.load(folder, verify=False)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=SPEC_FILE):
        checkpoint.load(tmp_path / "nowhere")


def test_cut_heads_beside_a_plain_model_are_an_error(tmp_path: Path) -> None:
    folder = checkpoint.save(tiny_model(head="mlp"), tmp_path / "model")
    _cut(folder, checkpoint.HEADS_FILE)
    with pytest.raises(ModelError):
        checkpoint.load(folder)


# Failed writes


@pytest.mark.parametrize("file", ["weights", "tokenizer"])
def test_a_write_that_fails_midway_leaves_the_old_model(
    model: RewardModel, folder: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    def fail(*_arguments: Any, **_options: Any) -> None:
        raise OSError(28, "No space left on device")

    if file == "tokenizer":
        monkeypatch.setattr(type(model.tokenizer), "save_pretrained", fail)
    else:
        monkeypatch.setattr("transformers.modeling_utils.safe_save_file", fail)
    before = {name: (folder / name).read_bytes() for name in names_in(folder)}
    with pytest.raises(OutputError, match="No space left on device"):
        checkpoint.save(model, folder)
    assert {name: (folder / name).read_bytes() for name in names_in(folder)} == before
    assert names_in(folder.parent) == ["model"]


def test_a_folder_with_other_content_is_not_overwritten(model: RewardModel, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="holds something else"):
        checkpoint.save(model, tmp_path)
    assert names_in(tmp_path) == ["thesis.txt"]


def test_an_older_model_is_replaced_whole(folder: Path) -> None:
    (folder / "left_over.safetensors").write_bytes(b"old")
    checkpoint.save(tiny_model(head="mlp"), folder)
    assert "left_over.safetensors" not in names_in(folder)
    assert "README.md" not in names_in(folder)
    assert checkpoint.load(folder).heads.kind == "mlp"
