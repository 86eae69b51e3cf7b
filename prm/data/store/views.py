"""Units and items of a record store, as sequences that decode what is asked for.

A view holds an index and a few numbers per item in memory. It is pickled as the names of its files,
which every process opens for itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from prm.data.groups import Block, joined_groups
from prm.data.items import DIGEST, Fact, Facts, LabeledChain, LabeledItem, item_of
from prm.data.store.rows import unit_from_text
from prm.errors import DataError
from prm.records import Chain
from prm.trees.tokenize import TokenizedChain, TokenizedResponses
from prm.trees.tree import Segment, TokenTree
from prm.trees.units import Unit

if TYPE_CHECKING:
    import pyarrow as pa

GROUPS = "groups.npy"
"""File of the number of each unit's problem, as of `problem_groups`."""

SHARD = 8192
"""Units in a file, if nothing else is said; the last file may have fewer."""

Value = TypeVar("Value", covariant=True)
Rows = NDArray[np.int64]


class Shards:
    """The rows of some Arrow files.

    Args:
        paths: The files, in order.
        size: Rows in each file but the last.
    """

    def __init__(self, paths: Sequence[Path], size: int = SHARD) -> None:
        self.paths = list(paths)
        self.size = size
        self._shards: dict[int, _Shard] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_shards": {}}

    def column(self, name: str) -> pa.ChunkedArray:
        """Return a column of all files."""
        import pyarrow as pa

        shards = map(self._shard, range(len(self.paths)))
        return pa.chunked_array([shard.table.column(name).chunk(0) for shard in shards])

    def units(self) -> list[Unit]:
        """Return the units of all files."""
        return [unit_from_text(text) for text in self.column("unit").to_pylist()]

    def unit(self, row: int) -> Unit:
        """Return the unit in a row."""
        shard, offset = self.find(row)
        return unit_from_text(shard.value("unit", offset))

    def find(self, row: int) -> tuple[_Shard, int]:
        """Return the file that a row is in, and its index there."""
        index, offset = divmod(row, self.size)
        return self._shard(index), offset

    def _shard(self, index: int) -> _Shard:
        if index not in self._shards:
            self._shards[index] = _Shard(self.paths[index])
        return self._shards[index]


class _Shard:
    """One memory-mapped file.

    Raises:
        DataError: It is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        try:
            with pa.memory_map(str(path)) as file:
                self.table: pa.Table = pa.ipc.open_file(file).read_all()
        except (pa.ArrowException, OSError) as error:
            raise damaged(path, error) from error
        self._lists: dict[str, tuple[NDArray[np.int64], NDArray[np.int32]]] = {}

    def value(self, name: str, row: int) -> Any:
        """Return a text, a number or a list of texts."""
        return self.table.column(name)[row].as_py()

    def list(self, name: str, row: int) -> list[int]:
        """Return a list of numbers."""
        if name not in self._lists:
            chunk = self.table.column(name).chunk(0)
            self._lists[name] = (chunk.offsets.to_numpy(), chunk.values.to_numpy())
        offsets, values = self._lists[name]
        numbers: list[int] = values[offsets[row] : offsets[row + 1]].tolist()
        return numbers


def damaged(path: Path, what: object) -> DataError:
    """Return the error that a file of a store cannot be used."""
    return DataError(
        "the record store is damaged",
        got=str(what).splitlines()[0],
        where=str(path),
        fix="Delete its folder; the next run builds it anew",
    )


@dataclass(frozen=True, eq=False)
class _View(Sequence[Value], Generic[Value]):
    """Some rows of a store.

    Args:
        rows: The rows in the files, in order.
    """

    rows: Rows

    def take(self, places: NDArray[np.integer[Any]]) -> Self:
        """Return the view of some of these rows."""
        return replace(self, rows=self.rows[places])

    def _decode(self, row: int) -> Value:
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Value: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Value]: ...

    def __getitem__(self, index: int | slice) -> Value | Sequence[Value]:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        return self._decode(int(self.rows[index]))

    def __iter__(self) -> Iterator[Value]:
        return map(self._decode, map(int, self.rows))


@dataclass(frozen=True, eq=False)
class StoredUnits(_View[Unit]):
    """Units of a store.

    Args:
        rows: The rows in the files, in order.
        shards: The files of units.
        folder: Where the store keeps what belongs to these units.
    """

    shards: Shards
    folder: Path

    @property
    def groups(self) -> NDArray[np.int32]:
        """Number of each unit's problem, among those of the store."""
        numbers: NDArray[np.int32] = np.load(self.folder / GROUPS, allow_pickle=False)
        return numbers[self.rows]

    def _decode(self, row: int) -> Unit:
        return self.shards.unit(row)


@dataclass(frozen=True, eq=False)
class StoredItems(_View[LabeledItem]):
    """Items of a store.

    Args:
        rows: The rows in the files, in order.
        units: The files of the units that they belong to.
        shards: The files of items, row by row those of the units.
    """

    units: Shards
    shards: Shards

    def _decode(self, row: int) -> LabeledItem:
        unit = self.units.unit(row)
        shard, offset = self.shards.find(row)
        tree, places = _tree(shard, offset), shard.list("places", offset)
        num_cut = shard.value("num_prompt_cut", offset)
        if isinstance(unit, Chain):
            num_truncated = shard.value("num_truncated", offset)
            return LabeledChain(unit, TokenizedChain(tree, tuple(places), num_truncated, num_cut))
        tokens = TokenizedResponses(
            tree,
            tuple(None if place < 0 else place for place in places),
            tuple(map(bool, shard.list("truncated", offset))),
            tuple(shard.value("reasons", offset)),
            num_cut,
        )
        return item_of(unit, tokens)


@dataclass(frozen=True, eq=False)
class Dropped(_View[tuple[Unit, str]]):
    """Units of a store that have no item, each with the reason; arguments as of `StoredItems`."""

    units: Shards
    shards: Shards

    def _decode(self, row: int) -> tuple[Unit, str]:
        shard, offset = self.shards.find(row)
        return self.units.unit(row), shard.value("dropped", offset)


def _tree(shard: _Shard, row: int) -> TokenTree:
    ids, reads = shard.list("input_ids", row), shard.list("reads", row)
    sizes = shard.list("segments", row)
    segments, first_id, first_read = [], 0, 0
    for parent, num_ids, num_reads in zip(sizes[::3], sizes[1::3], sizes[2::3], strict=True):
        last_id, last_read = first_id + num_ids, first_read + num_reads
        segments.append(
            Segment(tuple(ids[first_id:last_id]), parent, tuple(reads[first_read:last_read]))
        )
        first_id, first_read = last_id, last_read
    return TokenTree(tuple(segments))


def stored_groups(shards: Shards) -> NDArray[np.int32]:
    """Return the number of each unit's problem, as `problem_groups` numbers those of a list."""
    import pyarrow.compute as pc

    groups = shards.column("group").dictionary_encode().combine_chunks()
    order = pc.array_sort_indices(groups.dictionary).to_numpy()  # by bytes, and so by characters
    ranks = np.empty(len(order), np.int32)
    ranks[order] = np.arange(len(order), dtype=np.int32)
    own: NDArray[np.int32] = ranks[groups.indices.to_numpy()]
    return joined_groups(own, lambda: map(_problems, shards.column("problem").chunks))


def _problems(column: pa.DictionaryArray) -> Block:
    return column.dictionary.to_pylist(), column.indices.to_numpy()


def read_facts(shards: Shards) -> tuple[Facts, NDArray[np.bool_]]:
    """Return the facts of all items, and which are left out."""
    numbers = {
        name: shards.column(name).to_numpy()
        for name in ("num_tokens", "num_truncated", "num_unusable")
    }
    digests = [
        np.frombuffer(chunk.buffers()[1], np.uint8, DIGEST * len(chunk))
        for chunk in shards.column("digest").chunks
    ]
    kinds = shards.column("facts").dictionary_encode().combine_chunks()
    dropped: NDArray[np.bool_] = shards.column("dropped").is_valid().to_numpy()
    facts = Facts(
        **numbers,
        kinds=kinds.indices.to_numpy(),
        digests=np.concatenate(digests).reshape(-1, DIGEST),
        known=tuple(map(_fact, kinds.dictionary.to_pylist())),
    )
    return facts, dropped


def _fact(text: str) -> Fact:
    source, supervised, is_chain = json.loads(text or '["", [], false]')
    return Fact(source, frozenset(supervised), is_chain)
