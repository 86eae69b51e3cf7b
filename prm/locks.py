"""Locks between processes: they end with the process that holds them, however that ends."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from prm.atomic import folder_for
from prm.errors import ConfigError, OutputError

logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"
"""The file in a folder whose lock says that a process is writing there."""

_of_folders: set[IO[bytes]] = set()


def lock(stream: IO[bytes], path: Path, *, wait: bool = False) -> bool:
    """Lock an open file until it is closed. Where the file system has no locks, all get it.

    Args:
        stream: The file.
        path: Where it lies.
        wait: Wait until no other process holds it.

    Returns:
        False if another process holds it, or has removed or renamed it since it was opened.
    """
    import fcntl

    try:
        fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        logger.debug("%s: the file system has no locks", path)
    return path.exists() and os.path.samestat(os.fstat(stream.fileno()), path.stat())


@contextmanager
def alone_in(folder: Path, fix: str) -> Iterator[None]:
    """Keep other processes that ask for it out of a folder, which is made if there is none.

    Args:
        folder: The folder; one that is new and stays empty is removed at the end.
        fix: What who is kept out can do.

    Raises:
        ConfigError: Another process is writing there.
        OutputError: The folder cannot be written.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with alone_in(folder, "Wait"), alone_in(folder, "Wait"):
        ...     pass
        Traceback (most recent call last):
        prm.errors.ConfigError: ...: another process is writing into this folder. Wait
    """
    path = folder / LOCK_FILE
    with ExitStack() as stack:
        try:
            stack.enter_context(folder_for(path))
            stream = stack.enter_context(path.open("ab"))
        except OSError as error:
            raise OutputError("cannot write", got=error.strerror, where=str(path)) from error
        if not lock(stream, path):
            problem = "another process is writing into this folder"
            raise ConfigError(problem, where=str(folder), fix=fix)
        _of_folders.add(stream)
        try:
            yield
        finally:
            _of_folders.discard(stream)
            with suppress(OSError):
                path.unlink()


def _let_go() -> None:
    """Close what a forked process inherited: it may outlive the one that holds the locks."""
    for stream in _of_folders:
        stream.close()
    _of_folders.clear()


os.register_at_fork(after_in_child=_let_go)
