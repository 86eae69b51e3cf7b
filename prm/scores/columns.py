"""What is needed of a file of scores, as columns; what else the rows hold is not even parsed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prm.data.sources.files import read_file
from prm.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

BLOCK_BYTES = 1 << 25
"""Bytes of JSON lines that are parsed at once; also the longest line."""


def read_columns(path: Path, objectives: tuple[str, ...]) -> pa.Table:
    """Read ids, groups, scores, spreads, gates and rewards.

    Raises:
        DataError: The file is damaged, or a field has another type; the message names the row.
    """
    return _read_json(path, objectives) if path.suffix == ".jsonl" else _read_parquet(path)


def _read_json(path: Path, objectives: tuple[str, ...]) -> pa.Table:
    """Parse what is needed of JSON lines; other fields are skipped, whatever they hold."""
    import pyarrow as pa
    from pyarrow import json as arrow_json

    parse = arrow_json.ParseOptions(
        explicit_schema=_needed(objectives), unexpected_field_behavior="ignore"
    )
    read = arrow_json.ReadOptions(block_size=BLOCK_BYTES)
    try:
        return arrow_json.read_json(path, read, parse)
    except (pa.ArrowException, OSError) as error:
        raise _wrong_row(path, objectives, str(error).splitlines()[0]) from error


def _needed(objectives: tuple[str, ...]) -> pa.Schema:
    import pyarrow as pa

    per_objective = pa.struct([(name, pa.float64()) for name in objectives])
    return pa.schema(
        [
            ("id", pa.string()),
            ("group", pa.string()),
            ("response", pa.int64()),
            ("scores", per_objective),
            ("spreads", per_objective),
            ("gates", per_objective),
            ("reward", pa.float64()),
        ]
    )


def _wrong_row(path: Path, objectives: tuple[str, ...], message: str) -> DataError:
    """Return the error that names the first row that cannot be parsed."""
    for row, where in read_file(path):
        wrong = _wrong_field(row, objectives)
        if wrong is not None:
            name, expected, got = wrong
            place = f"{where}, row {row.get('id')!r}"
            return DataError(f"field {name!r} is wrong", expected=expected, got=got, where=place)
    return DataError("the rows cannot be read", got=message, where=str(path))


def _wrong_field(
    row: Mapping[str, Any], objectives: tuple[str, ...]
) -> tuple[str, str, object] | None:
    kinds = {"id": str, "group": str, "response": int, "reward": int | float}
    for name, kind in kinds.items():
        value = row.get(name)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            return name, "text" if kind is str else "a number", value
    for name in ("scores", "spreads", "gates"):
        values = row.get(name)
        if values is not None and not isinstance(values, Mapping):
            return name, "a number per objective", values
        for objective in objectives:
            value = (values or {}).get(objective)
            if value is not None and (not isinstance(value, int | float) or value is True):
                return f"{name}.{objective}", "a number or null", value
    return None


def _read_parquet(path: Path) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        present = [name for name in _needed(()).names if name in pq.read_schema(path).names]
        return pq.read_table(path, columns=present)
    except (pa.ArrowException, OSError) as error:
        message = str(error).splitlines()[0]
        raise DataError("the Parquet file is damaged", got=message, where=str(path)) from error


def column(table: pa.Table, name: str) -> pa.ChunkedArray:
    """Return a column; one of nulls if there is none."""
    import pyarrow as pa

    if name in table.column_names:
        return table[name]
    return pa.chunked_array([pa.nulls(table.num_rows)])


def numbers(values: pa.ChunkedArray) -> Array:
    """Return numbers as float64; NaN for null."""
    import pyarrow as pa

    result: Array = values.cast(pa.float64()).to_numpy()
    return result


def numbered(table: pa.Table, name: str) -> tuple[Indices, tuple[str, ...]]:
    """Return the number of each row's value, -1 for null, and the values."""
    import pyarrow as pa

    encoded = column(table, name).cast(pa.string()).combine_chunks().dictionary_encode()
    codes: Indices = encoded.indices.fill_null(-1).to_numpy().astype(np.int64)
    return codes, tuple(encoded.dictionary.to_pylist())


def by_objective(table: pa.Table, name: str, objectives: tuple[str, ...]) -> Array:
    """Return the numbers of a column of objects, shape `[row, objective]`; NaN for null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found = column(table, name)
    known = [field.name for field in found.type] if pa.types.is_struct(found.type) else []
    missing = np.full(table.num_rows, np.nan)
    columns = [
        numbers(pc.struct_field(found, [objective])) if objective in known else missing
        for objective in objectives
    ]
    return np.ascontiguousarray(np.stack(columns, axis=1))
