"""Rows of a path or a name: where they are, before anything says what they mean."""

from __future__ import annotations

import difflib
import glob
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prm.data.sources.files import Row, file_results
from prm.data.sources.memory import as_data, dataset_rows, memory_rows
from prm.errors import DataError

_DATA_SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".gz")


def read_rows(
    path: str | Any,
    *,
    split: str | None = None,
    config_name: str | None = None,
    streaming: bool = False,
) -> Iterator[Row]:
    """Yield (row, origin) of a file, folder, glob, saved or Hugging Face dataset, or of memory.

    Args:
        path: A file; a folder or glob of files; a folder that `datasets` saved; the name of a
            Hugging Face dataset; or a list of rows, a `datasets.Dataset` or a table in memory. A
            file's kind is read from its content.
        split: Split of a Hugging Face or saved dataset.
        config_name: Configuration (subset) of a Hugging Face dataset.
        streaming: Whether to stream a Hugging Face dataset instead of downloading it.

    Raises:
        DataError: There is nothing to read at `path`, or a file is damaged.
    """
    options: dict[str, Any] = {"split": split, "config_name": config_name, "streaming": streaming}
    for row in row_results(path, **options):
        if isinstance(row, DataError):
            raise row
        yield row


def row_results(
    path: str | Any,
    *,
    split: str | None = None,
    config_name: str | None = None,
    streaming: bool = False,
) -> Iterator[Row | DataError]:
    """Yield the rows of `read_rows`, or the error that stands in the place of one.

    Raises:
        DataError: There is nothing to read, or what follows cannot be read at all.
    """
    path = as_data(path)
    if not isinstance(path, str):
        yield from memory_rows(path, split)
        return
    if _is_saved_dataset(Path(path)):
        yield from _saved_dataset_rows(path, split)
        return
    files = _files(path)
    if not files:
        yield from _hub_rows(path, split, config_name, streaming)
    for file in files:
        yield from file_results(file)


def data_files(path: str) -> list[Path]:
    """Return the files that `read_rows` reads, in order; none for a dataset's name.

    Raises:
        DataError: There is nothing to read at `path`.
    """
    if _is_saved_dataset(Path(path)):
        return sorted(file for file in Path(path).rglob("*") if file.is_file())
    return _files(path)


def _files(path: str) -> list[Path]:
    """Return the data files that a path names; none if it can only be a dataset's name."""
    target = Path(path).expanduser()
    if target.is_dir():
        return _folder_files(target)
    if target.exists():
        return [target]
    if glob.has_magic(path):
        found = sorted(Path(name) for name in glob.glob(str(target), recursive=True))
        if not found:
            raise DataError("no file matches the pattern", got=path)
        return [file for file in found if file.is_file()]
    if _could_be_hub_name(path):
        return []
    raise _missing_file(target)


def _folder_files(folder: Path) -> list[Path]:
    files = sorted(
        file
        for file in folder.rglob("*")
        if file.is_file() and file.name.endswith(_DATA_SUFFIXES) and not file.name.startswith(".")
    )
    if not files:
        raise DataError(
            "the folder holds no data file",
            expected=f"files that end in {', '.join(_DATA_SUFFIXES)}",
            where=str(folder),
        )
    return files


def _could_be_hub_name(path: str) -> bool:
    parts = path.split("/")
    looks_local = path.startswith((".", "/", "~")) or path.endswith(_DATA_SUFFIXES)
    return not looks_local and len(parts) <= 2 and all(parts) and not Path(parts[0]).is_dir()


def _missing_file(path: Path) -> DataError:
    names = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=3)
    missing = path if path.parent.is_dir() else f"{path} (nor is there a folder {path.parent})"
    return DataError(
        f"there is no file {missing}", fix=f"Did you mean {' or '.join(near)}?" if near else None
    )


def _is_saved_dataset(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("dataset_info.json", "dataset_dict.json"))


def _saved_dataset_rows(path: str, split: str | None) -> Iterator[Row]:
    import datasets

    try:
        dataset = datasets.load_from_disk(path)
    except Exception as error:
        raise DataError("the saved dataset cannot be read", got=str(error), where=path) from error
    yield from dataset_rows(dataset, path, split)


def _hub_rows(
    name: str, split: str | None, config_name: str | None, streaming: bool
) -> Iterator[Row]:
    import datasets

    try:
        dataset = datasets.load_dataset(name, config_name, split=split, streaming=streaming)
    except Exception as error:
        raise DataError(
            f"there is no file {name!r}, and no Hugging Face dataset of this name can be loaded",
            got=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            fix="Check the path, or the name and the network (or HF_HUB_OFFLINE)",
        ) from error
    yield from dataset_rows(dataset, name, split)
