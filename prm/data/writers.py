"""Canonical files: one `Chain.to_row()` per row, JSON lines or Parquet, whole or not at all.

`prm.data.formats.hf_stepwise.HFStepwise` reads them back without loss.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from prm.atomic import atomic_file
from prm.errors import DataError, OutputError
from prm.records import Chain

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS_PER_GROUP = 1024


def write_chains(chains: Iterable[Chain], path: Path, *, overwrite: bool = False) -> int:
    """Write chains to a JSON lines (`.jsonl`) or Parquet (`.parquet`) file and return their number.

    The file appears when it is complete; if anything fails, what was there before is untouched.

    Raises:
        OutputError: The file exists and `overwrite` is false, its suffix is not known, or it
            cannot be written.
        DataError: A chain cannot be written as JSON, or there is none.
    """
    check_output(path, overwrite=overwrite)
    with atomic_file(path) as stream:
        if path.suffix == ".jsonl":
            return _write_json_lines(chains, stream)
        return _write_parquet(chains, stream, path)


def check_output(path: Path, *, overwrite: bool = False) -> None:
    """Refuse an output path that `write_chains` could not write to, before any work is done.

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


def _write_json_lines(chains: Iterable[Chain], stream: IO[bytes]) -> int:
    count = 0
    for chain in chains:
        stream.write(_encoded(chain.to_row(), chain) + b"\n")
        count += 1
    _refuse_none(count)
    return count


def _write_parquet(chains: Iterable[Chain], stream: IO[bytes], path: Path) -> int:
    """Write rows in two passes: a column's type is known only when all rows have been seen."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with tempfile.TemporaryFile(dir=path.parent) as spool:
        count = _write_json_lines(chains, spool)
        objectives, message_keys = _column_names(_spooled_rows(spool))
        schema = _schema(objectives, message_keys)
        rows = _spooled_rows(spool)
        with pq.ParquetWriter(stream, schema) as writer:
            while group := list(islice(rows, _ROWS_PER_GROUP)):
                columns = [_parquet_row(row, objectives) for row in group]
                writer.write_table(pa.Table.from_pylist(columns, schema=schema))
    return count


def _spooled_rows(spool: IO[bytes]) -> Iterator[dict[str, Any]]:
    spool.seek(0)
    return (json.loads(line) for line in spool)


def _column_names(rows: Iterable[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """Return the objectives beyond a plain list of labels, and the keys of prompt messages."""
    objectives: dict[str, None] = {}
    message_keys: dict[str, None] = {}
    kinds = set()
    for row in rows:
        if isinstance(row["labels"], dict):
            objectives |= dict.fromkeys(row["labels"])
        kinds.add(type(row["prompt"]))
        if isinstance(row["prompt"], list):
            message_keys |= dict.fromkeys(key for message in row["prompt"] for key in message)
    if len(kinds) > 1:
        raise OutputError(
            "text and conversation prompts cannot share a Parquet column",
            fix="Write JSON lines (.jsonl) instead",
        )
    return list(objectives), list(message_keys)


def _schema(objectives: list[str], message_keys: list[str]) -> pa.Schema:
    import pyarrow as pa

    label_list = pa.list_(pa.float64())
    names = dict.fromkeys(["correctness", *objectives])
    labels = pa.struct([(name, label_list) for name in names]) if objectives else label_list
    message = pa.list_(pa.struct([(key, pa.string()) for key in message_keys]))
    return pa.schema(
        [
            ("id", pa.string()),
            ("prompt", message if message_keys else pa.string()),
            ("completions", pa.list_(pa.string())),
            ("labels", labels),
            ("source", pa.string()),
            ("group", pa.string()),
            ("metadata", pa.string()),
        ]
    )


def _parquet_row(row: dict[str, Any], objectives: list[str]) -> dict[str, Any]:
    """Return the row with metadata as JSON text and, where objectives differ, labels by name."""
    labels = row["labels"]
    if objectives and isinstance(labels, list):
        labels = {"correctness": labels}
    return {**row, "labels": labels, "metadata": json.dumps(row["metadata"], ensure_ascii=False)}


def _encoded(row: dict[str, Any], chain: Chain) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except (TypeError, ValueError) as error:
        raise DataError(
            "the chain cannot be written as JSON",
            got=str(error),
            where=", ".join(filter(None, (chain.origin, f"row {chain.id!r}"))),
        ) from error


def _refuse_none(count: int) -> None:
    if count == 0:
        raise DataError("there is no chain to write")
