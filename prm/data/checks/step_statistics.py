"""Label statistics of the linter: balance by step position, and correlation with step length."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Sequence

from prm.data.checks.linter import Finding
from prm.records import Chain

_LAST_POSITION = 10
STRONG_CORRELATION = 0.3
_RARE_CLASS = 0.01


class PositionBalance:
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
            values = [
                label
                for (name, _), labels in self._labels.items()
                if name == objective
                for label in labels
            ]
            wrong = sum(label < 0.5 for label in values) / len(values)
            if min(wrong, 1 - wrong) < _RARE_CLASS:
                message = f"{wrong:.1%} of the labels of {objective!r} are below 0.5"
                findings.append(Finding("one_sided_labels", "warning", message, len(values)))
        return findings


class LengthCorrelation:
    """Spearman correlation between a step's length in characters and its label."""

    def __init__(self) -> None:
        self._lengths: dict[str, array[int]] = defaultdict(lambda: array("q"))
        self._labels: dict[str, array[float]] = defaultdict(lambda: array("d"))

    def see(self, chain: Chain) -> None:
        """Collect the lengths and labels of a chain's labeled steps."""
        for objective, labels in chain.labels.items():
            for step, label in zip(chain.completions, labels, strict=True):
                if label is not None:
                    self._lengths[objective].append(len(step))
                    self._labels[objective].append(label)

    def findings(self) -> list[Finding]:
        """Return one finding per objective whose lengths and labels both vary."""
        found = (
            length_finding("step", objective, self._lengths[objective], labels)
            for objective, labels in sorted(self._labels.items())
        )
        return [finding for finding in found if finding is not None]


def length_finding(
    what: str, objective: str, lengths: Sequence[float], labels: Sequence[float]
) -> Finding | None:
    """Return Spearman's correlation of lengths with labels; `None` if either does not vary.

    Args:
        what: What has the length: a step, a response.
        objective: Name of the objective.
        lengths: Lengths in characters.
        labels: As many labels.
    """
    from scipy.stats import spearmanr

    if len(set(labels)) < 2 or len(set(lengths)) < 2:
        return None
    rho = float(spearmanr(lengths, labels).statistic)
    return Finding(
        "length_label_correlation",
        "warning" if abs(rho) >= STRONG_CORRELATION else "info",
        f"Spearman {rho:+.3f} between {what} length and {objective!r}, n = {len(labels)}",
        len(labels),
        table=({"objective": objective, "spearman": rho, "n": len(labels)},),
    )
