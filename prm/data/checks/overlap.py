"""Problems that training and evaluation sets share, and how to remove or report them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from prm.data.checks.linter import Check, Finding, Tally
from prm.data.formats.base import PROBLEM
from prm.records import Record, prompt_text

Kept = TypeVar("Kept", bound=Record)

_LAYOUT = re.compile(
    r"\\(?:left|right|displaystyle|textstyle)(?![a-z])|\\[,;:! ]|\\?\$|[\s{}]|(?<=\\)[dt](?=frac)"
)


def normalize_problem(text: str) -> str:
    r"""Return a problem's text without what changes between copies of it.

    Case, white space, Unicode forms, LaTeX layout commands, braces, dollar signs and the last
    full stop or question mark go; digits, letters and operators stay.

    Example:
        >>> normalize_problem(r"What is $\dfrac{1}{2} + x$ ?") == normalize_problem(
        ...     r"what is \frac{1}{2}+x"
        ... )
        True
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _LAYOUT.sub("", folded).rstrip(".?!")


def problem_keys(record: Record) -> set[str]:
    """Return the normalized texts of a record's problem: the bare problem and the whole prompt."""
    texts = (str(record.metadata.get(PROBLEM) or ""), prompt_text(record.prompt))
    return {key for text in texts if (key := normalize_problem(text))}


@dataclass
class ProblemIndex:
    """Problems of evaluation sets, by normalized text.

    Args:
        sources: Normalized text to the names of the sets that hold it.
    """

    sources: dict[str, set[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, records: Iterable[Record]) -> ProblemIndex:
        """Index the problems of records."""
        index = cls()
        for record in records:
            for key in problem_keys(record):
                index.sources.setdefault(key, set()).add(record.source)
        return index

    def sets_with(self, record: Record) -> set[str]:
        """Return the names of the sets that hold the record's problem."""
        if not self.sources:
            return set()
        return set().union(*(self.sources.get(key, ()) for key in problem_keys(record)))


class Overlap(Check[Record]):
    """The linter's check: finds records whose problem is also in an evaluation set."""

    def __init__(self, evaluation: ProblemIndex) -> None:
        self._evaluation = evaluation
        self._problems: set[str] = set()
        self._tally = Tally("evaluation_overlap", "error", "")

    def see(self, record: Record) -> None:
        """Look a record's problem up."""
        names = self._evaluation.sets_with(record)
        if names:
            self._problems.add(record.group)
            self._tally.add(record, f"also in {', '.join(sorted(names))}")

    def findings(self) -> list[Finding]:
        """Return the records, and how many problems they are about."""
        self._tally.message = f"rows about {len(self._problems)} problems of evaluation sets"
        return super().findings()


@dataclass
class Decontamination:
    """What `without_overlap` has removed so far."""

    num_kept: int = 0
    num_removed: int = 0
    problems: set[str] = field(default_factory=set)
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
        names = index.sets_with(record)
        if not names:
            removed.num_kept += 1
            yield record
            continue
        removed.num_removed += 1
        removed.problems.add(min(problem_keys(record) & index.sources.keys()))
        removed.removed_ids.append(record.id)
        for name in names:
            removed.removed_by_set[name] = removed.removed_by_set.get(name, 0) + 1
