"""Rows of a score file written again: some of them, in any order, with some columns replaced.

Everything else that the rows hold is kept as it is: texts, labels, fields of other tools.
"""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from prm.arrays import Indices
from prm.atomic import atomic_file, write_text
from prm.data.sources.writers import check_output
from prm.errors import OutputError
from prm.scores.columns import BLOCK_BYTES
from prm.scores.partial import in_blocks
from prm.scores.rows import Row, column_type
from prm.scores.tables import spec_path

if TYPE_CHECKING:
    import pyarrow as pa

    from prm.spec import RewardSpec

Columns = Mapping[str, list[Any]]
Track = Callable[[Iterable[Any]], Iterable[Any]]

_ROWS_PER_BATCH = 1024


def check_outputs(*outputs: Path | None, overwrite: bool) -> None:
    """Refuse outputs that could not be written, before any work is done.

    Raises:
        OutputError: A file or the spec beside it exists and `overwrite` is false, or a name does
            not end in `.jsonl` or `.parquet`.
    """
    for output in outputs:
        if output is None:
            continue
        check_output(output, overwrite=overwrite)
        if spec_path(output).exists() and not overwrite:
            raise OutputError(
                "the output's spec exists",
                got=str(spec_path(output)),
                fix="Give --overwrite to replace it",
            )


def write_scores(
    source: Path,
    output: Path,
    order: Indices,
    columns: Columns,
    spec: RewardSpec | None,
    *,
    track: Track = iter,
) -> None:
    """Write rows of a score file, whole or not at all, and the spec beside them.

    Args:
        source: The score file, JSON lines or Parquet.
        output: The new file, JSON lines or Parquet by its suffix; replaced if it exists.
        order: Which rows to write, in which order, shape `[kept]`.
        columns: New or replaced fields: a JSON value for each row of `order`.
        spec: What the new scores and rewards mean; none is written for `None`.
        track: Wraps the rows as they are written, to show progress.

    Raises:
        OutputError: A file cannot be written, or the rows do not fit into Parquet columns.
    """
    if spec is None:
        spec_path(output).unlink(missing_ok=True)
    else:
        write_text(spec_path(output), spec.to_json())
    with atomic_file(output) as stream:
        if output.suffix == ".parquet":
            _write_parquet(source, stream, order, columns)
        else:
            _write_lines(track(_changed_lines(source, order, columns)), stream)


def write_plain_rows(rows: Iterable[Row], output: Path, *, track: Track = iter) -> None:
    """Write rows of any kind as JSON lines or Parquet, whole or not at all.

    Raises:
        OutputError: The file cannot be written, or the rows do not fit into Parquet columns.
    """
    with atomic_file(output) as stream:
        if output.suffix == ".parquet":
            import pyarrow as pa

            _store(lambda: pa.Table.from_pylist(list(track(rows))), stream)
        else:
            _write_lines(map(_encoded, track(rows)), stream)


def read_rows(source: Path, order: Indices) -> Iterator[Row]:
    """Yield rows of a score file in any order, as JSON objects."""
    if source.suffix == ".parquet":
        yield from _parquet_rows(source, order)
    else:
        yield from map(json.loads, _raw_lines(source, order))


def _raw_lines(source: Path, order: Indices) -> Iterator[bytes]:
    with (
        source.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        starts, ends = _lines(data)
        for start, end in zip(starts[order].tolist(), ends[order].tolist(), strict=True):
            yield data[start:end]


def _lines(data: mmap.mmap) -> tuple[Indices, Indices]:
    """Return where the lines that are not blank start and end."""
    size = len(data)
    breaks = [
        start + np.flatnonzero(np.frombuffer(data[start : start + BLOCK_BYTES], np.uint8) == 10)
        for start in range(0, size, BLOCK_BYTES)
    ]
    ends = np.append(np.concatenate(breaks), size).astype(np.int64)
    starts = np.append(0, ends[:-1] + 1)
    short = np.flatnonzero(ends - starts < SHORTEST_ROW)
    blank = [index for index in short if not data[starts[index] : ends[index]].strip()]
    return np.delete(starts, blank), np.delete(ends, blank)


SHORTEST_ROW = 16
"""Bytes that every row has; shorter lines are looked at, as they may be blank."""


def _parquet_rows(source: Path, order: Indices) -> Iterator[Row]:
    for batch in _taken(_parquet(source), order).to_batches(max_chunksize=_ROWS_PER_BATCH):
        yield from batch.to_pylist()


def _changed_lines(source: Path, order: Indices, columns: Columns) -> Iterator[bytes]:
    """Yield lines with some fields changed; lines without a change are copied byte by byte."""
    if source.suffix == ".jsonl" and not columns:
        yield from _raw_lines(source, order)
    elif source.suffix == ".jsonl" and tuple(columns) in _ADJACENT:
        values_of_rows = zip(*columns.values(), strict=True)
        for line, values in zip(_raw_lines(source, order), values_of_rows, strict=True):
            yield _with_fields(line, dict(zip(columns, values, strict=True)))
    else:
        yield from map(_encoded, _changed(read_rows(source, order), columns))


def _with_fields(line: bytes, changed: Row) -> bytes:
    """Replace fields where they stand, without decoding and encoding the row."""
    parts = _ADJACENT[tuple(changed)].split(line)
    if len(parts) == 2:
        return parts[0] + _encoded(changed)[1:-1] + parts[1]
    return _encoded(json.loads(line) | changed)


_NUMBER = rb"(?:null|[-+.0-9eE]+)"
_REWARD = rb'"reward": ' + _NUMBER + rb', "aggregation": "[^"\\]*"'
_SCORES = rb'"scores": \{(?:"[^"\\]*": ' + _NUMBER + rb"(?:, )?)*\}"
_ADJACENT = {
    ("reward", "aggregation"): re.compile(_REWARD),
    ("reward", "aggregation", "scores"): re.compile(_REWARD + rb", " + _SCORES),
}
"""Fields as `prm score` writes them for responses and chains; in a text, quotes are escaped."""


def _changed(rows: Iterable[Row], columns: Columns) -> Iterator[Row]:
    names = list(columns)
    for row, *values in zip(rows, *columns.values(), strict=True):
        row.update(zip(names, values, strict=True))
        yield row


_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=str)


def _encoded(row: Row) -> bytes:
    return _encoder.encode(row).encode("utf-8")


def _write_lines(lines: Iterable[bytes], stream: IO[bytes]) -> None:
    for block in in_blocks(lines, _ROWS_PER_BATCH):
        stream.write(b"\n".join(block) + b"\n")


def _write_parquet(source: Path, stream: IO[bytes], order: Indices, columns: Columns) -> None:
    def changed() -> pa.Table:
        import pyarrow as pa

        whole = _parquet(source) if source.suffix == ".parquet" else _json_table(source)
        table = _taken(whole, order)
        for name, values in columns.items():
            column = pa.array(values, type=column_type(name, values))
            index = table.schema.get_field_index(name)
            table = (
                table.append_column(name, column)
                if index < 0
                else table.set_column(index, name, column)
            )
        return table

    _store(changed, stream)


def _store(make: Callable[[], pa.Table], stream: IO[bytes]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        pq.write_table(make(), stream)
    except pa.ArrowException as error:
        raise OutputError(
            "the rows do not fit into Parquet columns",
            got=str(error).splitlines()[0],
            fix="Write .jsonl instead",
        ) from error


def _taken(table: pa.Table, order: Indices) -> pa.Table:
    everything = len(order) == table.num_rows and bool((np.diff(order) == 1).all())
    return table if everything else table.take(order)


def _parquet(source: Path) -> pa.Table:
    import pyarrow.parquet as pq

    return pq.read_table(source)


def _json_table(source: Path) -> pa.Table:
    """Parse whole rows; texts stay texts, even where they look like dates."""
    import pyarrow as pa
    from pyarrow import json as arrow_json

    first = next(read_rows(source, np.zeros(1, dtype=np.int64)))
    kinds = [(name, _arrow_type(value)) for name, value in first.items()]
    known = pa.schema([(name, kind) for name, kind in kinds if kind is not None])
    read = arrow_json.ReadOptions(block_size=BLOCK_BYTES)
    return arrow_json.read_json(source, read, arrow_json.ParseOptions(explicit_schema=known))


def _arrow_type(value: Any) -> pa.DataType | None:
    """Return the column type of a JSON value, or `None` where the rows themselves must say it."""
    import pyarrow as pa

    if isinstance(value, str):
        return pa.string()
    if isinstance(value, float):
        return pa.float64()
    if isinstance(value, list):
        kind = _arrow_type(value[0]) if value else None
        return None if kind is None else pa.list_(kind)
    if isinstance(value, dict):
        kinds = [(name, _arrow_type(item)) for name, item in value.items()]
        return pa.struct([(name, kind) for name, kind in kinds if kind is not None])
    return None
