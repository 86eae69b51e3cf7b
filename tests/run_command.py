"""What `tests.runs.start` runs in its process: one command of `prm`, its output in a log file."""

import os
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from prm.cli.main import main


def hold(name: str, count: int) -> None:
    """Stop for ever before a file of this name is replaced for the n-th time, and say so."""
    replace = Path.replace

    def held(self: Path, target: Any) -> Path:
        nonlocal count
        if Path(target).name == name:
            count -= 1
            if count == 0:
                Path("held").touch()
                signal.pause()
        return replace(self, target)

    Path.replace = held  # type: ignore[assignment,method-assign]


def run(folder: str, words: list[str], environment: dict[str, str]) -> int:
    """Run a command in a folder and return its exit code."""
    os.chdir(folder)
    os.environ.update(environment)
    if "HOLD" in environment:
        name, count = environment["HOLD"].split(":")
        hold(name, int(count))
    log = Path(f"rank{environment.get('LOCAL_RANK', '')}.log")
    with (
        log.open("w", encoding="utf-8") as output,
        redirect_stdout(output),
        redirect_stderr(output),
    ):
        return main(words)


if __name__ == "__main__":
    given: dict[str, Any] = globals()
    sys.exit(run(given["FOLDER"], given["WORDS"], given["ENVIRONMENT"]))
