"""`RecordStore`: records on the disk that were read, checked and tokenized once.

```
store/UNITS/units.json          what the units were made from, and how many there are
store/UNITS/units/00000.arrow   the units, some thousands in a file
store/UNITS/groups.npy          the number of each unit's problem, by which splits go
store/UNITS/ITEMS/items.json    what the items were made with
store/UNITS/ITEMS/00000.arrow   the items of the same units
```
`UNITS` and `ITEMS` are digests of what decides the content, so that changed data, another tokenizer
or another format never meet an old file. A folder without its JSON file is unfinished.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from numpy.typing import NDArray

import prm
from prm.atomic import atomic_file, write_text
from prm.data.items import Facts, Reading, labeled
from prm.data.splits import split_by_rank
from prm.data.store.rows import write_items, write_units
from prm.data.store.views import (
    GROUPS,
    SHARD,
    Dropped,
    Shards,
    StoredItems,
    StoredUnits,
    damaged,
    read_facts,
    stored_groups,
)
from prm.errors import OutputError
from prm.locks import lock
from prm.trees.tokenize import TreeBuilder
from prm.trees.units import Unit

_READ_BY = (
    "template",
    "step_format",
    "response_format",
    "max_length",
    "on_too_long",
    "on_long_prompt",
    "tokenizer",
)
"""Fields of a spec that decide how text becomes tokens."""


_LAYOUT = {"splits by": "problem"}
"""What a store of before does not have in common with one of now."""


@dataclass(frozen=True)
class RecordStore:
    """Keeps units and items in a folder; builds what is not there.

    Several processes may ask for the same: one builds, the others wait. A build that was killed is
    continued: files of items that are finished are kept.

    Args:
        folder: Where to.
        num_workers: Processes that tokenize; 0 tokenizes in this process.
        say: Takes a line about what was built.
    """

    folder: Path
    num_workers: int
    say: Callable[[str], None]
    shard: int = SHARD

    def units(self, reading: Reading) -> StoredUnits:
        """Return the units of a reading, read if they are not stored.

        Raises:
            DataError: A row is wrong, or the store is damaged.
            OutputError: The store cannot be written.
        """
        settings = {"units": reading.identity(), "version of prm": prm.__version__, **_LAYOUT}
        folder = self.folder / _digest(settings)
        done = folder / "units.json"
        with _alone(folder):
            if not done.exists():
                _finish(done, settings, self._read(folder, iter(reading)))
        num_units = _num_units(done)
        return StoredUnits(np.arange(num_units), self._shards(folder / "units", num_units), folder)

    def split(
        self, units: StoredUnits, shares: dict[str, float], seed: int
    ) -> dict[str, StoredUnits]:
        """Split units by problem, as `split_by_group` splits a list of them."""
        places = split_by_rank(units.groups, shares, seed)
        return {part: units.take(chosen) for part, chosen in places.items()}

    def take(self, view: StoredItems, places: NDArray[np.int64]) -> StoredItems:
        """Return some of the items, in the order of `places`."""
        return view.take(places)

    def items(self, units: StoredUnits, builder: TreeBuilder) -> tuple[StoredItems, Facts, Dropped]:
        """Return the items of units, tokenized if they are not stored, and the units without one.

        Raises:
            DataError: A record does not fit and the spec says to stop, or the store is damaged.
            OutputError: The store cannot be written.
        """
        spec = builder.spec.to_dict()
        settings = {name: spec[name] for name in _READ_BY}
        folder = units.folder / _digest(settings)
        done = folder / "items.json"
        num_units = _num_units(units.folder / "units.json")
        shards = self._shards(folder, num_units)
        with _alone(folder):
            if not done.exists():
                self._tokenize(units.shards.paths, shards.paths, num_units, builder)
                _finish(done, settings, num_units)
        facts, dropped = read_facts(shards)
        if len(facts) != num_units:
            raise damaged(folder, f"{len(facts)} of {num_units} items")
        kept, lost = (np.flatnonzero(chosen[units.rows]) for chosen in (~dropped, dropped))
        items = StoredItems(units.rows[kept], units.shards, shards)
        return items, facts.take(items.rows), Dropped(units.rows[lost], units.shards, shards)

    def _read(self, folder: Path, units: Iterator[Unit]) -> int:
        """Write units, and what splits need to know of them; return their number."""
        num_units = 0
        with _bar("reading", None) as advance:
            for index, block in enumerate(self._blocks(units)):
                write_units(_shard(folder / "units", index), block)
                num_units += len(block)
                advance(len(block))
        groups = stored_groups(self._shards(folder / "units", num_units))
        with atomic_file(folder / GROUPS) as stream:
            np.save(stream, groups, allow_pickle=False)
        self.say(f"{folder}: {num_units:,} records read")
        return num_units

    def _tokenize(
        self, units: list[Path], items: list[Path], num_units: int, builder: TreeBuilder
    ) -> None:
        """Write the files of items that are not there."""
        missing = [pair for pair in zip(units, items, strict=True) if not pair[1].exists()]
        num_workers = min(self.num_workers, len(missing))
        with _bar("tokenizing", min(num_units, self.shard * len(missing))) as advance:
            for num_items in _tokenized(builder, missing, num_workers):
                advance(num_items)
        self.say(f"{units[0].parents[1]}: {num_units:,} records tokenized")

    def _blocks(self, units: Iterator[Unit]) -> Iterator[list[Unit]]:
        """Yield the units of each file; the first file may have none."""
        block = list(islice(units, self.shard))
        yield block
        while block := list(islice(units, self.shard)):
            yield block

    def _shards(self, folder: Path, num_units: int) -> Shards:
        num_files = max(1, -(-num_units // self.shard))
        return Shards([_shard(folder, index) for index in range(num_files)], self.shard)


def _tokenized(
    builder: TreeBuilder, files: list[tuple[Path, Path]], num_workers: int
) -> Iterator[int]:
    """Tokenize files of units into files of items; yield the number of each when it is done."""
    if num_workers < 2:
        for pair in files:
            yield _tokenize_file(builder, *pair)
        return
    with ProcessPoolExecutor(
        num_workers,
        get_context("spawn"),  # a fork would inherit the threads of torch and of the tokenizer
        initializer=_start_worker,
        initargs=(builder,),
    ) as workers:
        yield from workers.map(_tokenize_in_worker, files)


def _tokenize_file(builder: TreeBuilder, source: Path, target: Path) -> int:
    units = Shards([source]).units()
    write_items(target, labeled(builder, units))
    return len(units)


_in_worker: TreeBuilder


def _start_worker(builder: TreeBuilder) -> None:
    global _in_worker
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the workers are what runs in parallel
    _in_worker = builder
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when its parent was killed, which tells nobody."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _tokenize_in_worker(files: tuple[Path, Path]) -> int:
    return _tokenize_file(_in_worker, *files)


def _shard(folder: Path, index: int) -> Path:
    return folder / f"{index:05d}.arrow"


def _digest(settings: Any) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _finish(path: Path, settings: Mapping[str, Any], num_units: int) -> None:
    write_text(path, json.dumps({**settings, "num_units": num_units}, indent=2) + "\n")


def _num_units(path: Path) -> int:
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["num_units"])
    except (OSError, ValueError, KeyError) as error:
        raise damaged(path, error) from error


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process builds this folder, and let none do it meanwhile."""
    path = folder / "lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = path.open("wb")
    except OSError as error:
        raise OutputError("cannot write", got=error.strerror, where=str(folder)) from error
    with stream:
        lock(stream, path, wait=True)
        yield


@contextmanager
def _bar(verb: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show how many records are done, and how many per second."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    speed = TextColumn("{task.fields[speed]}")
    columns = (TextColumn(verb), BarColumn(), MofNCompleteColumn(), speed)
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(verb, total=total, speed="")

        def advance(count: int) -> None:
            progress.advance(task, count)
            shown = progress.tasks[0]
            rate = shown.completed / (shown.elapsed or 1e-9)
            progress.update(task, speed=f"{rate:,.0f} records/s")

        yield advance
