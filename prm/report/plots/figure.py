"""What plots have in common: their colors, their axes, and how they become PNG bytes."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from prm.arrays import Array, Indices

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from prm.report.document import Plot

BLUE, RED, GRAY = "#2563eb", "#dc2626", "#94a3b8"


def png(plot: Plot) -> bytes:
    """Return a plot as PNG; needs matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=plot.size, dpi=150, layout="constrained")
    plot.draw(figure)
    stream = BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def only_axes(figure: Figure) -> Axes:
    """Return the axes of a figure that has one plot."""
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def wilson(share: Array, count: Indices) -> Array:
    """Return the distances down and up to the 95 % Wilson bounds of shares.

    Args:
        share: Shares, shape `[bin]`.
        count: Units behind each, shape `[bin]`.

    Returns:
        Shape `[2, bin]`.
    """
    z = 1.96
    center = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * np.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2) / (1 + z**2 / count)
    return np.maximum(np.stack([share - (center - half), center + half - share]), 0)
