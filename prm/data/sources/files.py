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
from pathlib import Path
from typing import IO, Any

from prm.errors import DataError

Row = tuple[Any, str]

_GZIP, _PARQUET = b"\x1f\x8b", b"PAR1"
_BYTE_ORDER_MARK = "\ufeff"
_SUPPORTED = "JSON, JSON lines or CSV text (plain or gzipped), or Parquet"


def read_file(path: Path) -> Iterator[Row]:
    """Yield the rows of a file with their places.

    Raises:
        DataError: The file is empty, cut off, of another encoding or kind, or a row is not an
            object; the message names the line or byte.
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


def _text_rows(stream: IO[bytes], path: Path) -> Iterator[Row]:
    lines = _lines(stream, path)
    first = next(lines, None)
    if first is None:
        raise DataError("the file holds no rows, only blank lines", where=str(path))
    second = next(lines, None)
    rest = joined([first], [second] if second else [], lines)
    start = first[1].lstrip()[:1]
    if start == "{" and _looks_like_json_lines(first[1], second[1] if second else None):
        yield from _json_lines(rest, path)
    elif start in ("{", "["):
        yield from _json_rows("".join(_with_blank_lines(rest)), path)
    else:
        yield from _csv_rows(rest, path)


def _lines(stream: IO[bytes], path: Path) -> Iterator[tuple[int, str]]:
    """Yield (number, text) of every line that is not blank."""
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
        if text.strip():
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


def _looks_like_json_lines(first: str, second: str | None) -> bool:
    """Tell JSON lines from one JSON object that spans lines (or one line of lists of rows)."""
    try:
        whole = json.loads(first)
    except (ValueError, RecursionError):
        return second is not None and second.lstrip().startswith("{")
    return second is not None or not _is_object_of_lists(whole)


def _json_lines(lines: Iterator[tuple[int, str]], path: Path) -> Iterator[Row]:
    for number, text in lines:
        where = f"{path}:{number}"
        yield _checked(_parsed(text, path, number), where), where


def _with_blank_lines(lines: Iterator[tuple[int, str]]) -> Iterator[str]:
    """Yield the text again with the blank lines put back, so that line numbers hold."""
    expected = 1
    for number, text in lines:
        yield from ["\n"] * (number - expected)
        yield text
        expected = number + 1


def _json_rows(text: str, path: Path) -> Iterator[Row]:
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
        yield _checked(row, where), where


def _is_object_of_lists(value: Any) -> bool:
    """Tell `{"uuid": [{...}, ...], ...}` from a row."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(rows, list) for rows in value.values())
        and all(isinstance(row, dict) for rows in value.values() for row in rows)
    )


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


def _checked(row: Any, where: str) -> dict[str, Any]:
    if isinstance(row, dict):
        return row
    raise DataError("the row is not an object", expected="fields with names", got=row, where=where)


def _csv_rows(lines: Iterator[tuple[int, str]], path: Path) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)
    first = next(lines)
    delimiter = "\t" if "\t" in first[1] and "," not in first[1] else ","
    if delimiter not in first[1]:
        raise DataError(
            "the file's kind is not known",
            expected=_SUPPORTED,
            got=f"text that starts with {first[1].strip()[:40]!r}",
            where=f"{path}:{first[0]}",
        )
    text = _with_blank_lines(joined([first], lines))
    reader = csv.DictReader(text, delimiter=delimiter, strict=True)
    try:
        for row in reader:
            where = f"{path}:{reader.line_num}"
            if None in row or None in row.values():
                raise DataError(
                    "the row does not match the header",
                    expected=f"{len(reader.fieldnames or ())} cells",
                    got=_num_cells(row),
                    where=where,
                )
            yield row, where
    except csv.Error as error:
        raise DataError(
            "this is not CSV", got=str(error), where=f"{path}:{reader.line_num}"
        ) from None


def _num_cells(row: dict[Any, Any]) -> int:
    extra = row.get(None) or []
    return sum(value is not None for key, value in row.items() if key is not None) + len(extra)


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
