"""What plots have in common: their colors, their axes, and how they become PNG bytes."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from prm.arrays import Array, Indices
from prm.metrics.intervals import wilson

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from prm.report.document import Plot

NUM_BINS = 10
BLUE, RED, GRAY = "#2563eb", "#dc2626", "#94a3b8"


def png(plot: Plot) -> bytes:
    """Return a plot as PNG; needs matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=plot.size, dpi=150, layout="constrained")
    plot.draw(figure)
    stream = BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def only_axes(figure: Figure, chance: tuple[float, float] | None = None) -> Axes:
    """Return the axes of a figure that has one plot.

    Args:
        figure: The figure.
        chance: From where to where, in both directions, a line to compare with goes, if any.
    """
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    if chance is not None:
        axes.plot(chance, chance, color=GRAY, linestyle="--", linewidth=1)
    return axes


def reliability(
    axes: Axes, predicted: Array, observed: Array, range_: tuple[float, float], **style: Any
) -> Indices:
    """Draw means of observations over those of predictions, in bins of equal width.

    Args:
        axes: Where to draw.
        predicted: Prediction of each unit.
        observed: What was observed of it, in [0, 1].
        range_: Lowest and highest prediction.
        style: Color, line and label.

    Returns:
        Number of units of each bin, used or not.
    """
    low, high = range_
    bins = ((predicted - low) / (high - low) * NUM_BINS).astype(int)
    bins = np.minimum(bins, NUM_BINS - 1)
    count: Indices = np.bincount(bins, minlength=NUM_BINS)
    used = count > 0
    places, share = (
        np.bincount(bins, values, NUM_BINS)[used] / count[used] for values in (predicted, observed)
    )
    errors = np.abs(np.stack(wilson(share, count[used])) - share)
    axes.errorbar(places, share, yerr=errors, marker="o", capsize=2, **style)
    return count
