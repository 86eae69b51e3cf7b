"""Label statistics of the linter: balance by step position, and correlation with step length."""

from __future__ import annotations

from array import array
from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prm.data.checks.keys import Columns
from prm.data.checks.linter import Check, Finding
from prm.records import Chain

_LAST_POSITION = 10
STRONG_CORRELATION = 0.3
_RARE_CLASS = 0.01


class PositionBalance(Check[Chain]):
    """How many steps are labeled, and how many of them are wrong, at each position of a chain."""

    def __init__(self) -> None:
        self._labels: dict[tuple[str, int], array[float]] = defaultdict(lambda: array("d"))

    def see(self, chain: Chain) -> None:
        """Count the labels of a chain."""
        for objective, labels in chain.labels.items():
            for index, label in enumerate(labels):
                if label is not None:
                    self._labels[objective, min(index + 1, _LAST_POSITION)].append(label)

    def findings(self) -> list[Finding]:
        """Return one table, and a warning per objective with nearly one class only."""
        if not self._labels:
            return []
        table = tuple(
            {
                "objective": objective,
                "position": f"{position}+" if position == _LAST_POSITION else str(position),
                "labels": len(labels),
                "mean_label": sum(labels) / len(labels),
                "share_wrong": sum(label < 0.5 for label in labels) / len(labels),
            }
            for (objective, position), labels in sorted(self._labels.items())
        )
        total = sum(len(labels) for labels in self._labels.values())
        balance = Finding("label_balance", "info", "labels by step position", total, table=table)
        return [balance, *self._one_sided()]

    def _one_sided(self) -> list[Finding]:
        findings = []
        for objective in sorted({objective for objective, _ in self._labels}):
            known = [labels for (name, _), labels in self._labels.items() if name == objective]
            values = np.concatenate(known)
            wrong = float((values < 0.5).mean())
            if min(wrong, 1 - wrong) < _RARE_CLASS:
                message = f"{wrong:.1%} of the labels of {objective!r} are below 0.5"
                findings.append(Finding("one_sided_labels", "warning", message, len(values)))
        return findings


class LengthCorrelation(Check[Chain]):
    """Spearman correlation between a step's length in characters and its label."""

    def __init__(self) -> None:
        self._steps: dict[str, Columns] = defaultdict(lambda: Columns("qd"))

    def see(self, chain: Chain) -> None:
        """Collect the lengths and labels of a chain's labeled steps."""
        for objective, labels in chain.labels.items():
            for step, label in zip(chain.completions, labels, strict=True):
                if label is not None:
                    self._steps[objective].add(len(step), label)

    def findings(self) -> list[Finding]:
        """Return one finding per objective whose lengths and labels both vary."""
        found = (
            length_finding("step", objective, *steps.arrays())
            for objective, steps in sorted(self._steps.items())
        )
        return [finding for finding in found if finding is not None]


def length_finding(
    what: str, objective: str, lengths: NDArray[Any], labels: NDArray[Any]
) -> Finding | None:
    """Return Spearman's correlation of lengths with labels; `None` if either does not vary.

    Args:
        what: What has the length: a step, a response.
        objective: Name of the objective.
        lengths: Lengths in characters.
        labels: As many labels.
    """
    from scipy.stats import spearmanr

    if min(len(np.unique(labels)), len(np.unique(lengths))) < 2:
        return None
    rho = float(spearmanr(lengths, labels).statistic)
    return Finding(
        "length_label_correlation",
        "warning" if abs(rho) >= STRONG_CORRELATION else "info",
        f"Spearman {rho:+.3f} between {what} length and {objective!r}, n = {len(labels)}",
        len(labels),
        table=({"objective": objective, "spearman": rho, "n": len(labels)},),
    )
