"""Writing leaves either the whole result or what was there before."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from prm.atomic import atomic_file, atomic_folder, write_text
from prm.errors import DataError, OutputError

MARKER = "marker.json"


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_folder(path: Path, text: str) -> None:
    with atomic_folder(path, MARKER) as temporary:
        (temporary / MARKER).write_text(text)


def test_a_file_is_written_with_its_parents(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b.txt", "naïve ∑\n")
    assert (tmp_path / "a" / "b.txt").read_bytes() == "naïve ∑\n".encode()


def write_half(path: Path) -> None:
    with atomic_file(path) as stream:
        stream.write(b"half")
        raise RuntimeError("stop")


def write_half_a_folder(path: Path) -> None:
    with atomic_folder(path, MARKER) as temporary:
        (temporary / MARKER).write_text("half")
        raise RuntimeError("stop")


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError, match="stop"):
        write_half(path)
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["a.txt"]


def test_the_file_is_not_there_before_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with atomic_file(path) as stream:
        stream.write(b"half")
        stream.flush()
        assert not path.exists()
    assert path.read_bytes() == b"half"


def test_a_full_disk_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"a\.txt: cannot write: got No space left on device"):
        write_text(tmp_path / "a.txt", "text")
    assert names_in(tmp_path) == []


def test_a_file_in_the_way_of_the_folder_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a file")
    with pytest.raises(OutputError, match="cannot write"):
        write_text(tmp_path / "a" / "b.txt", "text")


def test_a_folder_in_the_way_of_the_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        write_text(tmp_path / "a", "text")
    assert names_in(tmp_path) == ["a"]


def test_errors_of_the_block_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="bad row"), atomic_file(tmp_path / "a.txt"):
        raise DataError("bad row")


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "text")
        write_folder(tmp_path / "b", "text")
    finally:
        os.umask(old)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o750


def test_a_folder_of_the_same_kind_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "model"
    write_folder(path, "old")
    (path / "left_over.txt").write_text("old")
    write_folder(path, "new")
    assert names_in(path) == [MARKER]
    assert (path / MARKER).read_text() == "new"
    assert names_in(tmp_path) == ["model"]


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    write_folder(tmp_path / "model", "new")
    assert (tmp_path / "model" / MARKER).read_text() == "new"


def test_a_folder_with_other_content_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="holds something else"):
        write_folder(tmp_path, "new")
    assert names_in(tmp_path) == ["thesis.txt"]


def test_a_file_where_the_folder_should_be_is_never_touched(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_text("a file")
    with pytest.raises(OutputError):
        write_folder(path, "new")
    assert path.read_text() == "a file"


def test_a_failed_folder_keeps_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "model"
    write_folder(path, "old")
    with pytest.raises(RuntimeError, match="stop"):
        write_half_a_folder(path)
    assert (path / MARKER).read_text() == "old"
    assert names_in(tmp_path) == ["model"]


def test_a_failed_swap_brings_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model"
    write_folder(path, "old")
    replace = Path.replace

    def fail_for_new(self: Path, target: Path) -> Path:
        if self.suffix == ".part":
            raise OSError(errno.EIO, "Input/output error")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail_for_new)
    with pytest.raises(OutputError, match="Input/output error"):
        write_folder(path, "new")
    assert (path / MARKER).read_text() == "old"
    assert names_in(tmp_path) == ["model"]
