"""Correlations of scores with labels and of objectives with each other.

Every function takes `weights`, how often each unit counts, so that a bootstrap resample is a weight
vector. Where one side does not vary the correlation is NaN, never 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from prm.arrays import Array, Indices
from prm.metrics.binary import unit_weights, weighted_mean
from prm.metrics.metric import Measures, Metric, Units


def pearson(x: ArrayLike, y: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Linear correlation.

    Args:
        x: One value per unit.
        y: One value per unit.
        weights: How often each unit counts; default once.

    Returns:
        A value in [-1, 1]; NaN if x or y does not vary.

    Example:
        >>> round(pearson([1, 2, 3], [2, 4, 7]), 4)
        0.9934
    """
    first, second = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    weight = unit_weights(weights, len(first))
    total = weight.sum()
    if total <= 0:
        return np.nan
    share = weight / total
    dx, dy = first - share @ first, second - share @ second
    sx, sy = np.sqrt(share @ dx**2), np.sqrt(share @ dy**2)
    if _is_constant(sx, first) or _is_constant(sy, second):
        return np.nan
    return float(np.clip((share @ (dx / sx * (dy / sy))), -1, 1))


def spearman(x: ArrayLike, y: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Rank correlation: the linear correlation of mid-ranks.

    Args:
        x: One value per unit.
        y: One value per unit.
        weights: How often each unit counts; default once.

    Returns:
        A value in [-1, 1]; NaN if x or y does not vary.

    Example:
        >>> round(spearman([1, 10, 100], [0.1, 0.2, 0.3]), 6)
        1.0
    """
    weight = unit_weights(weights, len(np.asarray(x)))
    return pearson(MidRanks(x)(weight), MidRanks(y)(weight), weight)


class MidRanks:
    """Values sorted once, to be ranked under many weightings.

    Args:
        values: One value per unit.

    Example:
        >>> MidRanks([5.0, 3.0, 5.0])(np.ones(3)).tolist()
        [2.0, 0.5, 2.0]
    """

    def __init__(self, values: ArrayLike) -> None:
        value = np.asarray(values, dtype=np.float64)
        _, self.place = np.unique(value, return_inverse=True)
        self.missing = np.isnan(value)

    def __call__(self, weights: Array) -> Array:
        """Return for each unit the weight below it plus half the weight at its value.

        NaN for a unit without a value, which also counts as above all others: leave it out.
        """
        at = np.bincount(self.place, weights=weights)
        ranks = (np.cumsum(at) - at / 2)[self.place]
        return np.where(self.missing, np.nan, ranks)


def kendall_tau(scores: ArrayLike, ranks: ArrayLike) -> float:
    r"""Kendall's tau-b between the scores of some responses and their labeled ranks.

    $$\tau_b = (C - D) / \sqrt{(P - T_s)(P - T_r)}$$ with C pairs in the same order, D in opposite
    order, P in all, and T tied in the scores or in the ranks.

    Args:
        scores: One score per response; higher is better.
        ranks: One rank per response; 0 is best.

    Returns:
        A value in [-1, 1]; NaN if all scores or all ranks are equal.

    Example:
        >>> kendall_tau([3.0, 2.0, 1.0], [0, 1, 2]), kendall_tau([1.0, 1.0, 1.0], [0, 1, 2])
        (1.0, nan)

    Source:
        Kendall (1945), The treatment of ties in ranking problems.
    """
    score = np.asarray(scores, dtype=np.float64)
    rank = np.asarray(ranks, dtype=np.float64)
    by_score = np.sign(score[:, None] - score)
    by_rank = np.sign(rank - rank[:, None])
    pairs = np.abs(by_score).sum() * np.abs(by_rank).sum()
    return float((by_score * by_rank).sum() / np.sqrt(pairs)) if pairs > 0 else np.nan


KENDALL_TAU = Metric(
    "kendall_tau",
    "Kendall tau",
    True,
    "tau-b, averaged over comparisons of three or more responses",
    "rankings",
)


def best_credit(scores: ArrayLike, ranks: ArrayLike) -> float:
    """Return 1 if the response with the highest score is a best one, else 0.

    Responses that share the highest score share the point, so that a constant scorer has as much
    as a guess: the share of best responses.

    Args:
        scores: Score of each response.
        ranks: Its rank, 0 for a best one.

    Returns:
        A value in [0, 1]; NaN if a score is missing, or all responses are of one rank.

    Example:
        >>> best_credit([2.0, 3.0, 1.0, 0.0], [0, 1, 1, 1]), best_credit([1.0] * 4, [0, 1, 1, 1])
        (0.0, 0.25)

    Source:
        RewardBench 2 (arXiv 2506.01937).
    """
    score, rank = np.asarray(scores, dtype=np.float64), np.asarray(ranks, dtype=np.float64)
    if np.isnan(score).any() or (rank == rank[0]).all():
        return np.nan
    highest = score == score.max()
    return float((rank[highest] == rank.min()).mean())


BEST_OF_K = Metric(
    "best_of_k",
    "best of K",
    True,
    "share of comparisons of three or more responses whose highest score is that of a best "
    "response; equal highest scores share the point; a guess has the share of best responses, "
    "1/K where one of K is right",
    "comparisons of three or more",
    "headline",
)


class RankingUnits(Units):
    """Comparisons of three or more responses, each as one scorer sees it.

    Args:
        taus: `kendall_tau` of each; NaN where it is undecided, and leaves the ranking out.
        credits: `best_credit` of each, likewise.
        groups: Number of the prompt of each.
    """

    def __init__(self, taus: Array, credits: Array, groups: Indices) -> None:
        super().__init__(groups)
        self.columns = {KENDALL_TAU: taus, BEST_OF_K: credits}

    def count(self, metric: Metric) -> int:
        return int((~np.isnan(self.columns[metric])).sum())

    def mean(self, metric: Metric, weights: Array) -> float:
        """Return the mean over the comparisons that decide a metric."""
        values = self.columns[metric]
        known = ~np.isnan(values)
        return weighted_mean(values[known], weights[known])

    metrics: ClassVar[Measures] = {
        BEST_OF_K: lambda rankings, weights: rankings.mean(BEST_OF_K, weights),
        KENDALL_TAU: lambda rankings, weights: rankings.mean(KENDALL_TAU, weights),
    }


@dataclass(frozen=True, slots=True)
class CorrelationMatrix:
    """Correlations of objectives with each other.

    Args:
        names: Objectives, in the order of rows and columns.
        values: Correlations; `None` where undecided.
        n: Number of responses behind each correlation.
    """

    names: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    n: tuple[tuple[int, ...], ...]


def correlation_matrix(columns: ArrayLike, names: Sequence[str]) -> CorrelationMatrix:
    """Return the linear correlations of columns, each over the rows that have both.

    Args:
        columns: Shape [response, objective]; NaN is missing.
        names: One name per column.

    Example:
        >>> columns = [[1.0, 2.0], [2.0, 1.0], [3.0, np.nan], [4.0, 0.0]]
        >>> matrix = correlation_matrix(columns, ["safety", "helpfulness"])
        >>> matrix.n, round(matrix.values[0][1], 4)
        (((4, 3), (3, 3)), -0.982)
    """
    column = np.asarray(columns, dtype=np.float64).reshape(-1, len(names))
    known = ~np.isnan(column)
    values, counts = [], []
    for i in range(len(names)):
        both = [known[:, i] & known[:, j] for j in range(len(names))]
        row = [pearson(column[rows, i], column[rows, j]) for j, rows in enumerate(both)]
        values.append(tuple(None if np.isnan(value) else value for value in row))
        counts.append(tuple(int(rows.sum()) for rows in both))
    return CorrelationMatrix(tuple(names), tuple(values), tuple(counts))


def _is_constant(deviation: float, values: Array) -> bool:
    """Whether a standard deviation is no more than what rounding leaves of a constant."""
    return bool(deviation <= 1e-12 * np.abs(values).max(initial=0.0))
