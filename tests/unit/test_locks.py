"""One process writes into a folder at a time, and its lock ends with it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prm.errors import ConfigError, OutputError
from prm.locks import LOCK_FILE, alone_in

HOLDER = """
import os, sys, time
from pathlib import Path
from prm.locks import alone_in
with alone_in(Path(sys.argv[1]), ""):
    if os.fork() == 0:  # a worker of a loader, say
        time.sleep(60)
    print("held", flush=True)
    time.sleep(60)
"""


def refused(folder: Path) -> bool:
    try:
        with alone_in(folder, "Wait"):
            return False
    except ConfigError:
        return True


def test_a_folder_is_held_until_the_block_ends(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "run"
    with alone_in(folder, "Wait"):
        with pytest.raises(ConfigError) as caught, alone_in(folder, "Wait"):
            pass
        assert str(caught.value) == f"{folder}: another process is writing into this folder. Wait"
        assert not refused(tmp_path / "other")
    assert not refused(folder)
    assert list(tmp_path.iterdir()) == []


def write_and_fail(folder: Path) -> None:
    with alone_in(folder, "Wait"):
        (folder / "a.txt").touch()
        raise KeyError


def test_an_error_lets_go_and_what_was_written_stays(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        write_and_fail(tmp_path / "run")
    assert not refused(tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["a.txt"]


def test_the_lock_of_a_killed_process_is_gone_although_its_child_lives(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert refused(tmp_path)
        holder.kill()
        deadline = time.monotonic() + 10
        while refused(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not refused(tmp_path)
        os.killpg(holder.pid, signal.SIGKILL)
    assert not (tmp_path / LOCK_FILE).exists()


def test_a_file_system_without_locks_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert not refused(tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"), alone_in(tmp_path / "file" / "run", ""):
        pass
