"""What is needed of a file of scores, as columns; what else the rows hold is not even parsed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from prm.arrays import Array, Indices, Mask
from prm.data.sources.files import read_file
from prm.errors import DataError
from prm.scores.rows import RECORD_COLUMNS, ChainRow, ResponseRow, RowKind, arrow_fields

if TYPE_CHECKING:
    import pyarrow as pa

    from prm.aggregation.steps import StepAggregation


BLOCK_BYTES = 1 << 25
"""Bytes of JSON lines that are parsed at once; also the longest line."""


_READ: Mapping[RowKind, tuple[str, ...]] = {
    ChainRow: ("step_logits", "aggregation", "reason"),
    ResponseRow: ("response", "spreads", "gates"),
}
"""Columns that are read of each kind of rows, beside those of all."""


def read_columns(path: Path, kind: RowKind, objectives: tuple[str, ...]) -> pa.Table:
    """Read ids, groups, scores, rewards and what else the rewards are made of.

    Args:
        path: The file.
        kind: What the rows are.
        objectives: Names of the objectives.

    Raises:
        DataError: The file is damaged, or a field has another type; the message names the row.
    """
    import pyarrow as pa

    names = (*RECORD_COLUMNS, "scores", "reward", "num_truncated", *_READ[kind])
    needed = pa.schema(arrow_fields(kind, objectives, names))
    return _read_json(path, needed) if path.suffix == ".jsonl" else _read_parquet(path, needed)


def _read_json(path: Path, needed: pa.Schema) -> pa.Table:
    """Parse what is needed of JSON lines; other fields are skipped, whatever they hold."""
    import pyarrow as pa
    from pyarrow import json as arrow_json

    parse = arrow_json.ParseOptions(explicit_schema=needed, unexpected_field_behavior="ignore")
    read = arrow_json.ReadOptions(block_size=BLOCK_BYTES)
    try:
        return arrow_json.read_json(path, read, parse)
    except (pa.ArrowException, OSError) as error:
        raise _wrong_row(path, needed, str(error).splitlines()[0]) from error


def _wrong_row(path: Path, needed: pa.Schema, message: str) -> DataError:
    """Return the error that names the first row that cannot be parsed."""
    for row, where in read_file(path):
        found = (_wrong_field(row.get(field.name), field.type, field.name) for field in needed)
        wrong = next(filter(None, found), None)
        if wrong is not None:
            name, expected, got = wrong
            place = f"{where}, row {row.get('id')!r}"
            return DataError(f"field {name!r} is wrong", expected=expected, got=got, where=place)
    return DataError("the rows cannot be read", got=message, where=str(path))


def _wrong_field(value: Any, kind: pa.DataType, name: str) -> tuple[str, str, object] | None:
    """Return name, expectation and value of what is not null and of another type."""
    import pyarrow as pa

    if value is None:
        return None
    if pa.types.is_struct(kind):
        if not isinstance(value, Mapping):
            return name, "a number per objective", value
        inner = [(value.get(field.name), field.type, f"{name}.{field.name}") for field in kind]
    elif pa.types.is_list(kind):
        if not isinstance(value, list):
            return name, "a list of numbers", value
        inner = [(item, kind.value_type, f"{name}[{index}]") for index, item in enumerate(value)]
    else:
        number = int if pa.types.is_integer(kind) else int | float
        expected = str if pa.types.is_string(kind) else number
        if isinstance(value, expected) and not isinstance(value, bool):
            return None
        text = "a number or null" if "." in name else "a number"
        return name, "text" if expected is str else text, value
    return next(filter(None, (_wrong_field(*item) for item in inner)), None)


def _read_parquet(path: Path, needed: pa.Schema) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
        present = [name for name in needed.names if name in schema.names]
        table = pq.read_table(path, columns=present)
    except (pa.ArrowException, OSError) as error:
        message = str(error).splitlines()[0]
        raise DataError("the Parquet file is damaged", got=message, where=str(path)) from error
    for name in present:
        if not _fits(schema.field(name).type, needed.field(name).type):
            raise _wrong_row(path, needed, f"{name!r} of type {schema.field(name).type}")
    return table


def _fits(found: pa.DataType, needed: pa.DataType) -> bool:
    """Return whether a column of a table can be read as what is needed; one of nulls can."""
    import pyarrow.types as kinds

    if kinds.is_null(found):
        return True
    if kinds.is_struct(needed):
        inner = {field.name: field.type for field in found} if kinds.is_struct(found) else None
        return inner is not None and all(
            _fits(inner[field.name], field.type) for field in needed if field.name in inner
        )
    if kinds.is_list(needed):
        is_list = kinds.is_list(found) or kinds.is_large_list(found)
        return is_list and _fits(found.value_type, needed.value_type)
    if kinds.is_string(needed):
        return bool(kinds.is_string(found) or kinds.is_large_string(found))
    return bool(kinds.is_integer(found) or (kinds.is_floating(found) and needed == "double"))


def column(table: pa.Table, name: str) -> pa.ChunkedArray:
    """Return a column; one of nulls if there is none."""
    import pyarrow as pa

    if name in table.column_names:
        return table[name]
    return pa.chunked_array([pa.nulls(table.num_rows)])


def numbers(values: pa.ChunkedArray) -> Array:
    """Return numbers as float64; NaN for null, infinity for a NaN, which is not finite either."""
    import pyarrow as pa
    import pyarrow.compute as pc

    known = values.cast(pa.float64())
    result: Array = pc.if_else(pc.is_nan(known), np.inf, known).to_numpy()
    return result


def numbered(table: pa.Table, name: str) -> tuple[Indices, tuple[str, ...]]:
    """Return the number of each row's value, -1 for null, and the values."""
    import pyarrow as pa

    encoded = column(table, name).cast(pa.string()).combine_chunks().dictionary_encode()
    codes: Indices = encoded.indices.fill_null(-1).to_numpy().astype(np.int64)
    return codes, tuple(encoded.dictionary.to_pylist())


def counts(table: pa.Table, name: str) -> Indices:
    """Return whole numbers; 0 for null."""
    values: Indices = np.nan_to_num(numbers(column(table, name))).astype(np.int64)
    return values


def is_filled(table: pa.Table, name: str) -> Mask:
    """Return which rows have a text that is not empty."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found = pc.not_equal(column(table, name).cast(pa.string()), "")
    filled: Mask = found.fill_null(False).to_numpy().astype(bool)
    return filled


def by_objective(table: pa.Table, name: str, objectives: tuple[str, ...]) -> Array:
    """Return the numbers of a column of objects, shape `[row, objective]`; NaN for null."""
    missing = np.full(table.num_rows, np.nan)
    found = _fields(table, name)
    columns = [
        numbers(found[objective]) if objective in found else missing for objective in objectives
    ]
    return np.ascontiguousarray(np.stack(columns, axis=1))


@dataclass(frozen=True, slots=True, eq=False)
class StepColumn:
    """The log-odds of the scored steps of all rows, one after the other.

    Args:
        logits: The log-odds, shape `[step]`.
        counts: How many of them each row has, shape `[row]`.
    """

    logits: Array
    counts: Indices

    def is_infinite(self) -> Mask:
        """Return which rows have a number that is not finite, `[row]`."""
        row = np.repeat(np.arange(len(self.counts)), self.counts)
        found: Mask = np.bincount(row, np.isinf(self.logits), len(self.counts)) > 0
        return found

    def aggregated(self, aggregation: StepAggregation) -> Array:
        """Return what an aggregation makes of the steps of each row, `[row]`; NaN without any.

        Rows with as many steps are aggregated together, so that nothing is padded.
        """
        starts = np.cumsum(self.counts) - self.counts
        result = np.full(len(self.counts), np.nan)
        for count in np.unique(self.counts[self.counts > 0]):
            rows = np.flatnonzero(self.counts == count)
            steps = self.logits[starts[rows, None] + np.arange(count)]
            result[rows] = aggregation(torch.from_numpy(steps)).numpy()
        return result


def steps_by_objective(
    table: pa.Table, objectives: tuple[str, ...]
) -> tuple[StepColumn, ...] | None:
    """Return the log-odds of the steps of each objective; `None` if no row has them."""
    found = _fields(table, "step_logits")
    columns = [found[objective] for objective in objectives if objective in found]
    if len(columns) < len(objectives) or all(one.null_count == len(one) for one in columns):
        return None
    return tuple(map(_lists, columns))


def _lists(values: pa.ChunkedArray) -> StepColumn:
    import pyarrow.compute as pc

    lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy()
    flat = numbers(pc.list_flatten(values))
    known = ~np.isnan(flat)
    row = np.repeat(np.arange(len(lengths)), lengths)
    counts = np.bincount(row[known], minlength=len(lengths))
    return StepColumn(flat[known], counts.astype(np.int64))


def _fields(table: pa.Table, name: str) -> dict[str, pa.ChunkedArray]:
    """Return the fields of a column of objects; none if the table has no such column."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found = column(table, name)
    names = [field.name for field in found.type] if pa.types.is_struct(found.type) else []
    return {name: pc.struct_field(found, [name]) for name in names}


def plain(values: Array) -> list[float | None]:
    """Return numbers as JSON has them: `None` in the place of NaN.

    Example:
        >>> plain(np.array([1.5, np.nan]))
        [1.5, None]
    """
    return [None if value != value else value for value in values.tolist()]
