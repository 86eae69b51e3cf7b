"""What the linter reports, and the loop that shows every record to its checks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, Literal, TypeVar

from prm.errors import DataError, PrmError
from prm.records import Chain, Comparison, Outcome, Rating, Record

Severity = Literal["error", "warning", "info"]
Seen = TypeVar("Seen", bound=Record)
SeenBy = TypeVar("SeenBy", bound=Record, contravariant=True)


@dataclass(frozen=True)
class Example:
    """One place where a finding was made."""

    origin: str
    id: str
    detail: str


@dataclass(frozen=True)
class Finding:
    """One kind of observation about a data set.

    Args:
        kind: Its name, such as `duplicate_row`.
        severity: `error` (do not train on this), `warning` (look at it) or `info`.
        message: What was seen, in one sentence.
        count: How often.
        examples: The first places.
        table: Rows of numbers, for findings that are statistics.
    """

    kind: str
    severity: Severity
    message: str
    count: int
    examples: tuple[Example, ...] = ()
    table: tuple[dict[str, Any], ...] = ()


@dataclass
class Tally:
    """Counts one kind of finding and keeps its first examples.

    Example:
        >>> from prm.records import Chain
        >>> tally = Tally("empty_step", "warning", "steps without text")
        >>> tally.add(Chain("?", ["x", ""], id="a", origin="f:1"), "step 2")
        >>> tally.findings()[0].count
        1
    """

    kind: str
    severity: Severity
    message: str
    max_examples: int = 5
    count: int = 0
    examples: list[Example] = field(default_factory=list)

    def add(self, record: Record, detail: str) -> None:
        """Count one occurrence in a record."""
        self.add_example(Example(record.origin, record.id, detail))

    def add_error(self, error: PrmError) -> None:
        """Count one row that could not be read."""
        detail = str(error).removeprefix(f"{error.where}: ")
        self.add_example(Example(error.where or "", "", detail))

    def add_example(self, example: Example) -> None:
        """Count one occurrence at a known place."""
        self.count += 1
        if len(self.examples) < self.max_examples:
            self.examples.append(example)

    def findings(self) -> list[Finding]:
        """Return the finding, or nothing if it never occurred."""
        if not self.count:
            return []
        return [Finding(self.kind, self.severity, self.message, self.count, tuple(self.examples))]


class Check(Generic[SeenBy]):
    """One check: it sees every record once, then tells what it found."""

    def see(self, record: SeenBy, /) -> None:
        """Look at one record."""
        raise NotImplementedError

    def findings(self) -> list[Finding]:
        """Return what was found, nothing if all is well; by default what the tallies counted."""
        tallies = [value for value in vars(self).values() if isinstance(value, Tally)]
        return [finding for tally in tallies for finding in tally.findings()]


class OutcomeCheck(Check[Outcome]):
    """A check that looks at comparisons and ratings apart; a subclass says what it looks at."""

    def see(self, record: Outcome) -> None:
        """Look at one record."""
        if isinstance(record, Comparison):
            self.see_comparison(record)
        else:
            self.see_rating(record)

    def see_comparison(self, record: Comparison) -> None:
        """Look at a comparison; by default not."""

    def see_rating(self, record: Rating) -> None:
        """Look at a rating; by default not."""


@dataclass(frozen=True)
class CheckReport:
    """What the linter found in one data set.

    Args:
        counts: What could be read: chains, steps and labels, or comparisons and ratings.
        findings: Errors first, then warnings, then information.
    """

    counts: Mapping[str, int]
    findings: tuple[Finding, ...]

    @property
    def has_errors(self) -> bool:
        """Whether any finding is an error."""
        return any(finding.severity == "error" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        counts = {f"num_{name}": count for name, count in self.counts.items()}
        return {**counts, "findings": [asdict(finding) for finding in self.findings]}


class Linter(Generic[Seen]):
    """Shows every record to every check once.

    Args:
        checks: The checks.
        units: What to count, by name: how many of them a record holds.
    """

    def __init__(
        self, checks: Sequence[Check[Seen]], units: Mapping[str, Callable[[Seen], int]]
    ) -> None:
        self._checks = checks
        self._units = units

    def run(self, records: Iterable[Seen | DataError]) -> CheckReport:
        """Report what the checks find in records, or in the errors that stand in their place.

        Raises:
            DataError: Something is neither.
        """
        unreadable = Tally("unreadable_row", "error", "rows that cannot be read")
        counts = dict.fromkeys(self._units, 0)
        for record in records:
            if isinstance(record, DataError):
                unreadable.add_error(record)
                continue
            if not isinstance(record, Chain | Comparison | Rating):
                raise DataError(
                    "this is no record",
                    expected="chains, comparisons or ratings, as `Source(rows, format).results()`",
                    got=record,
                )
            for name, number in self._units.items():
                counts[name] += number(record)
            for check in self._checks:
                check.see(record)
        found = unreadable.findings()
        found += [finding for check in self._checks for finding in check.findings()]
        order = ("error", "warning", "info")
        found.sort(key=lambda finding: order.index(finding.severity))
        return CheckReport(counts, tuple(found))
