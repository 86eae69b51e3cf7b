"""Folders of shards: written and replaced whole, read without running code, damage is named."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from prm.errors import ModelError, OutputError
from prm.training.checkpoints import sharded, snapshot
from prm.training.checkpoints.run_files import AtomicCheckpointIO
from prm.training.checkpoints.sharded import by_index, by_name

GROUPS = [{"lr": 0.1, "params": ["b"]}, {"lr": 0.2, "params": ["a"]}]


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """A process group of one gloo rank."""
    store = f"file://{tmp_path / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def state(value: float) -> dict[str, Any]:
    """Return the checkpoint of a step, with a vector, a matrix and a number of weights."""
    weights = {"a": torch.full((2, 3), value), "b": torch.full((5,), value)}
    moments = {
        name: {"step": torch.tensor(3.0), "m": weight * 2} for name, weight in weights.items()
    }
    return {
        "state_dict": weights | {"c": torch.tensor(value)},
        "optimizer_states": [{"state": moments, "param_groups": GROUPS}],
        "global_step": int(value),
        "prm": {},
    }


def write(path: Path, value: float = 7.0) -> Path:
    sharded.write(state(value), path)
    return path


def test_a_folder_reads_as_what_one_rank_writes(group: None, tmp_path: Path) -> None:
    read = snapshot.read(write(tmp_path / "last.ckpt"))
    expected = state(7.0)
    expected["optimizer_states"] = [by_index(expected["optimizer_states"][0])]
    torch.testing.assert_close(read, expected, rtol=0, atol=0)
    assert snapshot.head(tmp_path / "last.ckpt")["global_step"] == 7


def test_a_checkpoint_takes_the_place_of_the_one_before(group: None, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    for value in (1.0, 2.0):
        write(path, value)
    assert snapshot.read(path)["global_step"] == 2
    assert len([folder for folder in path.iterdir() if folder.is_dir()]) == 1


def test_a_failure_leaves_the_one_before(
    group: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "last.ckpt", 1.0)

    def fail(*args: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(sharded.HuggingFaceStorageWriter, "write_data", fail)
    with pytest.raises(OutputError, match="disk full"):
        write(path, 2.0)
    assert snapshot.read(path)["state_dict"]["a"].eq(1).all()


@pytest.mark.parametrize("sharded_first", [False, True])
def test_a_run_may_change_the_kind(group: None, tmp_path: Path, sharded_first: bool) -> None:
    """A file takes the place of a folder, and a folder that of a file."""
    path = tmp_path / "last.ckpt"
    kinds = [write, lambda path, value: AtomicCheckpointIO().save_checkpoint(state(value), path)]
    for value, kind in enumerate(kinds if sharded_first else reversed(kinds)):
        kind(path, float(value))
    assert path.is_dir() != sharded_first
    assert snapshot.read(path)["global_step"] == 1
    assert [entry.name for entry in tmp_path.iterdir() if entry.name != "store"] == [path.name]


def test_code_in_a_checkpoint_is_not_run(group: None, tmp_path: Path) -> None:
    path = write(tmp_path / "last.ckpt")
    torch.save({"prm": pickle.Pickler}, path / "meta.pt")
    for reader in (snapshot.read, snapshot.head):
        with pytest.raises(ModelError, match="whose loading runs code"):
            reader(path)


def test_damage_is_named(group: None, tmp_path: Path) -> None:
    path = write(tmp_path / "last.ckpt")
    (shard,) = path.glob("*/*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-8])
    with pytest.raises(ModelError, match="cannot read the checkpoint"):
        snapshot.read(path)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a checkpoint of prm"):
        snapshot.read(tmp_path)


def test_optimizer_states_of_other_parameters_are_refused() -> None:
    stored = by_index({"state": {"a": 1, "b": 2}, "param_groups": GROUPS})
    assert by_name(stored, GROUPS) == {"state": {"a": 1, "b": 2}, "param_groups": GROUPS}
    with pytest.raises(ModelError, match="optimizer does not fit"):
        by_name(stored, [{"params": ["a", "b"]}])
