"""What the linter reports: findings with examples, and the tally that collects them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from prm.errors import PrmError
from prm.records import Chain

Severity = Literal["error", "warning", "info"]


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

    def to_json(self) -> dict[str, Any]:
        """Return the finding as JSON values."""
        return asdict(self)


@dataclass
class Tally:
    """Counts one kind of finding and keeps its first examples.

    Example:
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

    def add(self, chain: Chain, detail: str) -> None:
        """Count one occurrence in a chain."""
        self._add(Example(chain.origin, chain.id, detail))

    def add_error(self, error: PrmError) -> None:
        """Count one row that could not be read."""
        detail = str(error).removeprefix(f"{error.where}: ")
        self._add(Example(error.where or "", "", detail))

    def findings(self) -> list[Finding]:
        """Return the finding, or nothing if it never occurred."""
        if not self.count:
            return []
        return [Finding(self.kind, self.severity, self.message, self.count, tuple(self.examples))]

    def _add(self, example: Example) -> None:
        self.count += 1
        if len(self.examples) < self.max_examples:
            self.examples.append(example)
