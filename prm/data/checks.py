"""The linter of chains: what would make a training or an evaluation wrong, found before it runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from prm.data.findings import Finding, Tally
from prm.data.formats.base import ADJUSTED
from prm.data.label_statistics import LengthCorrelation, PositionBalance
from prm.data.overlap import ProblemIndex
from prm.data.text_checks import CountTokens, SpecialText, TextRules, Truncation
from prm.errors import DataError
from prm.records import Chain, StepLabels


class Check(Protocol):
    """One check: it sees every chain once, then tells what it found."""

    def see(self, chain: Chain) -> None:
        """Look at one chain."""

    def findings(self) -> list[Finding]:
        """Return what was found; nothing if all is well."""


@dataclass(frozen=True)
class CheckReport:
    """What the linter found in one data set.

    Args:
        num_chains: Chains that could be read.
        num_steps: Their steps.
        num_labels: Their step labels that are known, over all objectives.
        findings: Errors first, then warnings, then information.
    """

    num_chains: int
    num_steps: int
    num_labels: int
    findings: tuple[Finding, ...]

    @property
    def has_errors(self) -> bool:
        """Whether any finding is an error."""
        return any(finding.severity == "error" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "num_chains": self.num_chains,
            "num_steps": self.num_steps,
            "num_labels": self.num_labels,
            "findings": [finding.to_json() for finding in self.findings],
        }


def check_chains(
    chains: Iterable[Chain | DataError],
    *,
    count_tokens: CountTokens | None = None,
    max_length: int | None = None,
    evaluation_chains: Iterable[Chain] = (),
    rules: TextRules | None = None,
) -> CheckReport:
    """Look at every chain once and report what is wrong with the set.

    Args:
        chains: Chains, or the errors that stand in place of rows that could not be read
            (`ChainSource.results()`).
        count_tokens: Counts the tokens of a chain's prompt and steps; with `max_length`, chains
            that truncation would cut or empty are found.
        max_length: Largest number of tokens of a chain, at least 1.
        evaluation_chains: Chains whose problems must not be among `chains`.
        rules: What must not stand in texts; by default the separators of common step formats.

    Example:
        >>> chain = Chain("1 + 1 = ?", ["2"], [1])
        >>> report = check_chains([chain, chain])
        >>> [finding.kind for finding in report.findings if finding.severity == "warning"]
        ['duplicate_row', 'one_sided_labels']
    """
    unreadable = Tally("unreadable_row", "error", "rows that cannot be read")
    checks: list[Check] = [
        EmptySteps(),
        Repetition(),
        Annotation(),
        SpecialText(rules or TextRules()),
        Overlap(ProblemIndex.of(evaluation_chains)),
        PositionBalance(),
        LengthCorrelation(),
    ]
    if count_tokens is not None and max_length is not None:
        checks.append(Truncation(count_tokens, max_length))
    num_chains = num_steps = num_labels = 0
    for chain in chains:
        if isinstance(chain, DataError):
            unreadable.add_error(chain)
            continue
        num_chains += 1
        num_steps += len(chain.completions)
        num_labels += sum(label is not None for v in chain.labels.values() for label in v)
        for check in checks:
            check.see(chain)
    found = unreadable.findings() + [item for check in checks for item in check.findings()]
    order = ("error", "warning", "info")
    found.sort(key=lambda finding: order.index(finding.severity))
    return CheckReport(num_chains, num_steps, num_labels, tuple(found))


class EmptySteps:
    """Finds steps without text: they are never scored."""

    def __init__(self) -> None:
        self._tally = Tally("empty_step", "warning", "steps without text; they are never scored")

    def see(self, chain: Chain) -> None:
        """Look for empty steps."""
        for index, step in enumerate(chain.completions):
            if not step.strip():
                self._tally.add(chain, f"step {index + 1} of {len(chain.completions)}")

    def findings(self) -> list[Finding]:
        """Return the empty steps."""
        return self._tally.findings()


class Repetition:
    """Finds chains that come again, with the same labels (duplicates) or others (conflicts)."""

    def __init__(self) -> None:
        self._seen: dict[bytes, tuple[Mapping[str, StepLabels], str]] = {}
        self._same = Tally("duplicate_row", "warning", "chains that are there already")
        self._other = Tally("conflicting_row", "error", "same prompt and steps, other labels")

    def see(self, chain: Chain) -> None:
        """Compare a chain with those before it."""
        text = json.dumps([chain.to_row()["prompt"], chain.completions])
        key = hashlib.blake2b(text.encode(), digest_size=16).digest()
        if key not in self._seen:
            self._seen[key] = (chain.labels, chain.origin)
            return
        labels, origin = self._seen[key]
        tally = self._other if _contradict(labels, chain.labels) else self._same
        tally.add(chain, f"first at {origin}")

    def findings(self) -> list[Finding]:
        """Return duplicates and conflicts."""
        return [*self._same.findings(), *self._other.findings()]


class Annotation:
    """Counts chains without any label, and chains whose format changed what the row said."""

    def __init__(self) -> None:
        self._unlabeled = Tally("unlabeled_chain", "info", "chains without any label")
        self._adjusted = Tally("adjusted_chain", "info", "chains that the format has adjusted")

    def see(self, chain: Chain) -> None:
        """Look at a chain's labels and metadata."""
        if all(label is None for labels in chain.labels.values() for label in labels):
            self._unlabeled.add(chain, f"{len(chain.completions)} steps")
        if ADJUSTED in chain.metadata:
            self._adjusted.add(chain, str(chain.metadata[ADJUSTED]))

    def findings(self) -> list[Finding]:
        """Return both counts."""
        return [*self._unlabeled.findings(), *self._adjusted.findings()]


class Overlap:
    """Finds chains whose problem is also in an evaluation set."""

    def __init__(self, evaluation: ProblemIndex) -> None:
        self._evaluation = evaluation
        self._problems: set[str] = set()
        self._tally = Tally("evaluation_overlap", "error", "")

    def see(self, chain: Chain) -> None:
        """Look a chain's problem up."""
        names = self._evaluation.sets_with(chain)
        if names:
            self._problems.add(chain.group)
            self._tally.add(chain, f"also in {', '.join(sorted(names))}")

    def findings(self) -> list[Finding]:
        """Return the chains, and how many problems they are about."""
        self._tally.message = f"chains about {len(self._problems)} problems of evaluation sets"
        return self._tally.findings()


def _contradict(first: Mapping[str, StepLabels], second: Mapping[str, StepLabels]) -> bool:
    """Tell whether two labelings of the same steps differ where both have a label."""
    return any(
        a is not None and b is not None and a != b
        for objective in first.keys() & second.keys()
        for a, b in zip(first[objective], second[objective], strict=True)
    )
