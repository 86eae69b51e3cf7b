"""Rows that are in memory already: lists, datasets and tables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from os import PathLike, fspath
from typing import Any

from prm.data.sources.files import Row, checked_row
from prm.errors import DataError

NAME = "rows"
"""What a source of rows in memory is called, and where its rows stand: `rows[3]`."""

_LIBRARIES = ("datasets", "pandas", "polars", "pyarrow")
EXPECTED = "a path, a list of rows, a datasets.Dataset, or a pandas, polars or pyarrow table"


def is_table(data: object) -> bool:
    """Whether something is a data set or table of a library that is known, without loading one.

    Example:
        >>> is_table([{"prompt": "?"}]), is_table("rows.jsonl")
        (False, False)
    """
    return type(data).__module__.split(".")[0] in _LIBRARIES


def as_data(data: Any) -> Any:
    """Return rows in memory as they are, and a path as text.

    Raises:
        DataError: It is neither.
    """
    if isinstance(data, PathLike):
        return fspath(data)
    if isinstance(data, str | list | tuple) or is_table(data):
        return data
    raise DataError(
        "these are no data",
        expected=EXPECTED,
        got=type(data).__name__,
        fix="Make a list of what can be read once only" if isinstance(data, Iterator) else None,
    )


def memory_rows(data: Any, split: str | None = None) -> Iterator[Row]:
    """Yield (row, origin) of a list of rows, a data set or a table.

    Args:
        data: The rows.
        split: Split of a dictionary of data sets.

    Raises:
        DataError: A row is not an object, or the table cannot be read.

    Example:
        >>> list(memory_rows([{"prompt": "?"}]))
        [({'prompt': '?'}, 'rows[0]')]
    """
    if type(data).__module__.startswith("datasets."):
        yield from dataset_rows(data, NAME, split)
        return
    rows = data if isinstance(data, list | tuple) else _table_rows(data)
    for index, row in enumerate(rows):
        where = f"{NAME}[{index}]"
        yield checked_row(row, where), where


def dataset_rows(dataset: Any, name: str, split: str | None) -> Iterator[Row]:
    """Yield the rows of a dataset, or of one split of a dictionary of datasets."""
    if isinstance(dataset, dict):
        if split is None and len(dataset) == 1:
            split = next(iter(dataset))
        if split not in dataset:
            raise DataError(
                "the dataset has no such split" if split else "the dataset has several splits",
                expected=f"option `split` as one of {', '.join(map(str, dataset))}",
                got=split,
                where=name,
            )
        dataset = dataset[split]
    place = f"{name}[{split}]" if split else name
    count = 0
    try:
        for count, row in enumerate(dataset, start=1):
            yield row, f"{place}[{count - 1}]"
    except Exception as error:
        raise DataError(
            f"reading stopped after {count} rows",
            got=f"{type(error).__name__}: {error}",
            where=place,
            fix="Was the download interrupted?",
        ) from error


def _table_rows(table: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a table, with nothing but plain values in them."""
    if hasattr(table, "collect"):
        table = table.collect()
    if hasattr(table, "iter_rows"):
        yield from table.iter_rows(named=True)
        return
    import pyarrow as pa

    try:
        if not isinstance(table, pa.Table):
            table = pa.Table.from_pandas(table, preserve_index=False)
        for batch in table.to_batches(max_chunksize=1024):
            yield from batch.to_pylist()
    except (pa.ArrowException, TypeError, AttributeError) as error:
        raise DataError(
            "the table cannot be read",
            expected="columns that hold one kind of value each",
            got=str(error).splitlines()[0],
            fix="Give a list of rows instead: table.to_dict('records')",
        ) from None


def fingerprint(data: Any) -> str:
    """Return a hash of the rows, in order."""
    digest = blake2b(digest_size=16)
    for row, _ in memory_rows(data):
        digest.update(json.dumps(row, default=repr, sort_keys=True).encode())
    return digest.hexdigest()
