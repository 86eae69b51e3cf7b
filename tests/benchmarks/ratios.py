"""Ratios of alternating repetitions: medians, and how far they can be trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A median over the rounds of a case.

    Args:
        value: The median.
        low: Lower end of its confidence interval.
        high: Upper end.
        n: Rounds.
    """

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def estimate(values: Sequence[float]) -> Estimate:
    """Return the median with its order-statistic interval, which assumes no distribution.

    The interval is the narrowest pair of order statistics that holds the median of the population
    with 95 %; with fewer than 6 values that is all of them, from the least to the largest.

    Example:
        >>> str(estimate([2.4, 2.1, 2.6, 2.2, 2.5, 2.3, 9.0]))
        '2.4 [2.1, 9]'
    """
    ordered = sorted(values)
    outer = _left_out(len(ordered))
    return Estimate(median(ordered), ordered[outer], ordered[-1 - outer], len(ordered))


def _left_out(n: int) -> int:
    """Return how many values lie outside the interval on each side."""
    left_out, tail = 0, 0.0
    for k in range((n + 1) // 2):
        tail += math.comb(n, k) / 2**n
        if 1 - 2 * tail >= LEVEL:
            left_out = k
    return left_out


def order(names: Sequence[str], turn: int) -> list[str]:
    """Return the order of the sides in a round: there and back, so that no side is always late.

    Example:
        >>> [order("AB", turn) for turn in range(3)]
        [['A', 'B'], ['B', 'A'], ['A', 'B']]
    """
    return list(names) if turn % 2 == 0 else list(reversed(names))
