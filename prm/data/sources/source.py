"""Sources: from the rows of a path or a name to checked records."""

from __future__ import annotations

import glob
import json
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from prm.data.formats.base import Format
from prm.data.sources.files import Row
from prm.data.sources.origins import Origins
from prm.data.sources.rows import data_files, read_rows
from prm.errors import ConfigError, DataError
from prm.records import Record, named

logger = logging.getLogger(__name__)


class Source:
    """The records of one dataset, read anew at every iteration.

    Its format says what they are: chains, or comparisons and ratings.

    Args:
        path: File, folder, glob, saved dataset, or name of a Hugging Face dataset.
        format: What the rows look like.
        name: Name of the source; by default the row's own, else the file's name without suffix.
        split: Split of a Hugging Face or saved dataset.
        limit: Largest number of records; `None` for all.
        streaming: Whether to stream a Hugging Face dataset instead of downloading it.
        on_error: Whether a wrong row stops the reading (`raise`) or is left out (`skip`), counted
            and reported in the log.
        config_name: Configuration (subset) of a Hugging Face dataset.
        weight: Factor of this source's share of an epoch, above 0; the share is otherwise what
            `Sampling` gives it. Needs a name.

    Raises:
        ConfigError: The weight is not above 0, or there is one and no name.
        DataError: While iterating: a row is wrong, or two records have the same id.
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
        config_name: str | None = None,
        weight: float | None = None,
    ) -> None:
        if weight is not None and not (weight > 0 and math.isfinite(weight)):
            raise ConfigError("weight is wrong", expected="a number above 0", got=weight)
        if weight is not None and name is None:
            raise ConfigError("a weighted source needs a name", where=path, fix="Set name")
        self.path = path
        self.format = format
        self.name = name
        self.split = split
        self.limit = limit
        self.streaming = streaming
        self.on_error = on_error
        self.config_name = config_name
        self.weight = weight

    def __iter__(self) -> Iterator[Any]:
        """Yield `Chain`s, or `Comparison`s and `Rating`s."""
        errors: list[DataError] = []
        for result in self.results():
            if not isinstance(result, DataError):
                yield result
            elif self.on_error == "raise":
                raise result
            else:
                errors.append(result)
        if errors:
            logger.warning("%s: %d rows left out; the first: %s", self.path, len(errors), errors[0])

    def load(self) -> list[Any]:
        """Return all records."""
        return list(self)

    def identity(self) -> dict[str, Any]:
        """Return what decides the records, as JSON values: the options, and each file's state.

        Of a Hugging Face dataset that is not on the disk, only the name counts.

        Raises:
            DataError: There is nothing to read at the path.
        """
        options = {name: value for name, value in vars(self).items() if name != "weight"}
        kind = type(self.format)
        options["format"] = [f"{kind.__module__}.{kind.__qualname__}", vars(self.format)]
        states = [(str(file), file.stat()) for file in data_files(self.path)]
        files = [[name, state.st_size, state.st_mtime_ns] for name, state in states]
        plain: dict[str, Any] = json.loads(json.dumps(options | {"files": files}, default=repr))
        return plain

    def results(self) -> Iterator[Any]:
        """Yield each record, or the error that stands in its place.

        Raises:
            DataError: Not even one row can be read.
        """
        origins = Origins()
        num_records = 0
        for result in self._named_records():
            if num_records == self.limit:
                return
            if not isinstance(result, DataError):
                num_records += 1
                first = origins.first((result.source, result.id), result.origin)
                if first is not None:
                    yield _duplicate_id(result, first)
                    continue
            yield result

    def _named_records(self) -> Iterator[Any]:
        """Yield each record under its final id and source, or the error that stands in its place.

        The records of one row share its origin and are numbered `name-3.0`, `name-3.1`.
        """
        options = {"split": self.split, "config_name": self.config_name}
        rows = read_rows(self.path, **options, streaming=self.streaming)
        for index, row in enumerate(_until_broken(rows)):
            if isinstance(row, DataError):
                yield row
                return
            try:
                records: Sequence[Any] = self.format.records(*row)
            except DataError as error:
                yield error
                continue
            for part, record in enumerate(records):
                number = f"{index}.{part}" if len(records) > 1 else str(index)
                source = self.name or record.source or _default_name(self.path)
                yield named(record, record.id or f"{source}-{number}", source)


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


def _duplicate_id(record: Record, first_origin: str) -> DataError:
    return DataError(
        f"two records have the id {record.id!r}",
        expected="ids that are unique within a source",
        got=f"the same id at {first_origin}",
        where=record.origin,
    )
