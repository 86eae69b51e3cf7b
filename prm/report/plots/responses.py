"""Plots of scored responses: objectives beside baselines, reliability, correlations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from prm.arrays import Array
from prm.evaluation.parts import LENGTH_ONLY, MODEL, REWARD
from prm.metrics.correlation import CorrelationMatrix
from prm.metrics.intervals import Interval
from prm.metrics.pairs import hits, sigmoid
from prm.report.document import Plot
from prm.report.plots.figure import BLUE, GRAY, only_axes, reliability

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


COLORS = {
    MODEL: BLUE,
    REWARD: "#7c3aed",
    "constant": "#cbd5e1",
    LENGTH_ONLY: GRAY,
    "tfidf": "#64748b",
}


def response_plots(
    bars: Mapping[str, Mapping[str, Interval]],
    margins: Mapping[str, Array],
    correlations: Mapping[str, CorrelationMatrix],
) -> list[Plot]:
    """Return the plots that the labels allow.

    Args:
        bars: Each objective with a metric, to scorer to value.
        margins: Objective to the margins of the better responses.
        correlations: Title to matrix, drawn side by side.
    """
    margins = {name: found for name, found in margins.items() if len(found)}
    several = any(len(matrix.names) > 1 for matrix in correlations.values())
    width = max(5.0, 2 + 1.6 * len(bars))
    plots = [
        (bool(bars), Plot("objectives", lambda figure: _objectives(figure, bars), (width, 4.2))),
        (bool(margins), Plot("pair_reliability", lambda figure: _reliability(figure, margins))),
        (
            several,
            Plot("correlations", lambda figure: _correlations(figure, correlations), (9, 4.2)),
        ),
    ]
    return [plot for possible, plot in plots if possible]


def _objectives(figure: Figure, bars: Mapping[str, Mapping[str, Interval]]) -> None:
    """Draw a group of bars per objective and metric, one per scorer."""
    axes = only_axes(figure)
    scorers = list(dict.fromkeys(scorer for row in bars.values() for scorer in row))
    width = 0.8 / len(scorers)
    for index, scorer in enumerate(scorers):
        shown = [
            (place + (index - (len(scorers) - 1) / 2) * width, row[scorer])
            for place, row in enumerate(bars.values())
            if scorer in row and row[scorer].value is not None
        ]
        heights = [interval.value or 0.0 for _, interval in shown]
        places = [place for place, _ in shown]
        axes.bar(places, heights, width * 0.92, color=COLORS.get(scorer), label=scorer)
        for place, interval in shown:
            if interval.low is not None and interval.high is not None:
                axes.vlines(place, interval.low, interval.high, color="black", linewidth=1)
    axes.axhline(0.5, color=GRAY, linestyle="--", linewidth=1)
    axes.set_xticks(range(len(bars)), list(bars), fontsize=8)
    axes.set(title="Objectives beside baselines (95 % interval)")
    axes.set_ylim(top=1.02)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", frameon=False)


def _reliability(figure: Figure, margins: Mapping[str, Array]) -> None:
    """Draw how often the response of higher score is better, against how sure the scores are."""
    axes = only_axes(figure, (0.5, 1))
    for index, (name, margin) in enumerate(margins.items()):
        reliability(
            axes,
            sigmoid(np.abs(margin)),
            hits(margin, "half"),
            (0.5, 1),
            color=f"C{index}",
            markersize=4,
            linewidth=1.3,
            label=f"{name} ({len(margin)} pairs)",
        )
    axes.set(
        title="Reliability of pairs (folded)",
        xlabel="probability of the response of higher score",
        ylabel="share where it is the better one",
        xlim=(0.49, 1.01),
        ylim=(-0.01, 1.03),
    )
    axes.legend(loc="lower right", frameon=False, fontsize=9)


def _correlations(figure: Figure, correlations: Mapping[str, CorrelationMatrix]) -> None:
    """Draw matrices side by side."""
    panels = figure.subplots(1, len(correlations))
    for axes, (title, matrix) in zip(panels, correlations.items(), strict=True):
        _heatmap(axes, f"Correlation of {title}", matrix)


def _heatmap(axes: Axes, title: str, matrix: CorrelationMatrix) -> None:
    values = np.array(matrix.values, dtype=np.float64)
    axes.imshow(values, cmap="RdBu", vmin=-1, vmax=1)
    for (i, j), value in np.ndenumerate(values):
        text = "—" if np.isnan(value) else f"{value:.2f}"
        color = "white" if abs(value) > 0.6 else "black"
        label = f"{text}\nn = {matrix.n[i][j]}"
        axes.text(j, i, label, ha="center", va="center", fontsize=8, color=color)
    places = range(len(matrix.names))
    axes.set_xticks(places, matrix.names, rotation=30, ha="right", fontsize=8)
    axes.set_yticks(places, matrix.names, fontsize=8)
    axes.set_title(title)
