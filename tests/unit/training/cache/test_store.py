"""Cached states: what they are found by, and what a damaged, foreign or full disk does to them."""

from __future__ import annotations

import errno
import json
import os
import pickle
from pathlib import Path

import pytest
import torch

from prm.errors import DataError, OutputError
from prm.records import Chain
from prm.spec import RewardSpec, StepFormat, Template
from prm.training.cache.store import STORE_FILE, StateStore, segment_keys
from prm.trees.identity import add_marker
from prm.trees.packing import pack
from prm.trees.tokenize import TreeBuilder
from prm.trees.tree import Segment, TokenTree
from tests.tiny_models import character_tokenizer

KEYS = (b"a" * 16, b"b" * 16)


def keys_of(*segments: Segment) -> list[bytes]:
    return [key for _, key in segment_keys(TokenTree(segments))]


def store_with(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[StateStore, torch.Tensor]:
    states = torch.randn(5, 4).to(dtype)
    store = StateStore(folder, {"weights": "w"})
    store.add(dict(zip(KEYS, states.split([2, 3]), strict=True)))
    store.open(store.names())
    return store, states


def the_shard(store: StateStore) -> Path:
    (name,) = store.names()
    return store.folder / name


def test_a_key_is_the_tokens_up_to_the_reads() -> None:
    chain = keys_of(Segment((1, 2)), Segment((3, 4), 0, (0, 1)))
    assert chain == keys_of(Segment((1,)), Segment((2, 3, 4), 0, (1, 2)))
    others = (
        keys_of(Segment((1, 2)), Segment((3, 5), 0, (0, 1))),
        keys_of(Segment((9, 2)), Segment((3, 4), 0, (0, 1))),
        keys_of(Segment((1, 2)), Segment((3, 4), 0, (1,))),
        keys_of(Segment((1, 2, 3, 4), -1, (3,))),
    )
    assert len({*chain, *(key for keys in others for key in keys)}) == 1 + len(others) - 1


def test_a_response_has_its_key_beside_any_other() -> None:
    prompt, first, second = Segment((1, 2)), Segment((3,), 0, (0,)), Segment((4,), 0, (0,))
    both = keys_of(prompt, first, second)
    assert both == [*keys_of(prompt, first), *keys_of(prompt, second)]
    assert keys_of(prompt, second, first) == both[::-1]


@pytest.mark.parametrize(
    "spec",
    [
        RewardSpec(template=Template(suffix=" ")),
        RewardSpec(template=Template(prefix="Q: ")),
        RewardSpec(step_format=StepFormat(suffix=" ")),
        RewardSpec(step_format=StepFormat(marker=None)),
    ],
    ids=["suffix", "prefix", "step-suffix", "no-marker"],
)
def test_the_template_is_in_the_key(spec: RewardSpec) -> None:
    chain = Chain("ab", ["c", "de"])
    keys = []
    for one in (RewardSpec(), spec):
        tokenizer = character_tokenizer()
        add_marker(tokenizer, one)
        keys.append(segment_keys(TreeBuilder(tokenizer, one).build(chain).tree))
    assert keys[0] != keys[1]


def test_labels_are_not_in_the_key() -> None:
    tokenizer = character_tokenizer()
    add_marker(tokenizer, RewardSpec())
    builder = TreeBuilder(tokenizer, RewardSpec())
    plain, labeled = Chain("ab", ["c"]), Chain("ab", ["c"], {"clarity": [1]})
    assert segment_keys(builder.build(plain).tree) == segment_keys(builder.build(labeled).tree)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_states_come_back_bit_by_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    store, states = store_with(tmp_path / "s", dtype)
    read = store.read(KEYS[::-1])
    assert read.dtype == dtype
    assert torch.equal(read, torch.cat([states[2:], states[:2]]))
    assert (len(store), KEYS[0] in store, b"c" * 16 in store) == (2, True, False)


def test_another_store_in_the_folder_finds_them(tmp_path: Path) -> None:
    _, states = store_with(tmp_path / "s")
    again = StateStore(tmp_path / "s", {"weights": "w"})
    assert len(again) == 0
    again.open(again.names())
    assert torch.equal(again.read(KEYS), states)


def test_a_worker_process_reopens_the_files(tmp_path: Path) -> None:
    store, states = store_with(tmp_path / "s")
    sent = pickle.dumps(store)
    assert len(sent) < 1000
    assert torch.equal(pickle.loads(sent).read(KEYS), states)


def test_packing_gives_the_reads_in_order(tmp_path: Path) -> None:
    prompt = Segment((1, 2))
    trees = [
        TokenTree((prompt, Segment((3,), 0, (0,)), Segment((4,), 0, (0,)))),
        TokenTree((prompt, Segment((5, 6), 0, (0, 1)))),
    ]
    keys = [key for tree in trees for _, key in segment_keys(tree)]
    states = torch.randn(4, 3)
    store = StateStore(tmp_path / "s", {})
    store.add(dict(zip(keys, states.split([1, 1, 2]), strict=True)))
    store.open(store.names())
    found = store.pack(trees[::-1])
    assert torch.equal(found.states, states[[2, 3, 0, 1]])
    assert found.num_tokens == pack(trees).num_tokens


def change(path: Path, before: bytes) -> None:
    """Flip a bit of the last byte of some content of a file."""
    content = bytearray(path.read_bytes())
    assert content.count(before) == 1
    content[content.index(before) + len(before) - 1] ^= 1
    path.write_bytes(content)


def test_changed_states_are_noticed(tmp_path: Path) -> None:
    store, states = store_with(tmp_path / "s")
    change(the_shard(store), states[4].numpy().tobytes())
    again = StateStore(tmp_path / "s", {})
    again.open(again.names())
    again.read(KEYS[:1])
    with pytest.raises(DataError, match=r"damaged: expected checksum \w{8}, got \w{8}.*Delete"):
        again.read(KEYS)


def test_a_changed_index_is_noticed(tmp_path: Path) -> None:
    store, _ = store_with(tmp_path / "s")
    change(the_shard(store), KEYS[1])
    again = StateStore(tmp_path / "s", {})
    with pytest.raises(DataError, match=r"damaged: expected an index that hashes to \w+, got \w+"):
        again.open(again.names())


@pytest.mark.parametrize("content", [b"", b"no shard at all", None], ids=["empty", "other", "cut"])
def test_a_file_that_is_no_shard_is_refused(tmp_path: Path, content: bytes | None) -> None:
    store, _ = store_with(tmp_path / "s")
    path = the_shard(store)
    path.write_bytes(path.read_bytes()[:-8] if content is None else content)
    again = StateStore(tmp_path / "s", {})
    with pytest.raises(DataError, match="damaged: expected a shard that was written whole"):
        again.open(again.names())


def test_a_store_of_another_format_is_refused(tmp_path: Path) -> None:
    store, _ = store_with(tmp_path / "s")
    path = store.folder / STORE_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    with pytest.raises(DataError, match=r"another format: expected format 1, got format 2.*folder"):
        StateStore(tmp_path / "s", {})


def test_a_full_disk_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = StateStore(tmp_path / "s", {})

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        store.add({KEYS[0]: torch.zeros(1, 4)})
    assert [path.name for path in store.folder.iterdir()] == [STORE_FILE]


def test_what_an_interrupted_write_left_is_no_shard(tmp_path: Path) -> None:
    store, _ = store_with(tmp_path / "s")
    (store.folder / ".x.safetensors.1234.part").write_bytes(b"half")
    assert len(store.names()) == 1
