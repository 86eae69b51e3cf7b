"""`PartialFile`: rows that survive a kill, and are continued exactly where they stop."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

from prm.atomic import folder_for, write_text
from prm.errors import ConfigError, OutputError, PrmError
from prm.locks import lock
from prm.scores.rows import Row

T = TypeVar("T")


def in_blocks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield items in lists of `size`; the last one may be shorter.

    Example:
        >>> list(in_blocks("abcde", 2))
        [['a', 'b'], ['c', 'd'], ['e']]
    """
    rest = iter(items)
    while block := list(islice(rest, size)):
        yield block


class Progress(Protocol):
    """Counts the rows of a file while it is filled."""

    num_resumed: int
    """Rows that an earlier, interrupted run had written."""

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Count rows."""


P = TypeVar("P", bound=Progress)


class PartialFile:
    """JSON lines on their way to becoming `output`.

    Rows are in `<output>.partial`, in blocks that are synced to the disk one by one;
    `<output>.partial.json` says what they were made with. Opening cuts off whatever follows the
    last whole block, so that a continued file consists of the same blocks as an uninterrupted one.

    Args:
        output: The file that the rows are for.
        settings: What must be equal for rows to be continued; JSON values by name.
        block: Rows in a block, at least 1.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any], block: int) -> None:
        self.output = output
        self.path = output.with_name(f"{output.name}.partial")
        self.settings_path = output.with_name(f"{output.name}.partial.json")
        self.settings = settings
        self.block = block
        self.num_rows = 0

    @contextmanager
    def opened(self, *, overwrite: bool = False) -> Iterator[None]:
        """Open the file for `fill` and `rows`; one without a row is removed afterwards.

        Args:
            overwrite: Start anew if the rows there were made with other settings.

        Raises:
            ConfigError: The rows there were made with other settings, and `overwrite` is false.
            OutputError: The file cannot be written, or another process is writing it.
        """
        with ExitStack() as stack:
            with self._naming_failures():
                stack.enter_context(folder_for(self.output))
                self._stream = stack.enter_context(self.path.open("a+b"))
            if not lock(self._stream, self.path):
                raise OutputError(
                    "another process is writing these scores",
                    where=str(self.path),
                    fix="Wait for it, or name another output",
                )
            with self._naming_failures():
                self._prepare(overwrite)
            try:
                yield
            finally:
                if self.num_rows == 0:
                    self.remove()

    def fill(
        self,
        blocks: Generator[Sequence[Mapping[str, Any]], None, None],
        progress: P,
        on_block: Callable[[P], None] | None = None,
    ) -> None:
        """Append blocks of rows, and count all rows, those that were there first.

        Args:
            blocks: The rows that follow those that are there, `block` at a time; closed at the end,
                whatever happens.
            progress: Counts them.
            on_block: Called with it at the start and after every block.

        Raises:
            OutputError: A block cannot be written; those before it stay.
        """
        report = on_block or (lambda progress: None)
        with closing(blocks):
            progress.num_resumed = self.num_rows
            progress.add(self.rows())
            report(progress)
            for rows in blocks:
                self.append(rows)
                progress.add(rows)
                report(progress)

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows and wait until they are on the disk.

        Raises:
            OutputError: They cannot be written; the rows before them stay.
        """
        data = b"".join(_encoded(row) for row in rows)
        with self._naming_failures():
            self._stream.write(data)
            self._stream.flush()
            os.fsync(self._stream.fileno())
        self.num_rows += len(rows)

    def rows(self) -> Iterator[Row]:
        """Yield the rows written so far."""
        self._stream.seek(0)
        return (json.loads(line) for line in self._stream)

    def publish(self) -> None:
        """Make the rows the output, as JSON lines.

        Raises:
            OutputError: The file cannot be renamed.
        """
        with self._naming_failures():
            self.path.replace(self.output)
            self.settings_path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the rows and their settings."""
        self.path.unlink(missing_ok=True)
        self.settings_path.unlink(missing_ok=True)

    def _prepare(self, overwrite: bool) -> None:
        """Keep the rows that can be continued; settings are on the disk before the first row."""
        if os.fstat(self._stream.fileno()).st_size > 0:
            change = self._change()
            if change is None:
                self._cut_after_last_block()
                return
            if not overwrite:
                raise change
            self._stream.truncate(0)
        try:
            write_text(self.settings_path, json.dumps(self.settings, indent=2) + "\n")
        except OutputError:
            self.remove()
            raise

    def _change(self) -> ConfigError | None:
        """Return the error that names the first setting that is not as it was."""
        try:
            old = json.loads(self.settings_path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            old = {}
        for name, value in self.settings.items():
            if name not in old or old[name] != value:
                return ConfigError(
                    f"the unfinished scores there were made with another {name}",
                    expected=f"{name} {old.get(name, 'unknown')}",
                    got=f"{name} {value}",
                    where=str(self.path),
                    fix="Repeat the old command to continue, or give --overwrite to start anew",
                )
        return None

    def _cut_after_last_block(self) -> None:
        self._stream.seek(0)
        end = position = 0
        for count, line in enumerate(self._stream, start=1):
            if not line.endswith(b"}\n"):
                break
            position += len(line)
            if count % self.block == 0:
                self.num_rows, end = count, position
        self._stream.truncate(end)

    @contextmanager
    def _naming_failures(self) -> Iterator[None]:
        try:
            yield
        except PrmError:
            raise
        except OSError as error:
            raise OutputError(
                "the scores cannot be written",
                got=error.strerror or str(error),
                where=str(self.output),
                fix=f"{self.num_rows} rows are safe in {self.path.name}; the same command "
                "continues after them"
                if self.num_rows
                else None,
            ) from error


def _encoded(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n"
