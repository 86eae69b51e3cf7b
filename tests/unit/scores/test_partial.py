"""A file that is filled block by block, and continued after its last whole block."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from prm.scores.partial import PartialFile

ROWS = [{"n": index} for index in range(7)]


class Seen:
    def __init__(self) -> None:
        self.num_resumed = -1
        self.numbers: list[int] = []

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self.numbers += [row["n"] for row in rows]


def blocks(start: int, closed: list[bool]) -> Generator[list[dict[str, int]], None, None]:
    try:
        for first in range(start, len(ROWS), 2):
            yield ROWS[first : first + 2]
    finally:
        closed.append(True)


def test_a_file_is_filled_in_several_runs(tmp_path: Path) -> None:
    partial = PartialFile(tmp_path / "a.jsonl", {}, 2)
    reports: list[int] = []
    closed: list[bool] = []

    def stop(seen: Seen) -> None:
        reports.append(len(seen.numbers))
        if len(seen.numbers) == 4:
            raise KeyboardInterrupt

    with partial.opened(), pytest.raises(KeyboardInterrupt):
        partial.fill(blocks(0, closed), Seen(), stop)
    assert (reports, closed) == ([0, 2, 4], [True])

    again, seen = PartialFile(tmp_path / "a.jsonl", {}, 2), Seen()
    with again.opened():
        again.fill(blocks(again.num_rows, closed), seen)
        again.publish()
    assert seen.num_resumed == 4
    assert seen.numbers == [row["n"] for row in ROWS]
    assert (tmp_path / "a.jsonl").read_text().count("\n") == len(ROWS)
