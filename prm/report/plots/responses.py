"""Plots of an outcome report, as PNG bytes by file name."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from prm.evaluation.outcome import OutcomeReport
from prm.evaluation.parts import MODEL, REWARD
from prm.metrics.correlation import CorrelationMatrix
from prm.metrics.intervals import Interval
from prm.metrics.pairs import hits, sigmoid
from prm.report.outcome import HEADINGS, headline_metrics
from prm.report.plots.steps import BLUE, GRAY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NUM_BINS = 10
COLORS = {
    MODEL: BLUE,
    REWARD: "#7c3aed",
    "constant": "#cbd5e1",
    "length_only": GRAY,
    "tfidf": "#64748b",
}


def draw_plots(report: OutcomeReport) -> dict[str, bytes]:
    """Return the plots that the report's labels allow, PNG bytes by file name."""
    margins = {name: margins for name, margins in report.margins.items() if len(margins)}
    bars = _bars(report)
    plots: dict[str, tuple[bool, tuple[float, float], Callable[[Figure], None]]] = {
        "objectives.png": (
            bool(bars),
            (max(5.0, 2 + 1.6 * len(bars)), 4.2),
            lambda figure: _objectives(figure, bars),
        ),
        "pair_reliability.png": (
            bool(margins),
            (6, 4.2),
            lambda figure: _reliability(figure, margins),
        ),
        "correlations.png": (
            len(report.head_correlations.names) > 1,
            (9, 4.2),
            lambda figure: _correlations(figure, report),
        ),
    }
    return {name: _png(size, draw) for name, (possible, size, draw) in plots.items() if possible}


def _png(size: tuple[float, float], draw: Callable[[Figure], None]) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=150, layout="constrained")
    draw(figure)
    stream = BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _bars(report: OutcomeReport) -> dict[str, dict[str, Interval]]:
    """Return each headline metric of each objective, by scorer."""
    return {
        f"{name}\n{HEADINGS[metric]}\nn = {result.overall.scores[MODEL][metric].n}": {
            scorer: scores[metric] for scorer, scores in result.overall.scores.items()
        }
        for name, result in report.objectives.items()
        for metric in headline_metrics(result.overall)
    }


def _objectives(figure: Figure, bars: dict[str, dict[str, Interval]]) -> None:
    """Draw a group of bars per objective and metric, one per scorer."""
    axes = _axes(figure)
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


def _reliability(figure: Figure, margins: dict[str, NDArray[np.float64]]) -> None:
    """Draw how often the response of higher score is better, against how sure the scores are."""
    axes = _axes(figure)
    axes.plot([0.5, 1], [0.5, 1], color=GRAY, linestyle="--", linewidth=1)
    for index, (name, margin) in enumerate(margins.items()):
        confidence, accuracy, errors = _folded_bins(margin)
        axes.errorbar(
            confidence,
            accuracy,
            yerr=errors,
            color=f"C{index}",
            marker="o",
            markersize=4,
            capsize=2,
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


def _folded_bins(
    margins: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return mean confidence, accuracy and its 95 % Wilson bounds of each bin that is used."""
    from scipy.stats import binomtest

    confidence, hit = sigmoid(np.abs(margins)), hits(margins, "half")
    bins = np.minimum(((2 * confidence - 1) * NUM_BINS).astype(int), NUM_BINS - 1)
    count = np.bincount(bins, minlength=NUM_BINS)
    used = count > 0
    mean = np.bincount(bins, confidence, NUM_BINS)[used] / count[used]
    share = np.bincount(bins, hit, NUM_BINS)[used] / count[used]
    bounds = [
        binomtest(round(s * n), int(n)).proportion_ci(method="wilson")
        for s, n in zip(share, count[used], strict=True)
    ]
    errors = [[s - b.low, b.high - s] for s, b in zip(share, bounds, strict=True)]
    return mean, share, np.maximum(np.array(errors).T, 0)


def _correlations(figure: Figure, report: OutcomeReport) -> None:
    """Draw the correlations of scores beside those of labels."""
    both = {"scores": report.head_correlations, "labels": report.label_correlations}
    panels = figure.subplots(1, 2)
    for axes, (title, matrix) in zip(panels, both.items(), strict=True):
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


def _axes(figure: Figure) -> Axes:
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return axes
