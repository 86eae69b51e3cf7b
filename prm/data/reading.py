"""The units of some sources: read, decontaminated and grouped one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from prm.data.checks.overlap import ProblemIndex
from prm.data.items import Unit
from prm.data.sources.source import Source
from prm.records import Record
from prm.trees.units import units_of


@dataclass(frozen=True)
class Reading:
    """The units of some sources, read anew at every iteration.

    Args:
        sources: The sources.
        without: Sources whose problems are left out.
        say: Takes a line about what was left out.
    """

    sources: Sequence[Source[Any]]
    without: Sequence[Source[Any]]
    say: Callable[[str], None]

    def __iter__(self) -> Iterator[Unit]:
        return units_of(self._decontaminated() if self.without else _records(self.sources))

    def identity(self) -> list[Any]:
        """Return what decides the units, as JSON values."""
        return [[source.identity() for source in part] for part in (self.sources, self.without)]

    def _decontaminated(self) -> Iterator[Record]:
        index = ProblemIndex.of(_records(self.without))
        num_read = num_kept = 0
        for record in _records(self.sources):
            num_read += 1
            if not index.sets_with(record):
                num_kept += 1
                yield record
        self.say(f"decontamination took out {num_read - num_kept} of {num_read} records")


def _records(sources: Sequence[Source[Any]]) -> Iterator[Any]:
    for source in sources:
        yield from source
