"""Sources: from a path or a name to rows, and from rows to checked chains."""

from __future__ import annotations

import difflib
import glob
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from prm.data.files import Row, read_file
from prm.data.formats.base import Format
from prm.errors import DataError
from prm.records import Chain

logger = logging.getLogger(__name__)

_DATA_SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".gz")


def read_rows(path: str, *, split: str | None = None, streaming: bool = False) -> Iterator[Row]:
    """Yield (row, origin) of a file, folder, glob, saved dataset or Hugging Face dataset.

    Args:
        path: A file; a folder or glob of files; a folder that `datasets` saved; or the name of a
            Hugging Face dataset. A file's kind is read from its content.
        split: Split of a Hugging Face or saved dataset.
        streaming: Whether to stream a Hugging Face dataset instead of downloading it.

    Raises:
        DataError: There is nothing to read at `path`, or a file is damaged.
    """
    if _is_saved_dataset(Path(path)):
        yield from _saved_dataset_rows(path, split)
        return
    files = _files(path)
    if not files:
        yield from _hub_rows(path, split, streaming)
    for file in files:
        yield from read_file(file)


class ChainSource:
    """The chains of one dataset, read anew at every iteration.

    Args:
        path: File, folder, glob, saved dataset, or name of a Hugging Face dataset.
        format: What the rows look like.
        name: Name of the source; by default the row's own, else the file's name without suffix.
        split: Split of a Hugging Face or saved dataset.
        limit: Largest number of chains; `None` for all.
        streaming: Whether to stream a Hugging Face dataset instead of downloading it.
        on_error: Whether a wrong row stops the reading (`raise`) or is left out (`skip`), counted
            and reported in the log.

    Raises:
        DataError: While iterating: a row is wrong, or two chains have the same id.
    """

    def __init__(
        self,
        path: str,
        format: Format,
        name: str | None = None,
        split: str | None = None,
        limit: int | None = None,
        streaming: bool = False,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> None:
        self.path = path
        self.format = format
        self.name = name
        self.split = split
        self.limit = limit
        self.streaming = streaming
        self.on_error = on_error

    def __iter__(self) -> Iterator[Chain]:
        errors: list[DataError] = []
        for result in self.results():
            if isinstance(result, Chain):
                yield result
            elif self.on_error == "raise":
                raise result
            else:
                errors.append(result)
        if errors:
            logger.warning("%s: %d rows left out; the first: %s", self.path, len(errors), errors[0])

    def load(self) -> list[Chain]:
        """Return all chains."""
        return list(self)

    def results(self) -> Iterator[Chain | DataError]:
        """Yield each chain, or the error that stands in its place.

        Raises:
            DataError: Not even one row can be read.
        """
        origins: dict[tuple[str, str], str] = {}
        num_chains = 0
        for result in self._named_chains():
            if num_chains == self.limit:
                return
            if isinstance(result, Chain):
                num_chains += 1
                key = (result.source, result.id)
                if key in origins:
                    yield _duplicate_id(result, origins[key])
                    continue
                origins[key] = result.origin
            yield result

    def _named_chains(self) -> Iterator[Chain | DataError]:
        source = self.name or _default_name(self.path)
        rows = read_rows(self.path, split=self.split, streaming=self.streaming)
        for index, row in enumerate(_until_broken(rows)):
            if isinstance(row, DataError):
                yield row
                return
            try:
                chains = self.format.chains(*row)
            except DataError as error:
                yield error
                continue
            for part, chain in enumerate(chains):
                number = f"{index}.{part}" if len(chains) > 1 else str(index)
                yield _named(chain, self.name or chain.source or source, number)


def _default_name(path: str) -> str:
    """Return a file's name without suffix, or the name of the folder that a pattern looks in."""
    parts = [part for part in Path(path).parts if not glob.has_magic(part)]
    return Path(parts[-1]).name.split(".")[0] if parts else "data"


def _until_broken(rows: Iterator[Row]) -> Iterator[Row | DataError]:
    """Yield rows, and as the last one the error that ends the reading after some were read."""
    first = next(rows, None)
    if first is None:
        return
    yield first
    try:
        yield from rows
    except DataError as error:
        yield error


def _named(chain: Chain, source: str, number: str) -> Chain:
    if chain.id and chain.source == source:
        return chain
    return Chain(
        chain.prompt,
        chain.completions,
        chain.labels,
        id=chain.id or f"{source}-{number}",
        source=source,
        group=chain.group,
        metadata=chain.metadata,
        origin=chain.origin,
    )


def _duplicate_id(chain: Chain, first_origin: str) -> DataError:
    return DataError(
        f"two chains have the id {chain.id!r}",
        expected="ids that are unique within a source",
        got=f"the same id at {first_origin}",
        where=chain.origin,
    )


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
    yield from _dataset_rows(dataset, path, split)


def _hub_rows(name: str, split: str | None, streaming: bool) -> Iterator[Row]:
    import datasets

    try:
        dataset = datasets.load_dataset(name, split=split, streaming=streaming)
    except Exception as error:
        raise DataError(
            f"there is no file {name!r}, and no Hugging Face dataset of this name can be loaded",
            got=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            fix="Check the path, or the name and the network (or HF_HUB_OFFLINE)",
        ) from error
    yield from _dataset_rows(dataset, name, split)


def _dataset_rows(dataset: Any, name: str, split: str | None) -> Iterator[Row]:
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
