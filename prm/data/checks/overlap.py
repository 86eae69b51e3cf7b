"""Problems that training and evaluation sets share, and how to remove or report them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from prm.data.checks.linter import Check, Finding, Tally
from prm.data.checks.problems import ProblemIndex as ProblemIndex
from prm.data.checks.problems import normalize_problem as normalize_problem
from prm.records import Record

Kept = TypeVar("Kept", bound=Record)


class Overlap(Check[Record]):
    """The linter's check: finds records whose problem is also in an evaluation set."""

    def __init__(self, evaluation: ProblemIndex) -> None:
        self._evaluation = evaluation
        self._problems: set[int] = set()
        self._tally = Tally("evaluation_overlap", "error", "")

    def see(self, record: Record) -> None:
        """Look a record's problem up."""
        found = self._evaluation.find(record)
        if found:
            self._problems.add(min(found))
            self._tally.add(record, f"also in {', '.join(sorted(set().union(*found.values())))}")

    def findings(self) -> list[Finding]:
        """Return the records, and how many problems they are about."""
        self._tally.message = f"rows about {len(self._problems)} problems of evaluation sets"
        return super().findings()


@dataclass
class Decontamination:
    """What `without_overlap` has removed so far."""

    num_kept: int = 0
    num_removed: int = 0
    problems: set[int] = field(default_factory=set)
    removed_by_set: dict[str, int] = field(default_factory=dict)
    removed_ids: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, object]:
        """Return the report as JSON values."""
        return {
            "num_kept": self.num_kept,
            "num_removed": self.num_removed,
            "num_removed_problems": len(self.problems),
            "num_removed_by_evaluation_set": dict(sorted(self.removed_by_set.items())),
            "removed_ids": self.removed_ids,
        }


def without_overlap(
    records: Iterable[Kept], index: ProblemIndex, removed: Decontamination
) -> Iterator[Kept]:
    """Yield the records whose problem is in no evaluation set, and count the others in `removed`.

    Example:
        >>> from prm.records import Chain
        >>> test = ProblemIndex.of([Chain("1 + 1 = ?", ["2"], source="test")])
        >>> removed = Decontamination()
        >>> train = [Chain("1+1=", ["3"]), Chain("1-1=", ["0"])]
        >>> [chain.prompt for chain in without_overlap(train, test, removed)], removed.num_removed
        (['1-1='], 1)
    """
    for record in records:
        found = index.find(record)
        if not found:
            removed.num_kept += 1
            yield record
            continue
        removed.num_removed += 1
        removed.problems.add(min(found))
        removed.removed_ids.append(record.id)
        for name in set().union(*found.values()):
            removed.removed_by_set[name] = removed.removed_by_set.get(name, 0) + 1
