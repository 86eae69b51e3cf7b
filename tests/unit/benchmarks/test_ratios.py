from __future__ import annotations

import random

import pytest

from tests.benchmarks.ratios import estimate, order


def test_median_and_interval_of_seven_rounds() -> None:
    """Seven values: only from the least to the largest is the coverage, 1 - 2/128, over 95 %."""
    found = estimate([7, 1, 6, 2, 5, 3, 4])
    assert (found.value, found.low, found.high, found.n) == (4, 1, 7, 7)


def test_interval_of_more_rounds_leaves_outliers_out() -> None:
    """Nine values: the second and the second to last hold the median with 1 - 2 * 10/512."""
    found = estimate([100, 1, 2, 3, 4, 5, 6, 7, 8])
    assert (found.value, found.low, found.high) == (5, 2, 8)


def test_few_rounds_give_all_of_them() -> None:
    assert (estimate([3.0]).low, estimate([3.0]).high) == (3, 3)
    assert (estimate([2, 1]).value, estimate([2, 1]).low, estimate([2, 1]).high) == (1.5, 1, 2)


def test_interval_covers_the_median_of_a_skewed_population() -> None:
    generator = random.Random(0)
    median = 2**0.5  # of a Pareto distribution with shape 2
    draws = [estimate([generator.paretovariate(2) for _ in range(9)]) for _ in range(2000)]
    covered = sum(draw.low <= median <= draw.high for draw in draws) / len(draws)
    assert covered == pytest.approx(0.961, abs=0.015)


def test_rounds_go_there_and_back() -> None:
    assert [order(["a", "b", "c"], turn) for turn in range(2)] == [["a", "b", "c"], ["c", "b", "a"]]
