"""Commands that must be refused: one clear line of error, and nothing on the disk has changed."""

from __future__ import annotations

import functools
import io
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import prm.cli.fit  # noqa: F401  # Lightning logs to the standard error of its first import
from prm.cli.main import main

Arrange = Callable[[Path, pytest.MonkeyPatch], object]
"""Changes the folder that a command runs in, or the world around it."""

DOCUMENTED = Path(__file__).resolve().parents[1] / "docs" / "reference" / "errors.md"


@dataclass(frozen=True)
class Case:
    """One kind of bad input.

    Args:
        name: What is wrong.
        command: The words after `prm`, separated by spaces.
        says: Texts that the error must contain.
        files: Name to content of files that are there.
        arrange: What else is wrong.
        stdin: What is piped in.
    """

    name: str
    command: str
    says: tuple[str, ...]
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    arrange: Arrange | None = None
    stdin: str | bytes = ""


def refuse(
    case: Case,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Run a case in `folder`, the working directory, and check its error."""
    for name, content in case.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(_bytes(content))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(_bytes(case.stdin))))
    if case.arrange is not None:
        case.arrange(folder, monkeypatch)
    before = _everything(folder)
    capsys.readouterr()
    error = _only_error(_run(case.command.split()), capsys.readouterr().err)
    assert _everything(folder) == before
    for text in case.says:
        assert text in error
    assert _as_documented(case.name, error)


@functools.cache
def documented_errors() -> dict[str, str]:
    """Return what is wrong and the error shown for it, from the tables of the documentation."""
    rows = re.findall(r"^\| (.+?) \| ``? ?(.+?) ?``? \|", DOCUMENTED.read_text("utf-8"), re.M)
    return {name: error.replace("\\|", "|") for name, error in rows}


def _as_documented(name: str, error: str) -> bool:
    """Tell whether the documentation, where it shows the case, shows this error (or its start)."""
    shown = documented_errors().get(name, error)
    return error.startswith(shown.removesuffix(" …")) if shown.endswith(" …") else error == shown


def _run(words: list[str]) -> int:
    try:
        return main(words)
    except SystemExit as stop:
        return int(str(stop.code))


def _only_error(code: int, stderr: str) -> str:
    assert code == 2, stderr
    assert "Traceback" not in stderr
    lines = stderr.strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert lines[-1:] == errors, stderr
    return errors[0].removeprefix("error: ")


def _everything(folder: Path) -> dict[str, bytes | None]:
    """Return every path below a folder, hidden ones too, with the content of files."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def _bytes(content: str | bytes) -> bytes:
    return content.encode() if isinstance(content, str) else content
