"""What best of n is worth, from N samples to a prompt, n of them or fewer at a time."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from prm.arrays import Array
from prm.errors import ConfigError, DataError


def expected_best_of_n(rewards: ArrayLike, gold: ArrayLike, n: int) -> float:
    r"""Return the expected gold value of the sample with the highest reward among n.

    With samples in ascending order of reward, it is `sum_i C(i-1, n-1) / C(N, n) * gold_(i)`: the
    mean over all subsets of n samples, without drawing any. Samples of equal reward share the mean
    of their gold values, so that their order does not matter.

    Args:
        rewards: Reward of each sample, shape `[sample]`.
        gold: Gold value of each sample, for example 1 if its answer is right; same shape.
        n: Samples to choose from, 1 to N.

    Raises:
        DataError: Shapes differ, or a reward or value is NaN.
        ConfigError: n is out of range.

    Example:
        >>> rewards, gold = [0.1, 0.9, 0.4, 0.7, 0.2, 0.6], [0, 0, 1, 1, 0, 1]
        >>> [round(expected_best_of_n(rewards, gold, n), 6) for n in (1, 2, 3, 6)]
        [0.5, 0.6, 0.5, 0.0]

    Source:
        Nakano et al. 2021 (arXiv 2112.09332), appendix I.
    """
    by_reward, values = np.asarray(rewards, dtype=float), np.asarray(gold, dtype=float)
    if by_reward.ndim != 1 or by_reward.shape != values.shape:
        raise DataError(
            "rewards and gold values do not match",
            expected="two lists of the same length",
            got=(by_reward.shape, values.shape),
        )
    if np.isnan(by_reward).any() or np.isnan(values).any():
        raise DataError("a reward or gold value is missing", fix="Leave such samples out")
    _check_n(n, len(values))
    _, place = np.unique(by_reward, return_inverse=True)
    shared = np.bincount(place, values) / np.bincount(place)
    ascending = np.sort(place)
    return float(_chances(len(values), n) @ shared[ascending])


def pass_at_n(num_correct: int, num_samples: int, n: int) -> float:
    """Return the probability that at least one of n samples is right: what an oracle reaches.

    Args:
        num_correct: Right samples, 0 to `num_samples`.
        num_samples: All samples, N.
        n: Samples to choose from, 1 to N.

    Raises:
        ConfigError: A number is out of range.

    Example:
        >>> round(pass_at_n(2, 4, 2), 6)
        0.833333

    Source:
        Chen et al. 2021 (arXiv 2107.03374), equation 1.
    """
    _check_n(n, num_samples)
    if not 0 <= num_correct <= num_samples:
        raise ConfigError("num_correct is wrong", expected=f"0 to {num_samples}", got=num_correct)
    return 1 - math.comb(num_samples - num_correct, n) / math.comb(num_samples, n)


def kl_of_best_of_n(n: int) -> float:
    """Return `log n - (n-1)/n`, which the KL divergence from the policy does not exceed.

    Args:
        n: Samples to choose from, at least 1.

    Raises:
        ConfigError: n is below 1.

    Example:
        >>> round(kl_of_best_of_n(4), 4)
        0.6363

    Source:
        Beirami et al. 2024 (arXiv 2401.01879), theorem 3.1.
    """
    _check_n(n, max(n, 1))
    return math.log(n) - (n - 1) / n


def _chances(num_samples: int, n: int) -> Array:
    """Return the chance of each place in ascending order to be the highest of n."""
    all_subsets = math.comb(num_samples, n)
    chances = [math.comb(below, n - 1) / all_subsets for below in range(num_samples)]
    return np.array(chances)


def _check_n(n: int, most: int) -> None:
    if not 1 <= n <= most:
        raise ConfigError("n is wrong", expected=f"1 to {most}", got=n)
