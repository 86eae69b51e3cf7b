"""Agreement beyond chance, of predictions with grades and of raters with each other."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from prm.arrays import Array, Indices
from prm.metrics.binary import unit_weights

Level = Literal["nominal", "ordinal", "interval"]
"""What the values of ratings mean: names, an order, or numbers with distances."""


def quadratic_kappa(x: ArrayLike, y: ArrayLike, weights: ArrayLike | None = None) -> float:
    r"""Cohen's kappa with quadratic weights between two gradings of the same units.

    $$1 - \frac{\sum_i (x_i - y_i)^2 / n}{\sum_{ij} (x_i - y_j)^2 / n^2}$$ one minus the observed
    over the expected squared distance. Both are in the units of the grades.

    Args:
        x: One grade per unit.
        y: One grade per unit.
        weights: How often each unit counts; default once.

    Returns:
        A value up to 1, 0 at chance; NaN if all grades are one value.

    Example:
        >>> round(quadratic_kappa([1, 2, 3, 4], [1, 2, 4, 4]), 4)
        0.9167

    Source:
        Cohen (1968), Weighted kappa.
    """
    first, second = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    weight = unit_weights(weights, len(first))
    total = weight.sum()
    if total <= 0:
        return np.nan
    share = weight / total
    mean_x, mean_y = share @ first, share @ second
    observed = share @ (first - second) ** 2
    within = share @ (first - mean_x) ** 2 + share @ (second - mean_y) ** 2
    expected = within + (mean_x - mean_y) ** 2
    return float(1 - observed / expected) if expected > 0 else np.nan


def nearest_level(predictions: ArrayLike, levels: ArrayLike) -> Array:
    """Return the level closest to each prediction; the lower one if two are as close, NaN for NaN.

    Args:
        predictions: Predictions in the units of the levels.
        levels: The values that labels take, at least one.

    Example:
        >>> nearest_level([0.2, 2.6, 9.0], [0, 1, 2, 3, 4]).tolist()
        [0.0, 3.0, 4.0]
    """
    level = np.unique(np.asarray(levels, dtype=np.float64))
    middles = (level[1:] + level[:-1]) / 2
    values = np.asarray(predictions, dtype=np.float64)
    rounded = level[np.searchsorted(middles, values, side="left")]
    return np.where(np.isnan(values), np.nan, rounded)


def krippendorff_alpha(units: Iterable[Sequence[float | None]], level: Level = "nominal") -> float:
    r"""Krippendorff's alpha, the agreement of any number of raters with ratings missing at will.

    $$\alpha = 1 - D_o / D_e$$ the disagreement within units over the one expected if ratings were
    dealt to units at random. Units with fewer than two ratings do not count.

    Args:
        units: For each unit the ratings it got, in any order; `None` and NaN are missing.
        level: What the values mean, hence how far two of them are apart.

    Returns:
        A value up to 1, 0 at chance; NaN if no unit has two ratings or all ratings are equal.

    Example:
        >>> units = [[1, 1, None], [2, 2, 2], [3, 3, 2], [None, 1, 1]]
        >>> round(krippendorff_alpha(units, "nominal"), 4)
        0.7188

    Source:
        Krippendorff (2011), Computing Krippendorff's Alpha-Reliability.
    """
    known = [[v for v in unit if v is not None and v == v] for unit in units]
    rated = [unit for unit in known if len(unit) > 1]
    if not rated:
        return np.nan
    values, codes = np.unique(np.concatenate(rated), return_inverse=True)
    sizes = np.array([len(unit) for unit in rated])
    coincidences = _coincidences(codes, sizes, len(values))
    totals = coincidences.sum(axis=1)
    distances = _distances(values, totals, level)
    expected = (np.outer(totals, totals) * distances).sum() / (totals.sum() - 1)
    if expected == 0:
        return np.nan
    return float(1 - (coincidences * distances).sum() / expected)


def _coincidences(codes: Indices, sizes: Indices, num_values: int) -> Array:
    """Return how often two values meet in a unit, each unit counting its number of ratings."""
    from scipy.sparse import csr_array, diags_array

    unit = np.repeat(np.arange(len(sizes)), sizes)
    counts = csr_array((np.ones(len(codes)), (unit, codes)), shape=(len(sizes), num_values))
    scale = diags_array(1 / (sizes - 1.0))
    together: Array = (counts.T @ scale @ counts).toarray()
    itself: Array = (scale @ counts).sum(axis=0)
    return together - np.diag(itself)


def _distances(values: Array, totals: Array, level: Level) -> Array:
    """Return the squared distance between every two values."""
    if level == "nominal":
        return 1.0 - np.eye(len(values))
    place = values if level == "interval" else np.cumsum(totals) - totals / 2
    squared: Array = (place[:, None] - place) ** 2
    return squared


def three_cycle_rate(preferences: Iterable[tuple[Hashable, Hashable]]) -> float:
    """Share of triples in a circle (a over b, b over c, c over a) among triples compared in full.

    Judgments of one pair are first reduced to their majority; a pair that is even has no winner and
    its triples do not count. Judgments at random give 0.25.

    Args:
        preferences: (winner, loser) of each judgment; items are anything hashable.

    Returns:
        A value in [0, 1]; NaN if no three items are all compared with each other.

    Example:
        >>> three_cycle_rate([("a", "b"), ("b", "c"), ("c", "a")])
        1.0
        >>> three_cycle_rate([("a", "b"), ("b", "c"), ("a", "c"), ("c", "a"), ("a", "c")])
        0.0

    Source:
        Kendall and Babington Smith (1940), On the method of paired comparisons.
    """
    from scipy.sparse import csr_array

    pairs = list(preferences)
    numbers = {item: i for i, item in enumerate(dict.fromkeys(x for pair in pairs for x in pair))}
    if not numbers:
        return np.nan
    winner, loser = ([numbers[pair[side]] for pair in pairs] for side in (0, 1))
    shape = (len(numbers), len(numbers))
    wins = csr_array((np.ones(len(pairs)), (winner, loser)), shape=shape)
    beats = ((wins - wins.T) > 0).astype(np.float64)
    compared = beats + beats.T
    triples = (compared @ compared).multiply(compared).sum() / 6
    cycles = (beats @ beats).multiply(beats.T).sum() / 3
    return float(cycles / triples) if triples else np.nan
