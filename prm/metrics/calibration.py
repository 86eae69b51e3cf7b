"""How far probabilities are from frequencies, without what chance adds to it.

The binned distance of calibrated probabilities is not 0: every bin is off by chance, and distances
do not cancel. With few units that is most of what is measured.
"""

from __future__ import annotations

import numpy as np

from prm.arrays import Array, Indices


def binned_error(bins: Indices, gaps: Array, weights: Array) -> float:
    r"""Return $\sum_b \lvert g_b \rvert$, $g_b$ the share of bin b in the mean gap.

    Args:
        bins: Number of the bin of each unit, `[unit]`.
        gaps: Probability minus label of each, or the reverse.
        weights: How often each counts; the result is NaN if they sum to 0.
    """
    total = weights.sum()
    sums = np.bincount(bins, weights=weights * gaps, minlength=1)
    return float(np.abs(sums).sum() / total) if total > 0 else np.nan


def debiased_error(bins: Indices, gaps: Array, variances: Array, weights: Array) -> float:
    r"""Return `binned_error` without what chance adds to it, at least 0.

    With the standard error $s_b$ of $g_b$ and $x_b = \lvert g_b \rvert / s_b$:
    $$\max\bigl(0, \textstyle\sum_b s_b \left(x_b (2 \Phi(x_b) - 1) - 2 \varphi(x_b)\right)\bigr)$$
    This is $\sum_b \mathrm{sign}(g_b') g_b$ with the sign from one half of the units and the size
    from the other, averaged over all halves. Before the maximum its mean is 0 for calibrated
    probabilities and the true error for errors of two standard errors or more; in between it is
    too small, by half a standard error of the bin at most. Units are taken as independent.

    Args:
        bins: As in `binned_error`; so are gaps and weights.
        gaps: Probability minus label of each unit, or the reverse.
        variances: Variance of each label if its probability is right; the standard error of a bin
            is not taken to be smaller, whatever the labels in it.
        weights: How often each counts.

    Example:
        >>> bins, gaps = np.zeros(100, dtype=np.int64), np.tile([0.5, -0.5], 50)
        >>> debiased_error(bins, gaps, np.full(100, 0.25), np.ones(100))
        0.0
        >>> round(debiased_error(bins, gaps + 0.4, np.full(100, 0.25), np.ones(100)), 6)
        0.4
    """
    from scipy.special import ndtr

    total = weights.sum()
    if total <= 0:
        return np.nan
    sums = np.bincount(bins, weights=weights * gaps, minlength=1)
    sizes = np.bincount(bins, weights=weights, minlength=1)
    means = np.divide(sums, sizes, out=np.zeros_like(sums), where=sizes > 0)
    spread = np.bincount(bins, weights=(weights * (gaps - means[bins])) ** 2, minlength=1)
    least = np.bincount(bins, weights=weights**2 * variances, minlength=1)
    error = np.sqrt(np.maximum(spread, least))
    size = np.abs(sums)
    x = np.divide(size, error, out=np.full_like(size, np.inf), where=error > 0)
    density = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    found = size * (2 * ndtr(x) - 1) - 2 * error * density
    return float(max(found.sum() / total, 0.0))
