"""`StateStore`: hidden states at reads on disk, found by the tokens that they were read from.

A store is a folder with `store.json` and shards. A shard is a safetensors file that holds keys,
states and checksums together and appears whole or not at all: whatever interrupts a run, what lies
there can be used. Shards are only added, so runs may share a store.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from prm.atomic import atomic_file, write_text
from prm.errors import DataError
from prm.trees.packing import CachedReads, num_packed_tokens
from prm.trees.tree import TokenTree

FORMAT = 1
"""Version of the folder's layout."""

STORE_FILE = "store.json"
KEY_BYTES = 16


def segment_keys(tree: TokenTree) -> list[tuple[int, bytes]]:
    """Return the index of each segment with reads, and the key of its states.

    A state depends on the tokens from the root to its read, and on nothing else in the tree: a
    response has the same key alone and beside other responses to its prompt.

    Example:
        >>> from prm.trees.tree import Segment
        >>> prompt, first, second = Segment((7, 8)), Segment((1,), 0, (0,)), Segment((2,), 0, (0,))
        >>> alone, both = TokenTree((prompt, second)), TokenTree((prompt, first, second))
        >>> segment_keys(alone)[0][1] == segment_keys(both)[1][1]
        True
    """
    paths: list[Any] = []
    keys = []
    for index, (segment, depth) in enumerate(zip(tree.segments, tree.depths(), strict=True)):
        root = segment.parent < 0
        path = hashlib.blake2b(digest_size=KEY_BYTES) if root else paths[segment.parent].copy()
        path.update(array("q", segment.input_ids))
        paths.append(path)
        if segment.reads:
            key = path.copy()
            key.update(array("q", [*(depth + read for read in segment.reads), len(segment.reads)]))
            keys.append((index, key.digest()))
    return keys


@dataclass(frozen=True, slots=True)
class _Shard:
    """An open shard; its states stay on disk until they are touched.

    Args:
        path: The file.
        states: Shape `[read, hidden]`.
        stops: One past the last read of each entry.
        checksums: CRC-32 of the states of each entry.
    """

    path: Path
    states: Tensor
    stops: array[int]
    checksums: array[int]

    def entry(self, index: int) -> Tensor:
        """Return the states of an entry, which are checked."""
        block = self.states[self.stops[index - 1] if index else 0 : self.stops[index]]
        checksum = _checksum(block)
        if checksum != self.checksums[index]:
            raise _damaged(self.path, f"checksum {self.checksums[index]:08x}", f"{checksum:08x}")
        return block


class StateStore:
    """The hidden states of one backbone.

    Args:
        folder: The folder; it is made if there is none.
        about: What computed the states, for whoever looks into the folder.

    Raises:
        DataError: The folder has another format version, or is damaged.
        OutputError: The folder cannot be written.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self.folder = folder
        self.about = dict(about)
        self._shards: dict[str, _Shard] = {}
        self._places: dict[bytes, tuple[_Shard, int]] = {}
        if (folder / STORE_FILE).exists():
            _check_format(folder / STORE_FILE)
        else:
            text = json.dumps({"format": FORMAT, **self.about}, indent=2)
            write_text(folder / STORE_FILE, text + "\n")

    def __reduce__(self) -> tuple[Any, ...]:
        """Reopen the files in another process instead of copying what is in them."""
        return _reopened, (self.folder, self.about, list(self._shards))

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: bytes) -> bool:
        return key in self._places

    def names(self) -> list[str]:
        """Return the names of the shards on disk, those included that are not open."""
        return sorted(path.name for path in self.folder.glob("*.safetensors"))

    def open(self, names: Iterable[str]) -> None:
        """Open shards that are not open yet.

        Raises:
            DataError: One is damaged.
        """
        for name in names:
            if name in self._shards:
                continue
            keys, shard = _open(self.folder / name)
            self._shards[name] = shard
            for index, key in enumerate(keys):
                self._places.setdefault(key, (shard, index))

    def add(self, blocks: Mapping[bytes, Tensor]) -> None:
        """Write a shard, which is found once it is opened.

        Args:
            blocks: Key to the states of its reads, each of shape `[read, hidden]`.

        Raises:
            OutputError: It cannot be written (no permission, disk full).
        """
        keys = b"".join(blocks)
        content = {
            "keys": torch.frombuffer(bytearray(keys), dtype=torch.uint8),
            "sizes": torch.tensor([len(block) for block in blocks.values()]),
            "checksums": torch.tensor([_checksum(block) for block in blocks.values()]),
            "states": torch.cat(list(blocks.values())),
        }
        with atomic_file(self.folder / f"{_name(content)}.safetensors") as stream:
            stream.write(save(content))

    def read(self, keys: Sequence[bytes]) -> Tensor:
        """Return the states of these keys one after the other, `[read, hidden]`.

        Raises:
            DataError: They are not what was written.
        """
        places = [self._places[key] for key in keys]
        return torch.cat([shard.entry(index) for shard, index in places])

    def pack(self, trees: Sequence[TokenTree]) -> CachedReads:
        """Return the states of all reads of some trees, in the order of `PackedTrees.reads`."""
        keys = [key for tree in trees for _, key in segment_keys(tree)]
        return CachedReads(self.read(keys), num_packed_tokens(trees))


def _reopened(folder: Path, about: Mapping[str, Any], names: Sequence[str]) -> StateStore:
    store = StateStore(folder, about)
    store.open(names)
    return store


def _open(path: Path) -> tuple[list[bytes], _Shard]:
    try:
        with safe_open(path, framework="pt") as file:
            content = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        keys = content["keys"].numpy().tobytes()
        stops = array("q", content["sizes"].cumsum(0).tolist())
        checksums = array("q", content["checksums"].tolist())
        shard = _Shard(path, content["states"], stops, checksums)
        named = _name(content)
    except (SafetensorError, KeyError) as error:
        raise _damaged(path, "a shard that was written whole", str(error)) from error
    if named != path.stem:
        raise _damaged(path, f"an index that hashes to {path.stem}", named)
    return [keys[at : at + KEY_BYTES] for at in range(0, len(keys), KEY_BYTES)], shard


def _name(content: Mapping[str, Tensor]) -> str:
    """Return a digest of a shard's index: its keys, and the sizes and checksums of their states."""
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    for name in ("keys", "sizes", "checksums"):
        digest.update(content[name].numpy().data)
    return digest.hexdigest()


def _checksum(block: Tensor) -> int:
    return zlib.crc32(block.view(torch.uint8).numpy().data)


def _check_format(path: Path) -> None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, f"format {FORMAT}", str(error)) from error
    if found != FORMAT:
        raise DataError(
            "cached states are in another format",
            expected=f"format {FORMAT}",
            got=f"format {found}",
            where=str(path),
            fix="Name another folder, or delete this one: states are computed again",
        )


def _damaged(path: Path, expected: str, got: str) -> DataError:
    return DataError(
        "cached states are damaged",
        expected=expected,
        got=got,
        where=str(path),
        fix="Delete the file: what it held is computed again",
    )
