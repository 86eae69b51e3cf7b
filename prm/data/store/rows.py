"""Rows of a record store: units as JSON, items as columns of numbers, both in Arrow files.

An Arrow file is read memory-mapped: the operating system brings in the pages that are looked at,
and drops them again when memory is short. Reading one runs no code from it.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prm.atomic import atomic_file
from prm.data.items import DIGEST, Fact, LabeledItem, digest_of
from prm.records import Chain, Comparison, Rating, Record
from prm.trees.prompts import DroppedRecord
from prm.trees.tokenize import TokenizedChain, TokenizedResponses
from prm.trees.tree import TokenTree
from prm.trees.units import Unit, unit_of

if TYPE_CHECKING:
    import pyarrow as pa

SHARD = 8192
"""Units in a file; the last one may have fewer."""

_KINDS: dict[str, type[Record]] = {kind.__name__: kind for kind in (Chain, Comparison, Rating)}
_FIELDS = {name: [field.name for field in fields(kind)] for name, kind in _KINDS.items()}

_LISTS = ("input_ids", "segments", "reads", "places", "truncated")
_NUMBERS = ("num_tokens", "num_truncated", "num_unusable", "num_prompt_cut")


def unit_text(unit: Unit) -> str:
    """Return a unit as JSON, from which `unit_from_text` makes an equal one.

    Metadata that JSON does not know (a date in a Parquet file) becomes text.
    """
    rows = [{"kind": type(record).__name__, **_values(record)} for record in unit.records]
    return json.dumps(rows, ensure_ascii=False, separators=(",", ":"), default=str)


def _values(record: Record) -> dict[str, Any]:
    return {name: getattr(record, name) for name in _FIELDS[type(record).__name__]}


def unit_from_text(text: str) -> Unit:
    """Return the unit that `unit_text` wrote."""
    records: list[Any] = [_KINDS[row.pop("kind")](**row) for row in json.loads(text)]
    return unit_of(records)


def write_units(path: Path, units: Iterable[Unit]) -> None:
    """Write a file of units."""
    import pyarrow as pa

    texts, groups = [], []
    for unit in units:
        texts.append(unit_text(unit))
        groups.append(unit.group)
    columns = {"unit": texts, "group": groups}
    _write(path, {name: pa.array(column, pa.large_string()) for name, column in columns.items()})


def write_items(path: Path, items: Iterable[LabeledItem | DroppedRecord]) -> None:
    """Write a file of items, with a reason in the place of each one that is left out."""
    rows = _ItemRows()
    for item in items:
        rows.add(item)
    _write(path, rows.columns())


def _write(path: Path, columns: dict[str, pa.Array]) -> None:
    """Write one batch of rows, an empty one too."""
    import pyarrow as pa

    batch = pa.record_batch(columns)
    with atomic_file(path) as stream, pa.ipc.new_file(stream, batch.schema) as writer:
        writer.write_batch(batch)


class _ItemRows:
    """Collects items as columns."""

    def __init__(self) -> None:
        self.lists = {name: (array("i"), array("q", [0])) for name in _LISTS}
        self.numbers = {name: array("i") for name in _NUMBERS}
        self.dropped: list[str | None] = []
        self.reasons: list[list[str]] = []
        self.facts: list[str] = []
        self.digests: list[bytes] = []

    def add(self, item: LabeledItem | DroppedRecord) -> None:
        if isinstance(item, DroppedRecord):
            self._add({}, [0] * len(_NUMBERS))
            self.dropped.append(str(item))
            self.reasons.append([])
            self.facts.append("")
            self.digests.append(bytes(DIGEST))
            return
        tokens = item.tokens
        self._add(
            _tree_lists(item.tree) | _place_lists(tokens),
            [item.tree.num_tokens, item.num_truncated, item.num_unusable, tokens.num_prompt_cut],
        )
        self.dropped.append(None)
        self.reasons.append(list(tokens.reasons))
        self.facts.append(_fact_text(Fact.of(item)))
        self.digests.append(digest_of(item))

    def _add(self, lists: dict[str, Sequence[int]], numbers: Sequence[int]) -> None:
        for name, (values, offsets) in self.lists.items():
            values.extend(lists.get(name, ()))
            offsets.append(len(values))
        for column, number in zip(self.numbers.values(), numbers, strict=True):
            column.append(number)

    def columns(self) -> dict[str, pa.Array]:
        import pyarrow as pa

        lists = {
            name: pa.LargeListArray.from_arrays(np.asarray(offsets), np.asarray(values))
            for name, (values, offsets) in self.lists.items()
        }
        numbers = {name: pa.array(np.asarray(values)) for name, values in self.numbers.items()}
        others = {
            "dropped": pa.array(self.dropped, pa.string()),
            "reasons": pa.array(self.reasons, pa.list_(pa.string())),
            "facts": pa.array(self.facts, pa.string()),
            "digest": pa.array(self.digests, pa.binary(DIGEST)),
        }
        return lists | numbers | others


@lru_cache(maxsize=1024)
def _fact_text(fact: Fact) -> str:
    return json.dumps([fact.source, sorted(fact.supervised), fact.is_chain])


def _tree_lists(tree: TokenTree) -> dict[str, Sequence[int]]:
    return {
        "input_ids": [token for segment in tree.segments for token in segment.input_ids],
        "segments": [
            number
            for segment in tree.segments
            for number in (segment.parent, len(segment.input_ids), len(segment.reads))
        ],
        "reads": [read for segment in tree.segments for read in segment.reads],
    }


def _place_lists(tokens: TokenizedChain | TokenizedResponses) -> dict[str, Sequence[int]]:
    """Return the step of each read, or the branch of each response (-1 if it was left out)."""
    if isinstance(tokens, TokenizedChain):
        return {"places": tokens.steps}
    branches = [-1 if branch is None else branch for branch in tokens.branches]
    return {"places": branches, "truncated": tokens.truncated}
