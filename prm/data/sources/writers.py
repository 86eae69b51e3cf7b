"""Canonical files: one `to_row()` of a record per row, JSON lines or Parquet, whole or not at all.

Chains are read back without loss by `prm.data.formats.hf_stepwise.HFStepwise`, comparisons and
ratings by `prm.data.formats.outcomes.Outcomes`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from prm.atomic import atomic_file
from prm.errors import DataError, OutputError
from prm.records import CORRECTNESS, NAMES, Record

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS_PER_GROUP = 1024


def write_records(records: Iterable[Record], path: Path, *, overwrite: bool = False) -> int:
    """Write records to a JSON lines (`.jsonl`) or Parquet (`.parquet`) file; return their number.

    The file appears when it is complete; if anything fails, what was there before is untouched.

    Raises:
        OutputError: The file exists and `overwrite` is false, its suffix is not known, it cannot
            be written, or it is a Parquet file and the records do not have the same columns.
        DataError: A record cannot be written as JSON, or there is none.
    """
    check_output(path, overwrite=overwrite)
    with atomic_file(path) as stream:
        if path.suffix == ".jsonl":
            return _write_json_lines(records, stream)
        return _write_parquet(records, stream, path)


def check_output(path: Path, *, overwrite: bool = False) -> None:
    """Refuse an output path that `write_records` could not write to, before any work is done.

    Raises:
        OutputError: The file exists and `overwrite` is false, or its suffix is not known.
    """
    if path.suffix not in (".jsonl", ".parquet"):
        raise OutputError(
            "the output's kind is not known",
            expected="a name that ends in .jsonl or .parquet",
            got=path.name,
        )
    if path.exists() and not overwrite:
        raise OutputError("the output exists", got=str(path), fix="Give --overwrite to replace it")


def _write_json_lines(records: Iterable[Record], stream: IO[bytes]) -> int:
    count = 0
    for record in records:
        stream.write(_encoded(record) + b"\n")
        count += 1
    if count == 0:
        raise DataError("there is no record to write")
    return count


def _encoded(record: Record) -> bytes:
    try:
        return json.dumps(record.to_row(), ensure_ascii=False, allow_nan=False).encode("utf-8")
    except (TypeError, ValueError) as error:
        raise DataError(
            f"the {type(record).__name__.lower()} cannot be written as JSON",
            got=str(error),
            where=", ".join(filter(None, (record.origin, f"row {record.id!r}"))),
        ) from error


def _write_parquet(records: Iterable[Record], stream: IO[bytes], path: Path) -> int:
    """Write rows in two passes: a column's type is known only when all rows have been seen."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with tempfile.TemporaryFile(dir=path.parent) as spool:
        count = _write_json_lines(records, spool)
        schema = _schema(_spooled_rows(spool))
        rows = _spooled_rows(spool)
        with pq.ParquetWriter(stream, schema) as writer:
            while group := list(islice(rows, _ROWS_PER_GROUP)):
                columns = [_parquet_row(row, schema) for row in group]
                writer.write_table(pa.Table.from_pylist(columns, schema=schema))
    return count


def _spooled_rows(spool: IO[bytes]) -> Iterator[dict[str, Any]]:
    spool.seek(0)
    return (json.loads(line) for line in spool)


def _schema(rows: Iterable[dict[str, Any]]) -> pa.Schema:
    """Return the columns that hold all rows.

    Raises:
        OutputError: The rows are of different records, or prompts are of different kinds.
    """
    import pyarrow as pa

    columns: dict[str, None] = {}
    keys: dict[str, dict[str, None]] = {"labels": {}, "ratings": {}, "prompt": {}}
    kinds, prompts = set(), set()
    for row in rows:
        columns |= dict.fromkeys(row)
        kinds.add(_kind(row))
        prompts.add(type(row["prompt"]))
        for column, names in keys.items():
            names |= dict.fromkeys(_keys(row.get(column)))
    _refuse_several("records of different types", kinds)
    _refuse_several("text and conversation prompts", prompts)
    types = _types(**{column: list(names) for column, names in keys.items()})
    return pa.schema([(column, types[column]) for column in columns])


def _kind(row: Mapping[str, Any]) -> str:
    if "completions" in row:
        return "chain"
    return "rating" if "response" in row else "comparison"


def _keys(value: Any) -> Iterator[str]:
    """Yield the keys of an object, or of each object of a list; nothing for anything else."""
    if isinstance(value, dict):
        yield from value
    elif isinstance(value, list):
        yield from (key for item in value if isinstance(item, dict) for key in item)


def _refuse_several(what: str, kinds: set[Any]) -> None:
    if len(kinds) > 1:
        raise OutputError(
            f"{what} cannot share a Parquet file", fix="Write JSON lines (.jsonl) instead"
        )


def _types(labels: list[str], ratings: list[str], prompt: list[str]) -> dict[str, pa.DataType]:
    """Return the type of every column that a canonical row can have.

    Args:
        labels: Objectives of the step labels; none if correctness alone is labeled.
        ratings: Objectives of the ratings.
        prompt: Keys of the prompt's messages; none if prompts are text.
    """
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    steps = pa.list_(number)
    objectives = dict.fromkeys([CORRECTNESS, *labels])
    return {
        **dict.fromkeys((*NAMES, "metadata", "objective"), text),
        **dict.fromkeys(("chosen", "rejected", "response"), text),
        **dict.fromkeys(("completions", "responses"), pa.list_(text)),
        "prompt": pa.list_(pa.struct([(key, text) for key in prompt])) if prompt else text,
        "labels": pa.struct([(name, steps) for name in objectives]) if labels else steps,
        "ratings": pa.struct([(name, number) for name in ratings]) if ratings else pa.null(),
        "margin": number,
        "votes": pa.list_(number),
        "ranks": pa.list_(pa.int64()),
    }


def _parquet_row(row: dict[str, Any], schema: pa.Schema) -> dict[str, Any]:
    """Return the row with metadata as JSON text, labels by name where the column holds names."""
    import pyarrow as pa

    columns = {**row, "metadata": json.dumps(row["metadata"], ensure_ascii=False)}
    by_name = "labels" in row and pa.types.is_struct(schema.field("labels").type)
    if by_name and isinstance(row["labels"], list):
        columns["labels"] = {CORRECTNESS: row["labels"]}
    if not row.get("ratings", True):
        columns["ratings"] = None
    return columns
