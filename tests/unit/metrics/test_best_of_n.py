from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest

from prm.errors import ConfigError, DataError
from prm.metrics.best_of_n import expected_best_of_n, kl_of_best_of_n, pass_at_n

REWARDS, GOLD = [0.1, 0.9, 0.4, 0.7, 0.2, 0.6], [0, 0, 1, 1, 0, 1]


@pytest.mark.parametrize(("n", "expected"), [(1, 0.5), (2, 0.6), (3, 0.5), (6, 0.0)])
def test_golden_values(n: int, expected: float) -> None:
    assert expected_best_of_n(REWARDS, GOLD, n) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("gold", [[1, 0, 0, 0], [0, 0, 0, 1]])
def test_ties_share_their_gold(gold: list[int]) -> None:
    assert expected_best_of_n([0.5] * 4, gold, 2) == 0.25


def test_equals_the_mean_over_all_subsets_and_orders() -> None:
    rewards, gold = [0.3, 0.7, 0.7, 0.1, 0.7], [1.0, 0.0, 2.0, 5.0, 1.0]
    for n in range(1, 6):
        chosen = [
            gold[max(order, key=lambda index: rewards[index])]
            for subset in combinations(range(5), n)
            for order in permutations(subset)
        ]
        assert expected_best_of_n(rewards, gold, n) == pytest.approx(np.mean(chosen))


def test_perfect_rewards_reach_the_oracle() -> None:
    gold = [0, 1, 0, 1, 0, 0]
    for n in range(1, 7):
        assert expected_best_of_n(gold, gold, n) == pytest.approx(pass_at_n(2, 6, n))


@pytest.mark.parametrize(
    ("n", "kl"), [(1, 0), (2, 0.1931), (4, 0.6363), (16, 1.8351), (64, 3.1745), (1860, 6.5289)]
)
def test_kl(n: int, kl: float) -> None:
    assert kl_of_best_of_n(n) == pytest.approx(kl, abs=5e-5)


def test_many_samples_do_not_overflow() -> None:
    assert expected_best_of_n(np.arange(1860), np.arange(1860) >= 930, 10) > 0.999


def test_wrong_arguments() -> None:
    for n in (0, 7):
        with pytest.raises(ConfigError, match="1 to 6"):
            expected_best_of_n(REWARDS, GOLD, n)
    with pytest.raises(ConfigError):
        pass_at_n(3, 2, 1)
    with pytest.raises(ConfigError):
        kl_of_best_of_n(0)
    with pytest.raises(DataError, match="do not match"):
        expected_best_of_n([1.0], [1.0, 0.0], 1)
    with pytest.raises(DataError, match="missing"):
        expected_best_of_n([1.0, float("nan")], [1.0, 0.0], 1)
