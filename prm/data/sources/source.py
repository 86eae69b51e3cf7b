"""Sources: from the rows of a path or a name to checked records."""

from __future__ import annotations

import glob
import json
import logging
import math
import re
from collections.abc import Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from random import Random
from typing import Any, Literal

from prm.data.formats.base import Format
from prm.data.sources.memory import NAME, as_data, fingerprint
from prm.data.sources.origins import Origins
from prm.data.sources.rows import data_files, row_results
from prm.errors import ConfigError, DataError
from prm.records import Record, named

OnError = Literal["raise", "skip"]
"""What a wrong row does: it stops the reading, or is left out and counted."""

logger = logging.getLogger(__name__)


class Source:
    """The records of one dataset, read anew at every iteration.

    Its format says what they are: chains, or comparisons and ratings.

    Args:
        path: File, folder, glob, saved dataset, or name of a Hugging Face dataset. From Python also
            the rows: a list of them, a `datasets.Dataset`, or a table.
        format: What the rows look like.
        name: Name of the source; by default the row's own, else the file's name without suffix.
        split: Split of a Hugging Face or saved dataset.
        limit: Largest number of records; `None` for all. They are the first ones, which a sorted
            file makes a poor sample of, unless there is a `sample_seed`.
        streaming: Whether to stream a Hugging Face dataset instead of downloading it.
        on_error: Whether a wrong row, or one whose id came before, stops the reading (`raise`) or
            is left out (`skip`), counted and reported in the log.
        config_name: Configuration (subset) of a Hugging Face dataset.
        weight: Factor of this source's share of an epoch, above 0; the share is otherwise what
            `Sampling` gives it. Needs a name.
        sample_seed: Draw the records of `limit` at random, each as likely as any other, with this
            seed. They stay in their order; all rows are read.

    Raises:
        ConfigError: The limit is below 1, or there is a seed without one; the weight is not above
            0, or there is one and no name.
        DataError: While iterating: a row is wrong, or two records have the same id.
    """

    def __init__(
        self,
        path: str | Any,
        format: Format,
        name: str | None = None,
        split: str | None = None,
        limit: int | None = None,
        streaming: bool = False,
        on_error: OnError = "raise",
        config_name: str | None = None,
        weight: float | None = None,
        sample_seed: int | None = None,
    ) -> None:
        data = as_data(path)
        if limit is not None and limit < 1:
            raise ConfigError("limit is wrong", expected="at least 1, or null", got=limit)
        if sample_seed is not None and limit is None:
            raise ConfigError(
                "a sample_seed needs a limit", fix="Set limit, the size of the sample"
            )
        if weight is not None and not (weight > 0 and math.isfinite(weight)):
            raise ConfigError("weight is wrong", expected="a number above 0", got=weight)
        if weight is not None and name is None:
            where = place(data)
            raise ConfigError("a weighted source needs a name", where=where, fix="Set name")
        self.path = data
        self.format = format
        self.name = name
        self.split = split
        self.limit = limit
        self.streaming = streaming
        self.on_error = on_error
        self.config_name = config_name
        self.weight = weight
        self.sample_seed = sample_seed

    def __iter__(self) -> Iterator[Any]:
        """Yield `Chain`s, or `Comparison`s and `Rating`s."""
        skipped = Skipped()
        yield from self.records(skipped)
        for line in skipped.lines():
            logger.warning("%s: %s", place(self.path), line)

    def records(self, skipped: Skipped, *, unique: bool = True) -> Iterator[Any]:
        """Yield the records, and note in `skipped` what is left out.

        Args:
            skipped: Counts the rows that are left out.
            unique: Whether a record whose id came before is wrong.

        Raises:
            DataError: A row is wrong and `on_error` says to stop, or the rest cannot be read.
        """
        for result in self._results(unique=unique):
            if not isinstance(result, DataError):
                yield result
            elif self.on_error == "raise":
                raise result
            else:
                skipped.add(result)

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
        if isinstance(self.path, str):
            states = [(str(file), file.stat()) for file in data_files(self.path)]
            files: Any = [[name, state.st_size, state.st_mtime_ns] for name, state in states]
        else:
            options["path"], files = place(self.path), fingerprint(self.path)
        plain: dict[str, Any] = json.loads(json.dumps(options | {"files": files}, default=repr))
        return plain

    def results(self, *, unique: bool = True) -> Iterator[Any]:
        """Yield each record, or the error that stands in its place.

        Args:
            unique: Whether a record whose id came before is an error.

        Raises:
            DataError: Not even one row can be read.
        """
        results = self._results(unique=unique)
        first = next(results, None)
        if first is None:
            return
        yield first
        try:
            yield from results
        except DataError as error:
            yield error

    def _results(self, *, unique: bool = True) -> Iterator[Any]:
        """Yield each record, or the error in its place; raise where the reading ends early."""
        results = self._every_result(unique)
        if self.limit is None:
            return results
        if self.sample_seed is None:
            return _first(results, self.limit)
        return _sampled(results, self.limit, self.sample_seed)

    def _every_result(self, unique: bool) -> Iterator[Any]:
        origins = Origins()
        for result in self._named_records():
            if unique and not isinstance(result, DataError):
                first = origins.first((result.source, result.id), result.origin)
                if first is not None:
                    yield _duplicate_id(result, first)
                    continue
            yield result

    def _named_records(self) -> Iterator[Any]:
        """Yield each record under its final id and source, or the error that stands in its place.

        The records of one row share its origin and are numbered `name-3.0`, `name-3.1`.
        """
        options: dict[str, Any] = {"split": self.split, "config_name": self.config_name}
        rows = row_results(self.path, **options, streaming=self.streaming)
        for index, row in enumerate(rows):
            if isinstance(row, DataError):
                yield row
                continue
            try:
                records: Sequence[Any] = self.format.records(*row)
            except DataError as error:
                yield error
                continue
            except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
                yield _unexpected(error, row[1])
                continue
            for part, record in enumerate(records):
                number = f"{index}.{part}" if len(records) > 1 else str(index)
                source = self.name or record.source or _default_name(self.path)
                yield named(record, record.id or f"{source}-{number}", source)


def _first(results: Iterator[Any], size: int) -> Iterator[Any]:
    """Yield what comes up to the last of the first records."""
    for result in results:
        yield result
        size -= not isinstance(result, DataError)
        if size == 0:
            return


def _sampled(results: Iterator[Any], size: int, seed: int) -> Iterator[Any]:
    """Yield errors as they come, then some of the records, in their order.

    Source: Vitter 1985, ACM Transactions on Mathematical Software 11, 37-57, algorithm R.
    """
    random = Random(seed)
    kept: list[tuple[int, Any]] = []
    seen = 0
    for result in results:
        if isinstance(result, DataError):
            yield result
            continue
        seen += 1
        if len(kept) < size:
            kept.append((seen, result))
        elif (place := random.randrange(seen)) < size:
            kept[place] = (seen, result)
    yield from (record for _, record in sorted(kept, key=itemgetter(0)))


class Skipped:
    """The rows that are left out: how many for each reason, and the first one.

    Example:
        >>> skipped = Skipped()
        >>> for line in (1, 2):
        ...     skipped.add(DataError("label 3 is wrong", got=7, where=f"a.jsonl:{line}"))
        >>> skipped.lines()
        ['2 rows left out; the first: a.jsonl:1: label 3 is wrong: got 7']
    """

    def __init__(self) -> None:
        self._reasons: dict[str, tuple[int, DataError]] = {}

    def add(self, error: DataError) -> None:
        """Count a row; errors that differ in a number or an id only are of one reason."""
        reason = re.sub(r"\d+|(?<= id )(['\"]).*\1", "#", error.problem)
        count, first = self._reasons.get(reason, (0, error))
        self._reasons[reason] = (count + 1, first)

    @property
    def count(self) -> int:
        """Number of rows that were left out."""
        return sum(count for count, _ in self._reasons.values())

    def lines(self) -> list[str]:
        """Return a line for each reason, the most frequent first."""
        most = sorted(self._reasons.values(), key=lambda reason: -reason[0])
        return [f"{count:,} rows left out; the first: {first}" for count, first in most]


def place(data: object) -> str:
    """Return what errors call a source's data: their path, or that they are rows in memory."""
    return data if isinstance(data, str) else NAME


def _default_name(data: object) -> str:
    """Return a file's name without suffix, or the name of the folder that a pattern looks in."""
    parts = [part for part in Path(place(data)).parts if not glob.has_magic(part)]
    return Path(parts[-1]).name.split(".")[0] if parts else "data"


def _unexpected(error: Exception, origin: str) -> DataError:
    """Return the error of a row that is built otherwise than its format thought possible."""
    return DataError(
        "the row is not built as its format expects",
        got=f"{type(error).__name__}: {error}",
        where=origin,
        fix="Is this the right format for the file?",
    )


def _duplicate_id(record: Record, first_origin: str) -> DataError:
    return DataError(
        f"two records have the id {record.id!r}",
        expected="ids that are unique within a source",
        got=f"the same id at {first_origin}",
        where=record.origin,
    )
