"""Rows of a record store: units as JSON, items as columns of numbers, both in Arrow files.

An Arrow file is read memory-mapped: the operating system brings in the pages that are looked at,
and drops them again when memory is short. Reading one runs no code from it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import fields
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prm.atomic import atomic_file
from prm.data.groups import joining_text
from prm.data.items import DIGEST, Fact, LabeledItem, digest_of
from prm.records import Chain, Comparison, Rating, Record
from prm.trees.prompts import DroppedRecord
from prm.trees.tokenize import TokenizedChain, TokenizedResponses
from prm.trees.units import Unit, unit_of

if TYPE_CHECKING:
    import pyarrow as pa

_KINDS: dict[str, type[Record]] = {kind.__name__: kind for kind in (Chain, Comparison, Rating)}
_FIELDS = {name: [field.name for field in fields(kind)] for name, kind in _KINDS.items()}

_LISTS = ("input_ids", "segments", "reads", "places", "truncated")
_BLOCK = 512
"""Items that are held as Python objects at a time; as columns they are many times smaller."""

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

    texts, groups, problems = [], [], []
    for unit in units:
        texts.append(unit_text(unit))
        groups.append(unit.group)
        problems.append(joining_text(unit.records[0]))
    columns = {"unit": texts, "group": groups, "problem": problems}
    arrays = {name: pa.array(column, pa.large_string()) for name, column in columns.items()}
    _write(path, arrays | {"problem": arrays["problem"].dictionary_encode()})


def write_items(path: Path, items: Iterable[LabeledItem | DroppedRecord]) -> None:
    """Write a file of items, with a reason in the place of each one that is left out."""
    import pyarrow as pa

    text, number = pa.string(), pa.int32()
    types = dict.fromkeys(_LISTS, pa.large_list(number)) | dict.fromkeys(_NUMBERS, number)
    types |= {"dropped": text, "reasons": pa.list_(text), "facts": text}
    schema = pa.schema({**types, "digest": pa.binary(DIGEST)})
    rows, batches = map(_item_row, items), []
    while block := list(islice(rows, _BLOCK)):
        batches.append(pa.RecordBatch.from_pylist(block, schema))
    table = pa.Table.from_batches(batches, schema)
    _write(path, {name: table.column(name).combine_chunks() for name in schema.names})


def _write(path: Path, columns: dict[str, pa.Array]) -> None:
    """Write one batch of rows, an empty one too."""
    import pyarrow as pa

    batch = pa.record_batch(columns)
    with atomic_file(path) as stream, pa.ipc.new_file(stream, batch.schema) as writer:
        writer.write_batch(batch)


def _item_row(item: LabeledItem | DroppedRecord) -> dict[str, Any]:
    if isinstance(item, DroppedRecord):
        nothing = dict.fromkeys(_LISTS, ()) | dict.fromkeys(_NUMBERS, 0)
        return nothing | {"dropped": str(item), "reasons": (), "facts": "", "digest": bytes(DIGEST)}
    tokens, segments = item.tokens, item.tree.segments
    sizes = [(one.parent, len(one.input_ids), len(one.reads)) for one in segments]
    return {
        "input_ids": [token for segment in segments for token in segment.input_ids],
        "segments": [number for numbers in sizes for number in numbers],
        "reads": [read for segment in segments for read in segment.reads],
        "num_tokens": item.tree.num_tokens,
        "num_truncated": item.num_truncated,
        "num_unusable": item.num_unusable,
        "num_prompt_cut": tokens.num_prompt_cut,
        "reasons": tokens.reasons,
        "facts": _fact_text(Fact.of(item)),
        "digest": digest_of(item),
        **_place_lists(tokens),
    }


@lru_cache(maxsize=1024)
def _fact_text(fact: Fact) -> str:
    return json.dumps([fact.source, sorted(fact.supervised), fact.is_chain])


def _place_lists(tokens: TokenizedChain | TokenizedResponses) -> dict[str, Sequence[int]]:
    """Return the step of each read, or the branch of each response (-1 if it was left out)."""
    if isinstance(tokens, TokenizedChain):
        return {"places": tokens.steps, "truncated": ()}
    branches = [-1 if branch is None else branch for branch in tokens.branches]
    return {"places": branches, "truncated": [int(cut) for cut in tokens.truncated]}
