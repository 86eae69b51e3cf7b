"""Sharded checkpoints: a folder to which every rank writes its part, as safetensors.

`meta.pt` holds everything that is small (progress, spec, tokenizer, optimizer options) and names
the folder beside it that holds the tensors. It is replaced by one renaming when all tensors lie on
the disk, so a kill at any time leaves the checkpoint before. Neither runs code when it is read:
`meta.pt` is read with `weights_only`, and tensors are safetensors, not the pickles that
`torch.distributed.checkpoint` writes by default.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load as load_tensors
from torch.distributed.checkpoint.state_dict_saver import save as save_tensors
from torch.optim import Optimizer

from prm.atomic import atomic_file, swap
from prm.errors import ModelError, OutputError

META = "meta.pt"
"""The file that makes a folder a sharded checkpoint."""

TENSORS = "tensors"
"""Entry of `meta.pt`: name of the folder with the tensors."""


def write(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint of sharded tensors; every rank must call it.

    Args:
        checkpoint: A Lightning checkpoint; optimizer states are keyed by parameter names.
        path: The folder of the checkpoint; the one before in it is replaced.

    Raises:
        OutputError: A rank cannot write its part; the checkpoint before is untouched.
    """
    tensors, rest = _split(checkpoint)
    folder = _new_folder(path)
    try:
        writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
        save_tensors(tensors, storage_writer=writer)
    except CheckpointException as error:
        shutil.rmtree(folder, ignore_errors=True)
        reason = _first_failure(error)
        raise OutputError("cannot write the checkpoint", got=reason, where=str(path)) from error
    if dist.get_rank() == 0:
        with atomic_file(folder.parent / META) as stream:
            torch.save(rest | {TENSORS: folder.name}, stream)
        _take_place(folder, path)
    dist.barrier()


def read_meta(path: Path) -> dict[str, Any]:
    """Read what a sharded checkpoint holds besides tensors.

    Raises:
        ModelError: The folder is no checkpoint.
    """
    if not (path / META).is_file():
        raise ModelError("this is not a checkpoint of prm", expected=META, where=str(path))
    meta: dict[str, Any] = torch.load(path / META, map_location="cpu", weights_only=True)
    return meta


def weight_shapes(path: Path) -> dict[str, Tensor]:
    """Return the weights of a sharded checkpoint without their values."""
    meta = read_meta(path)
    stored = _stored(path / meta[TENSORS]).items()
    prefix = "weights/"
    large = {name.removeprefix(prefix): value for name, value in stored if name.startswith(prefix)}
    return {**large, **meta["state_dict"]}


def read(path: Path) -> dict[str, Any]:
    """Put a sharded checkpoint together in this process, as one that a single rank wrote."""
    checkpoint = read_meta(path)
    folder = path / checkpoint.pop(TENSORS)
    stored = _stored(folder)
    tensors = {name: torch.empty_like(value, device="cpu") for name, value in stored.items()}
    _fill(tensors, folder, alone=True)
    _join(checkpoint, tensors)
    checkpoint["optimizer_states"] = [by_index(state) for state in checkpoint["optimizer_states"]]
    return checkpoint


def load(path: Path, model: nn.Module, optimizers: list[Optimizer]) -> dict[str, Any]:
    """Load into a sharded model and its optimizers; every rank reads the shards that it needs.

    Returns:
        The checkpoint without tensors.

    Raises:
        ModelError: The tensors are those of another model, or damaged.
    """
    meta = read_meta(path)
    folder = path / meta.pop(TENSORS)
    weights: dict[str, Any] = get_model_state_dict(model)
    states = [get_optimizer_state_dict(model, optimizer) for optimizer in optimizers]
    tensors, _ = _split({"state_dict": weights, "optimizer_states": states})
    _fill(tensors, folder)
    set_model_state_dict(model, weights | meta.pop("state_dict"))
    small = meta.pop("optimizer_states")
    for optimizer, state, stored in zip(optimizers, states, small, strict=False):
        for name, values in stored["state"].items():
            state["state"][name] |= values
        state["param_groups"] = stored["param_groups"]
        set_optimizer_state_dict(model, optimizer, optim_state_dict=state)
    return meta


def by_index(state: dict[str, Any]) -> dict[str, Any]:
    """Return an optimizer state keyed by parameter names as torch keys it: by place in the groups.

    Example:
        >>> by_index({"state": {"b": 1, "a": 2}, "param_groups": [{"params": ["a", "b"]}]})
        {'state': {0: 2, 1: 1}, 'param_groups': [{'params': [0, 1]}]}
    """
    names = [name for group in state["param_groups"] for name in group["params"]]
    index = {name: place for place, name in enumerate(names)}
    return {
        "state": {index[name]: state["state"][name] for name in names if name in state["state"]},
        "param_groups": [
            group | {"params": [index[name] for name in group["params"]]}
            for group in state["param_groups"]
        ],
    }


def by_name(state: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return an optimizer state of `by_index` keyed by the names in present parameter groups."""
    stored = [place for group in state["param_groups"] for place in group["params"]]
    names = [name for group in groups for name in group["params"]]
    sizes = [[len(group["params"]) for group in part] for part in (state["param_groups"], groups)]
    if sizes[0] != sizes[1]:
        raise ModelError(
            "the checkpoint's optimizer does not fit", expected=str(sizes[1]), got=sizes[0]
        )
    name_of = dict(zip(stored, names, strict=True))
    return {
        "state": {name_of[place]: value for place, value in state["state"].items()},
        "param_groups": [
            old | {"params": new["params"]}
            for old, new in zip(state["param_groups"], groups, strict=True)
        ],
    }


def _split(checkpoint: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Take the tensors with a dimension out of weights and optimizer states, each with a name."""
    tensors: dict[str, Tensor] = {}
    weights = _without(checkpoint["state_dict"], "weights", tensors)
    states = [
        {
            "state": {
                name: _without(values, f"optimizer/{index}/{name}", tensors)
                for name, values in state["state"].items()
            },
            "param_groups": state["param_groups"],
        }
        for index, state in enumerate(checkpoint.get("optimizer_states", []))
    ]
    return tensors, {**checkpoint, "state_dict": weights, "optimizer_states": states}


def _without(values: Mapping[str, Any], prefix: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Return what has no dimension; the rest goes to `tensors`."""
    large = {key: value for key, value in values.items() if getattr(value, "ndim", 0)}
    tensors |= {f"{prefix}/{key}": value for key, value in large.items()}
    return {key: value for key, value in values.items() if key not in large}


def _join(checkpoint: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Put tensors that `_split` took out back."""
    for name, value in tensors.items():
        kind, _, place = name.partition("/")
        if kind == "weights":
            checkpoint["state_dict"][place] = value
        else:
            index, parameter, key = place.split("/")
            checkpoint["optimizer_states"][int(index)]["state"][parameter][key] = value


def _new_folder(path: Path) -> Path:
    """Make a folder for tensors on rank 0, and name it to all ranks.

    It lies in the checkpoint's folder, or in one beside it if a checkpoint of one file is there.
    """
    name: list[Any] = [None]
    if dist.get_rank() == 0:
        parent = path.with_name(f".{path.name}.part") if path.is_file() else path
        parent.mkdir(parents=True, exist_ok=True)
        name = [tempfile.mkdtemp(prefix="tensors-", dir=parent)]
    dist.broadcast_object_list(name)
    return Path(str(name[0]))


def _take_place(folder: Path, path: Path) -> None:
    """Remove the tensors of earlier checkpoints, and what a kill left behind."""
    for other in folder.parent.iterdir():
        if other.is_dir() and other != folder:
            shutil.rmtree(other, ignore_errors=True)
    if folder.parent != path:
        swap(folder.parent, path)


def _stored(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of a folder without their values."""
    try:
        metadata = HuggingFaceStorageReader(str(folder)).read_metadata()
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise _damaged(folder, error) from error
    return {
        name: torch.empty(entry.size, dtype=entry.properties.dtype, device="meta")
        for name, entry in metadata.state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata)
    }


def _fill(tensors: dict[str, Tensor], folder: Path, alone: bool = False) -> None:
    """Read the values of tensors, or of this rank's shards of them; `alone` without other ranks."""
    reader = HuggingFaceStorageReader(str(folder))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            load_tensors(tensors, storage_reader=reader, no_dist=alone)
    except CheckpointException as error:
        raise _damaged(folder, _first_failure(error)) from error


def _first_failure(error: CheckpointException) -> str:
    return str(next(iter(error.failures.values()))[0])


def _damaged(folder: Path, reason: object) -> ModelError:
    return ModelError(
        "cannot read the checkpoint",
        got=str(reason).splitlines()[0],
        where=str(folder),
        fix="Was its writing or copying interrupted?",
    )
