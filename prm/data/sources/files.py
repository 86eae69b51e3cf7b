"""Rows of one file, whatever it is called: the content says what it is.

JSON lines, JSON (an array of objects, or an object of such arrays), CSV with a header, each plain
or gzipped, and Parquet. Lines and Parquet row groups are read one at a time; JSON arrays are
loaded whole. Every row comes with its place, `file:line` or `file[row]`.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain as joined
from itertools import islice
from pathlib import Path
from typing import IO, Any

from prm.data.formats.base import MESSAGE_KEYS
from prm.errors import DataError

Row = tuple[Any, str]

_GZIP, _PARQUET = b"\x1f\x8b", b"PAR1"
_BYTE_ORDER_MARK = "\ufeff"
_DELIMITERS = ("\t", ",", ";")
_NUM_PROBED = 1000
_SUPPORTED = "JSON, JSON lines or CSV text (plain or gzipped), or Parquet"


def read_file(path: Path) -> Iterator[Row]:
    """Yield the rows of a file with their places.

    Raises:
        DataError: The file is empty, cut off, of another encoding or kind, or a row is not an
            object; the message names the line or byte.
    """
    for row in file_results(path):
        if isinstance(row, DataError):
            raise row
        yield row


def file_results(path: Path) -> Iterator[Row | DataError]:
    """Yield the rows of a file, or the error that stands in the place of one.

    Raises:
        DataError: What follows cannot be read at all.
    """
    with _opened(path) as stream:
        head = stream.read(4)
    if not head:
        raise DataError("the file is empty", where=str(path))
    if head == _PARQUET:
        yield from _parquet_rows(path)
    else:
        with _decompressed(path) if head.startswith(_GZIP) else _opened(path) as stream:
            yield from _text_rows(stream, path)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        with path.open("rb") as stream:
            yield stream
    except OSError as error:
        if isinstance(error, gzip.BadGzipFile):
            raise
        raise DataError("the file cannot be read", got=error.strerror, where=str(path)) from error


@contextmanager
def _decompressed(path: Path) -> Iterator[IO[bytes]]:
    try:
        with _opened(path) as packed, gzip.GzipFile(fileobj=packed) as stream:
            yield io.BufferedReader(stream)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            "the gzip file is cut off or damaged",
            got=str(error),
            where=str(path),
            fix="Was the download interrupted?",
        ) from error


def _text_rows(stream: IO[bytes], path: Path) -> Iterator[Row | DataError]:
    lines = _lines(stream, path)
    head = list(_until_two_are_written(lines))
    written = [text for _, text in head if text.strip()]
    if not written:
        raise DataError("the file holds no rows, only blank lines", where=str(path))
    rest = joined(head, lines)
    start = written[0].lstrip()[:1]
    if start == "{" and _looks_like_json_lines(*written):
        yield from _json_lines(rest, path)
    elif start in ("{", "["):
        yield from _json_rows("".join(text for _, text in rest), path)
    else:
        yield from _csv_rows(rest, path)


def _until_two_are_written(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Yield lines up to the second one that is not blank."""
    count = 0
    for number, text in lines:
        yield number, text
        count += bool(text.strip())
        if count == 2:
            return


def _lines(stream: IO[bytes], path: Path) -> Iterator[tuple[int, str]]:
    """Yield (number, text) of every line, with its line feed."""
    offset = 0
    for number, raw in enumerate(stream, start=1):
        if number == 1:
            _check_encoding(raw, path)
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                "the file is not UTF-8 text",
                expected=_SUPPORTED,
                got=f"byte 0x{raw[error.start]:02x} at offset {offset + error.start}",
                where=f"{path}:{number}",
                fix="Convert it to UTF-8",
            ) from None
        offset += len(raw)
        if number == 1:
            text = text.removeprefix(_BYTE_ORDER_MARK)
        yield number, text


def _check_encoding(head: bytes, path: Path) -> None:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(
            "the file is UTF-16 text",
            expected="UTF-8",
            got=f"byte 0x{head[0]:02x} at offset 0",
            where=str(path),
            fix="Convert it to UTF-8",
        )
    if b"\0" in head:
        raise DataError(
            "the file is binary",
            expected=_SUPPORTED,
            got=f"byte 0x00 at offset {head.index(0)}",
            where=str(path),
        )


def _looks_like_json_lines(first: str, second: str | None = None) -> bool:
    """Tell JSON lines from one JSON object that spans lines (or one line of lists of rows)."""
    try:
        whole = json.loads(first)
    except (ValueError, RecursionError):
        return second is not None and second.lstrip().startswith("{")
    return second is not None or not _is_object_of_lists(whole)


def _json_lines(lines: Iterator[tuple[int, str]], path: Path) -> Iterator[Row | DataError]:
    for number, text in lines:
        if not text.strip():
            continue
        where = f"{path}:{number}"
        try:
            yield checked_row(_parsed(text, path, number), where), where
        except DataError as error:
            yield error


def _json_rows(text: str, path: Path) -> Iterator[Row | DataError]:
    value = _parsed(text, path)
    if isinstance(value, list):
        named = ((f"{path}[{index}]", row) for index, row in enumerate(value))
    elif _is_object_of_lists(value):
        named = (
            (f"{path}[{key}][{index}]", row)
            for key, rows in value.items()
            for index, row in enumerate(rows)
        )
    else:
        raise DataError(
            "the file holds one JSON object, not rows",
            expected="an array of objects, an object of such arrays, or one object per line",
            got=f"an object with the keys {list(value)[:8]}",
            where=str(path),
        )
    for where, row in named:
        try:
            yield checked_row(row, where), where
        except DataError as error:
            yield error


def _is_object_of_lists(value: Any) -> bool:
    """Tell `{"uuid": [{...}, ...], ...}` from a row, which may hold nothing but conversations."""
    if not isinstance(value, dict) or not all(isinstance(rows, list) for rows in value.values()):
        return False
    rows = [row for listed in value.values() for row in listed]
    return bool(rows) and all(isinstance(row, dict) and not _is_message(row) for row in rows)


def _is_message(value: dict[str, Any]) -> bool:
    return any(speaker in value and said in value for speaker, said in MESSAGE_KEYS)


def _parsed(text: str, path: Path, first_line: int = 1) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{path}:{first_line + error.lineno - 1}"
        raise _broken_json(error, len(text.rstrip()), where) from None
    except (ValueError, RecursionError) as error:
        where = f"{path}:{first_line}"
        raise DataError("the JSON cannot be read", got=str(error), where=where) from None


def _broken_json(error: json.JSONDecodeError, length: int, where: str) -> DataError:
    cut_off = error.pos >= length or error.msg.startswith("Unterminated string")
    return DataError(
        "the JSON ends in the middle" if cut_off else "this is not JSON",
        got=f"{error.msg.removesuffix(' at')} at column {error.colno}",
        where=where,
        fix="Was the download or the writing interrupted?" if cut_off else None,
    )


def checked_row(row: Any, where: str) -> dict[str, Any]:
    """Return a row, which must be an object."""
    if isinstance(row, dict):
        return row
    raise DataError("the row is not an object", expected="fields with names", got=row, where=where)


def _csv_rows(lines: Iterator[tuple[int, str]], path: Path) -> Iterator[Row | DataError]:
    csv.field_size_limit(2**31 - 1)
    text = (line for _, line in lines)
    head = list(islice(text, _NUM_PROBED))
    reader = csv.reader(joined(head, text), delimiter=_delimiter(head, path), strict=True)
    try:
        written = (cells for cells in reader if any(map(str.strip, cells)) or len(cells) > 1)
        header = next(written)
        _check_header(header, f"{path}:{reader.line_num}")
        for cells in written:
            where = f"{path}:{reader.line_num}"
            if len(cells) != len(header):
                yield DataError(
                    "the row does not match the header",
                    expected=f"{len(header)} cells",
                    got=len(cells),
                    where=where,
                )
                continue
            yield dict(zip(header, cells, strict=True)), where
    except csv.Error as error:
        raise DataError(
            "this is not CSV", got=str(error), where=f"{path}:{reader.line_num}"
        ) from None


def _delimiter(head: list[str], path: Path) -> str:
    """Return what stands between cells: what the header holds, and the first row as often.

    Raises:
        DataError: There is nothing of the kind, or comma and semicolon both fit.
    """
    number, header = next((n, line) for n, line in enumerate(head, start=1) if line.strip())
    found = [mark for mark in _DELIMITERS if mark in header]
    if len(found) > 1:
        found = [mark for mark in found if _is_even(head, mark)] or found
    if not found:
        raise DataError(
            "the file's kind is not known",
            expected=_SUPPORTED,
            got=f"text that starts with {header.strip()[:40]!r}",
            where=f"{path}:{number}",
        )
    if len(found) > 1 and found[0] != "\t":
        raise DataError(
            "the header holds commas and semicolons, and either may stand between columns",
            got=header.strip(),
            where=f"{path}:{number}",
            fix="Rename its columns, or write the file with tabs or as JSON lines",
        )
    return found[0]


def _is_even(head: list[str], mark: str) -> bool:
    """Tell whether the header and the first row have as many cells; at least two."""
    try:
        written = (cells for cells in csv.reader(head, delimiter=mark) if cells)
        rows = [len(cells) for cells in islice(written, 2)]
    except csv.Error:
        return False
    return min(rows) > 1 and len(set(rows)) == 1


def _check_header(header: list[str], where: str) -> None:
    repeated = [name for name in header if header.count(name) > 1]
    if repeated:
        raise DataError(
            f"two columns are called {repeated[0]!r}",
            expected="a name of its own for each column",
            where=where,
        )


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            index = 0
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    yield row, f"{path}[{index}]"
                    index += 1
    except (pa.ArrowException, OSError) as error:
        message = str(error).splitlines()[0]
        raise DataError(
            "the Parquet file is cut off or damaged", got=message, where=str(path)
        ) from error
    if index == 0:
        raise DataError("the file holds no rows", where=str(path))
