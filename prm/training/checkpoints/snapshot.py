"""What a checkpoint needs besides weights: the spec and the tokenizer, as plain text.

Checkpoints are read with `weights_only`, so nothing but tensors, text and numbers goes in.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prm.errors import ModelError, SpecError
from prm.models.reward_model import RewardModel
from prm.models.sources import CONTRACT, load_tokenizer
from prm.spec import RewardSpec
from prm.training.checkpoints import sharded


def take(model: RewardModel) -> dict[str, Any]:
    """Return the spec and the tokenizer's files of a model."""
    return {"spec": model.spec.to_json(), "tokenizer": _files(model.tokenizer)}


def read(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of a prm task, a file or a folder of shards; no code in it is run.

    Raises:
        ModelError: There is no such checkpoint, it is damaged, or something else.
    """
    return _read(Path(path), sharded.read)


def head(path: str | Path) -> dict[str, Any]:
    """Read what a checkpoint holds besides large tensors; raises as `read`."""
    return _read(Path(path), sharded.read_meta)


def _read(path: Path, read_folder: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    if not path.exists():
        raise ModelError("there is no such checkpoint", where=str(path))
    try:
        checkpoint: Any = (
            read_folder(path)
            if path.is_dir()
            else torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        )
    except UnpicklingError as error:
        raise ModelError(
            "cannot read the checkpoint",
            expected="tensors, texts and numbers",
            got="damaged bytes, or objects whose loading runs code",
            where=str(path),
        ) from error
    except (RuntimeError, OSError, EOFError) as error:
        raise ModelError(
            "cannot read the checkpoint",
            got=str(error).splitlines()[0].partition(". ")[0],
            where=str(path),
            fix="Was its writing or copying interrupted?",
        ) from error
    if not isinstance(checkpoint, dict) or "prm" not in checkpoint:
        raise ModelError("this is not a checkpoint of prm", where=str(path))
    return checkpoint


def restore(checkpoint: dict[str, Any]) -> tuple[PreTrainedTokenizerBase, RewardSpec]:
    """Return the tokenizer and the spec of a checkpoint.

    Raises:
        ModelError: The checkpoint was not written by a prm task.
    """
    if "prm" not in checkpoint:
        raise ModelError("this is not a checkpoint of prm", expected="an entry 'prm'")
    entry = checkpoint["prm"]
    return _tokenizer(entry["tokenizer"]), RewardSpec.from_json(entry["spec"], "checkpoint")


def check_same_contract(configured: RewardSpec, stored: RewardSpec) -> None:
    """Refuse to load weights under another contract than they were trained with.

    Raises:
        SpecError: Template, formats, objectives or tokenizer differ.
    """
    for name in (*CONTRACT, "step_heads", "response_heads", "tokenizer"):
        ours, theirs = getattr(configured, name), getattr(stored, name)
        if ours != theirs:
            raise SpecError(
                f"{name} differs from the checkpoint's",
                expected=_shown(theirs, ours),
                got=_shown(ours, theirs),
                fix="Use the configuration that the checkpoint was trained with",
            )


def _shown(part: Any, other: Any) -> str:
    """Return a part of a spec, or of a format those fields that another one does not share."""
    if not is_dataclass(part) or type(part) is not type(other):
        return str(part)
    found = [(item.name, getattr(part, item.name)) for item in fields(part)]
    return ", ".join(f"{name}={value!r}" for name, value in found if getattr(other, name) != value)


def check_same_shapes(model: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> None:
    """Refuse weights of a model of another size or with other parts.

    Raises:
        ModelError: Names or shapes of the tensors differ.
    """
    for name in sorted(model.keys() | stored.keys()):
        ours, theirs = (
            f"shape {tuple(state[name].shape)}" if name in state else "no such tensor"
            for state in (model, stored)
        )
        if ours != theirs:
            raise ModelError(
                f"weight {name} of the checkpoint does not fit the model",
                expected=ours,
                got=theirs,
                fix="Use the configuration that the checkpoint was trained with",
            )


def same_on_all_ranks(tokenizer: PreTrainedTokenizerBase, strategy: Any) -> PreTrainedTokenizerBase:
    """Return rank 0's tokenizer on every rank."""
    if strategy.world_size == 1:
        return tokenizer
    files = strategy.broadcast(_files(tokenizer))
    return tokenizer if strategy.global_rank == 0 else _tokenizer(files)


def _files(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Return file name to content, one character per byte."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {
            str(path.relative_to(folder)): path.read_bytes().decode("latin-1")
            for path in sorted(Path(folder).rglob("*"))
            if path.is_file()
        }


def _tokenizer(files: dict[str, str]) -> PreTrainedTokenizerBase:
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode("latin-1"))
        return load_tokenizer(folder)
