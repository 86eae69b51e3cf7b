"""Statistics of outcome records: coverage of objectives, one-sided labels, and length."""

from __future__ import annotations

from array import array
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from prm.data.checks.keys import prompt_key
from prm.data.checks.linter import Finding, OutcomeCheck
from prm.data.checks.step_statistics import STRONG_CORRELATION, length_finding
from prm.records import Comparison, Rating

_ONE_SIDED = 0.95


class Coverage(OutcomeCheck):
    """Counts, per objective, what supervises it, and on how much of the data."""

    def __init__(self) -> None:
        self._num_records = 0
        self._comparisons: dict[str, _Comparisons] = defaultdict(_Comparisons)
        self._ratings: dict[str, _Ratings] = defaultdict(_Ratings)

    def see_comparison(self, record: Comparison) -> None:
        """Count a comparison under its objective."""
        self._num_records += 1
        self._comparisons[record.objective].add(record, prompt_key(record.prompt))

    def see_rating(self, record: Rating) -> None:
        """Count a rating under each of its objectives."""
        self._num_records += 1
        prompt = prompt_key(record.prompt)
        for objective, value in record.values.items():
            if value is not None:
                self._ratings[objective].add(record, value, prompt)

    def findings(self) -> list[Finding]:
        """Return both tables, ties, and objectives whose ratings hardly vary."""
        comparisons, ratings = sorted(self._comparisons.items()), sorted(self._ratings.items())
        pairs = [item.row(name, self._num_records) for name, item in comparisons]
        rated = [item.row(name, self._num_records) for name, item in ratings]
        found = [
            Finding(kind, "info", message, len(table), table=tuple(table))
            for kind, message, table in (
                ("comparison_coverage", "objectives that comparisons supervise", pairs),
                ("rating_coverage", "objectives that ratings supervise", rated),
            )
            if table
        ]
        found += [finding for name, item in comparisons for finding in item.ties(name)]
        return found + [finding for name, item in ratings for finding in item.one_sided(name)]


@dataclass
class _Comparisons:
    """The comparisons of one objective."""

    count: int = 0
    num_ties: int = 0
    sizes: set[int] = field(default_factory=set)
    prompts: set[int] = field(default_factory=set)
    sources: set[str] = field(default_factory=set)

    def add(self, record: Comparison, prompt: int) -> None:
        self.count += 1
        self.num_ties += record.is_tie
        self.sizes.add(len(record.responses))
        self.prompts.add(prompt)
        self.sources.add(record.source)

    def row(self, objective: str, num_records: int) -> dict[str, Any]:
        return {
            "objective": objective,
            "comparisons": self.count,
            "ties": self.num_ties,
            "min_responses": min(self.sizes),
            "max_responses": max(self.sizes),
            "prompts": len(self.prompts),
            "sources": len(self.sources),
            "share_missing": 1 - self.count / num_records,
        }

    def ties(self, objective: str) -> list[Finding]:
        if not self.num_ties:
            return []
        share = self.num_ties / self.count
        message = f"{share:.1%} of the comparisons of {objective!r} are ties"
        return [Finding("ties", "info", message, self.num_ties)]


@dataclass
class _Ratings:
    """The ratings of one objective."""

    values: array[float] = field(default_factory=lambda: array("d"))
    prompts: set[int] = field(default_factory=set)
    sources: set[str] = field(default_factory=set)

    def add(self, record: Rating, value: float, prompt: int) -> None:
        self.values.append(value)
        self.prompts.add(prompt)
        self.sources.add(record.source)

    def row(self, objective: str, num_records: int) -> dict[str, Any]:
        values = np.array(self.values)
        return {
            "objective": objective,
            "ratings": len(values),
            "mean": float(values.mean()),
            "std": float(values.std()),
            "min": float(values.min()),
            "max": float(values.max()),
            "levels": len(np.unique(values)),
            "prompts": len(self.prompts),
            "sources": len(self.sources),
            "share_missing": 1 - len(values) / num_records,
        }

    def one_sided(self, objective: str) -> list[Finding]:
        levels, counts = np.unique(np.array(self.values), return_counts=True)
        share = float(counts.max() / counts.sum())
        if len(levels) > 2 or share <= _ONE_SIDED:
            return []
        message = f"{share:.1%} of the ratings of {objective!r} are {levels[counts.argmax()]:g}"
        return [Finding("one_sided_labels", "warning", message, len(self.values))]


class ResponseLength(OutcomeCheck):
    """How much comparisons and ratings lean on the length of a response in characters."""

    def __init__(self) -> None:
        self._pairs: dict[str, _Lengths] = defaultdict(_Lengths)
        self._ratings: dict[str, _Lengths] = defaultdict(_Lengths)

    def see_comparison(self, record: Comparison) -> None:
        """Collect the differences of lengths beside which response is better."""
        members = zip(map(len, record.responses), record.ranks, strict=True)
        for (length, rank), (other, other_rank) in combinations(members, 2):
            better = (rank < other_rank) - (rank > other_rank)
            self._pairs[record.objective].add(length - other, better)

    def see_rating(self, record: Rating) -> None:
        """Collect the length of a response beside its ratings."""
        for objective, value in record.values.items():
            if value is not None:
                self._ratings[objective].add(len(record.response), value)

    def findings(self) -> list[Finding]:
        """Return one finding per objective and kind whose lengths and labels both vary."""
        pairs = [_preference(name, found) for name, found in sorted(self._pairs.items())]
        ratings = [
            length_finding("response", name, found.length, found.label)
            for name, found in sorted(self._ratings.items())
        ]
        return [finding for finding in (*pairs, *ratings) if finding is not None]


@dataclass
class _Lengths:
    """Columns: lengths or their differences, and labels."""

    length: array[int] = field(default_factory=lambda: array("q"))
    label: array[float] = field(default_factory=lambda: array("d"))

    def add(self, length: int, label: float) -> None:
        self.length.append(length)
        self.label.append(label)


def _preference(objective: str, pairs: _Lengths) -> Finding | None:
    """Return how often the longer response is preferred, and the rank correlation.

    Each pair counts in both orders, so the order in which a source writes pairs does not matter.
    """
    from scipy.stats import spearmanr

    difference, better = np.array(pairs.length), np.array(pairs.label)
    counts = (difference != 0) & (better != 0)
    if not counts.any():
        return None
    longer = float((difference[counts] * better[counts] > 0).mean())
    both_lengths = np.concatenate([difference, -difference])
    rho = float(spearmanr(both_lengths, np.concatenate([better, -better])).statistic)
    message = f"{objective!r}: the longer response is preferred in {longer:.1%} of {counts.sum()}"
    message += f" pairs, Spearman {rho:+.3f} of length difference and preference"
    row = {"objective": objective, "pairs": int(counts.sum())}
    return Finding(
        "length_preference_correlation",
        "warning" if abs(rho) >= STRONG_CORRELATION else "info",
        message,
        int(counts.sum()),
        table=({**row, "share_longer_preferred": longer, "spearman": rho},),
    )
