"""Bootstrap intervals that resample whole problems, since chains of one problem are alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prm.arrays import Array, Indices
from prm.metrics.binary import Ranking

Group = TypeVar("Group", str, int)

Statistic = Callable[[Array], ArrayLike]
"""From how often each group counts to one or several values."""

MAX_BLOCKS = 100
"""Blocks of groups that are left out in turn to measure skewness."""

MAX_UNDEFINED = 0.1
"""Bounds are null if a larger share of the resamples leaves the value undefined."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with the bounds of its confidence interval.

    Args:
        value: The value on the data; `None` if they do not decide it.
        low: Lower bound; `None` if the resamples do not decide it, as with a single group.
        high: Upper bound, likewise.
        n: Number of units (steps, chains) the value is about.
        num_groups: Number of groups that were resampled.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    num_groups: int

    def __str__(self) -> str:
        if self.value is None:
            return "—"
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        low, high = (f"{bound:.3f}".removeprefix("0") for bound in (self.low, self.high))
        return f"{self.value:.3f} [{low}, {high}]"


def group_indices(groups: Sequence[Group]) -> Indices:
    """Number the groups in sorted order, so that resamples do not depend on the order of units.

    Example:
        >>> group_indices(["b", "a", "b"]).tolist()
        [1, 0, 1]
    """
    numbers = {group: index for index, group in enumerate(sorted(set(groups)))}
    return np.array([numbers[group] for group in groups], dtype=np.int64)


def renumbered(groups: NDArray[np.integer[Any]]) -> Indices:
    """Number the groups that are left of some from 0 up, in their order.

    Example:
        >>> renumbered(np.array([7, 3, 7])).tolist()
        [1, 0, 1]
    """
    numbers: Indices = np.unique(groups, return_inverse=True)[1].astype(np.int64)
    return numbers


def cluster_bootstrap(
    statistic: Statistic,
    num_groups: int,
    *,
    num_resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[Array, Array, Array]:
    """Return value, lower and upper bound of a statistic by the clustered BCa bootstrap.

    A resample draws as many groups as there are, with replacement; `statistic` gets how often each
    was drawn, so that it can sort once and be evaluated under every resample. The bounds are
    quantiles of what the resamples give, corrected for bias and skewness (BCa) and widened as
    Student's t is for few groups. They coincide where all units agree (an accuracy of 1.0): read
    them with n.

    Args:
        statistic: From multiplicities, shape [group], to a value or an array of values; NaN where
            undefined.
        num_groups: Number of groups.
        num_resamples: Number of resamples; 0 gives no bounds.
        seed: Seed of the draws.
        confidence: Coverage of the interval, in (0, 1).

    Returns:
        Three arrays of the statistic's shape. Undefined resamples are left out; bounds are NaN
        with fewer than two groups or if more than a tenth of the resamples is undefined.

    Example:
        >>> correct = np.array([1.0, 0.0, 1.0, 1.0])
        >>> value, low, high = cluster_bootstrap(lambda m: m @ correct / m.sum(), 4)
        >>> value.item(), low.item() < 0.75 <= high.item()
        (0.75, True)

    Source:
        BCa: Efron 1987, Journal of the American Statistical Association 82, 171-185; resampling
        clusters as in Davison and Hinkley (1997), section 3.8; the widening: Hesterberg 2015, The
        American Statistician 69, 371-386.
    """
    value = np.asarray(statistic(np.ones(num_groups)), dtype=np.float64)
    undefined = np.full_like(value, np.nan)
    if num_groups < 2 or num_resamples == 0:
        return value, undefined, undefined
    generator = np.random.default_rng(seed)
    even = np.full(num_groups, 1 / num_groups)
    draws = (generator.multinomial(num_groups, even) for _ in range(num_resamples))
    resampled = np.array([statistic(draw.astype(np.float64)) for draw in draws], dtype=np.float64)
    flat = resampled.reshape(num_resamples, -1)
    tails = _tails(
        flat, value.reshape(-1), _acceleration(statistic, num_groups), num_groups, confidence
    )
    usable = np.isnan(flat).mean(axis=0) <= MAX_UNDEFINED
    bounds = np.full((2, flat.shape[1]), np.nan)
    for index in np.flatnonzero(usable & ~np.isnan(tails).any(axis=0)):
        bounds[:, index] = np.nanquantile(flat[:, index], tails[:, index])
    low, high = bounds.reshape(2, *value.shape)
    return value, low, high


def _tails(
    resampled: Array, value: Array, acceleration: Array, num_groups: int, confidence: float
) -> Array:
    """Return the two quantile levels of each value that BCa takes its bounds from, `[2, value]`."""
    from scipy.special import ndtr, ndtri, stdtrit

    known = ~np.isnan(resampled)
    below = ((resampled < value) & known).sum(axis=0) + ((resampled == value) & known).sum(
        axis=0
    ) / 2
    count = np.maximum(known.sum(axis=0), 2)
    bias = ndtri(np.clip(below / count, 1 / count, 1 - 1 / count))
    wide = stdtrit(num_groups - 1, (1 + confidence) / 2) * np.sqrt(num_groups / (num_groups - 1))
    shifted = bias + np.array([[-wide], [wide]])
    levels: Array = ndtr(bias + shifted / (1 - acceleration * shifted))
    return levels


def _acceleration(statistic: Statistic, num_groups: int) -> Array:
    """Return the sixth of the skewness of what blocks of groups add to each value; 0 if unknown."""
    num_blocks = min(num_groups, MAX_BLOCKS)
    block = np.arange(num_groups) % num_blocks
    left_out = [statistic((block != index).astype(np.float64)) for index in range(num_blocks)]
    values = np.array(left_out, dtype=np.float64).reshape(num_blocks, -1)
    effects = values.mean(axis=0) - values
    scale = 6 * (effects**2).sum(axis=0) ** 1.5
    cubes = (effects**3).sum(axis=0)
    known = np.isfinite(cubes) & (scale > 0)
    found: Array = np.divide(cubes, scale, out=np.zeros_like(cubes), where=known)
    return found


def wilson(share: ArrayLike, count: ArrayLike) -> tuple[Array, Array]:
    """Return the lower and upper 95 % Wilson bounds of shares.

    Args:
        share: Shares, in [0, 1].
        count: Units behind each.

    Example:
        >>> [round(bound.item(), 3) for bound in wilson(0.5, 10)]
        [0.237, 0.763]

    Source:
        Wilson 1927, Journal of the American Statistical Association 22, 209-212.
    """
    z = 1.959964
    shares, n = np.asarray(share, dtype=np.float64), np.asarray(count, dtype=np.float64)
    center = (shares + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(shares * (1 - shares) / n + (z / (2 * n)) ** 2) / (1 + z**2 / n)
    return np.maximum(center - half, 0.0), np.minimum(center + half, 1.0)


def auroc_interval(
    probabilities: ArrayLike,
    labels: ArrayLike,
    groups: Sequence[Group],
    *,
    num_resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Return the step AUROC with its interval, resampled by group.

    Args:
        probabilities: Probability of being correct, one per step.
        labels: Step labels in [0, 1]; 0.5 and above is correct.
        groups: The problem of each step.
        num_resamples: Number of resamples.
        seed: Seed of the draws.
        confidence: Coverage of the interval, in (0, 1).

    Example:
        >>> interval = auroc_interval([0.9, 0.8, 0.3, 0.6], [1, 1, 0, 0], ["a", "b", "a", "b"])
        >>> interval.value, interval.low, interval.high
        (1.0, 1.0, 1.0)
    """
    index = group_indices(groups)
    ranking = Ranking(probabilities, labels, index)
    num_groups = int(index.max(initial=-1)) + 1
    value, low, high = cluster_bootstrap(
        ranking.auroc,
        num_groups,
        num_resamples=num_resamples,
        seed=seed,
        confidence=confidence,
    )
    return make_interval(value.item(), low.item(), high.item(), len(index), num_groups)


def make_interval(value: float, low: float, high: float, n: int, num_groups: int) -> Interval:
    """Return an `Interval`, with `None` in the place of NaN."""
    value_, low_, high_ = (None if math.isnan(x) else float(x) for x in (value, low, high))
    return Interval(value_, low_, high_, n, num_groups)
