"""The linter of chains: what would make a training or an evaluation wrong, found before it runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping

from prm.data.checks.linter import Check, CheckReport, Finding, Linter, Tally
from prm.data.checks.overlap import Overlap
from prm.data.checks.problems import ProblemIndex
from prm.data.checks.step_statistics import LengthCorrelation, PositionBalance
from prm.data.checks.texts import (
    Conversations,
    CountTokens,
    SpecialText,
    TextRules,
    Truncation,
)
from prm.data.formats.base import ADJUSTED
from prm.errors import DataError
from prm.records import Chain, Record, StepLabels


def check_chains(
    chains: Iterable[Chain | DataError],
    *,
    count_tokens: CountTokens | None = None,
    max_length: int | None = None,
    evaluation: Iterable[Record] = (),
    rules: TextRules | None = None,
) -> CheckReport:
    """Look at every chain once and report what is wrong with the set.

    Args:
        chains: Chains, or the errors that stand in place of rows that could not be read
            (`Source.results()`).
        count_tokens: Counts the tokens of a chain's prompt and steps; with `max_length`, chains
            that truncation would cut or empty are found.
        max_length: Largest number of tokens of a chain, at least 1.
        evaluation: Records whose problems must not be among `chains`.
        rules: What must not stand in texts; by default the separators of common step formats.

    Example:
        >>> chain = Chain("1 + 1 = ?", ["2"], [1])
        >>> report = check_chains([chain, chain])
        >>> [finding.kind for finding in report.findings if finding.severity == "warning"]
        ['single_step', 'duplicate_row', 'one_sided_labels']
    """
    checks: list[Check[Chain]] = [
        EmptySteps(),
        SingleSteps(),
        Conversations(),
        Repetition(),
        Annotation(),
        SpecialText(rules or TextRules()),
        Overlap(ProblemIndex.of(evaluation)),
        PositionBalance(),
        LengthCorrelation(),
    ]
    if count_tokens is not None and max_length is not None:
        checks.append(Truncation(count_tokens, max_length))
    units: dict[str, Callable[[Chain], int]] = {
        "chains": lambda chain: 1,
        "steps": lambda chain: len(chain.completions),
        "labels": _num_labels,
    }
    return Linter[Chain](checks, units).run(chains)


class EmptySteps(Check[Chain]):
    """Finds steps without text: they are never scored."""

    def __init__(self) -> None:
        self._tally = Tally("empty_step", "warning", "steps without text; they are never scored")

    def see(self, chain: Chain) -> None:
        """Look for empty steps."""
        for index, step in enumerate(chain.completions):
            if not step.strip():
                self._tally.add(chain, f"step {index + 1} of {len(chain.completions)}")


class SingleSteps(Check[Chain]):
    """Finds a set without any chain of several steps, as a separator that never occurs makes it."""

    def __init__(self) -> None:
        self._tally = Tally(
            "single_step",
            "warning",
            "every chain has one step; if texts hold several, their separator is another",
        )
        self._has_several = False

    def see(self, chain: Chain) -> None:
        """Count the steps of a chain."""
        if len(chain.completions) > 1:
            self._has_several = True
        elif not self._has_several:
            self._tally.add(chain, f"{len(chain.completions[0])} characters")

    def findings(self) -> list[Finding]:
        """Return the finding, unless a chain has several steps."""
        return [] if self._has_several else super().findings()


class Repetition(Check[Chain]):
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


class Annotation(Check[Record]):
    """Counts records without any label, and records whose format changed what the row said."""

    def __init__(self) -> None:
        self._unlabeled = Tally("unlabeled_row", "info", "rows without any label")
        self._adjusted = Tally("adjusted_row", "info", "rows that the format has adjusted")

    def see(self, record: Record) -> None:
        """Look at a record's labels and metadata."""
        if not _is_labeled(record):
            self._unlabeled.add(record, "no label")
        if ADJUSTED in record.metadata:
            self._adjusted.add(record, str(record.metadata[ADJUSTED]))


def _is_labeled(record: Record) -> bool:
    return any(label is not None for labels in record.labels.values() for label in labels) or (
        not record.labels and bool(record.objectives)
    )


def _num_labels(chain: Chain) -> int:
    return sum(label is not None for labels in chain.labels.values() for label in labels)


def _contradict(first: Mapping[str, StepLabels], second: Mapping[str, StepLabels]) -> bool:
    """Tell whether two labelings of the same steps differ where both have a label."""
    return any(
        a is not None and b is not None and a != b
        for objective in first.keys() & second.keys()
        for a, b in zip(first[objective], second[objective], strict=True)
    )
