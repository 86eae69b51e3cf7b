"""Writing that leaves either the whole result or what was there before."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from prm.errors import OutputError, PrmError


@contextmanager
def atomic_file(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a temporary file that takes the place of `path` when the block ends without an error.

    Raises:
        OutputError: The file cannot be written (no such folder, no permission, disk full).

    Example:
        >>> folder = tempfile.mkdtemp()
        >>> with atomic_file(f"{folder}/a.txt") as stream:
        ...     _ = stream.write(b"whole")
        >>> Path(folder, "a.txt").read_text()
        'whole'
    """
    path = Path(path)
    with (
        _named_failure(path),
        folder_for(path),
        tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=".part", delete=False
        ) as stream,
    ):
        temporary = Path(stream.name)
        try:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file atomically; raises as `atomic_file`."""
    with atomic_file(path) as stream:
        stream.write(text.encode("utf-8"))


@contextmanager
def atomic_folder(path: str | Path, marker: str) -> Iterator[Path]:
    """Give a temporary folder that becomes `path` when the block ends without an error.

    An existing folder is replaced only if it holds the file `marker`, so that a mistyped path never
    deletes anything that was not written by the same function.

    Raises:
        OutputError: The folder cannot be written, or holds something else.
    """
    path = Path(path)
    with _named_failure(path), folder_for(path):
        if path.exists() and not (path / marker).is_file() and any(path.iterdir()):
            raise OutputError(
                "the output folder holds something else",
                expected=f"a new folder, or one with {marker}",
                where=str(path),
                fix="Name another folder",
            )
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
        try:
            yield temporary
            _open_to_readers(temporary)
            swap(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def folder_for(path: Path) -> Iterator[None]:
    """Make the folders above `path`; those that are new go again if the block leaves them empty.

    Raises:
        OSError: They cannot be made, or one of them is a file.
    """
    new = [folder for folder in path.parents if not folder.exists()]
    if path.parent.exists() and not path.parent.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with suppress(OSError):
            for folder in new:
                folder.rmdir()


def swap(new: Path, path: Path) -> None:
    """Put a file or folder in the place of another, of whichever kind."""
    if not path.exists():
        new.replace(path)
        return
    old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".old"))
    path.replace(old / path.name)
    try:
        new.replace(path)
    except OSError:
        (old / path.name).replace(path)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _open_to_readers(folder: Path) -> None:
    """Give a folder and its files the modes that the user's umask gives new ones."""
    folder.chmod(0o777 & ~_umask())
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~_umask())


@contextmanager
def _named_failure(path: Path) -> Iterator[None]:
    try:
        yield
    except PrmError:
        raise
    except OSError as error:
        raise OutputError(
            "cannot write", got=error.strerror or str(error), where=str(path)
        ) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
