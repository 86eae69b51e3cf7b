"""Plots of a process report, as PNG bytes by file name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from prm.evaluation.process import ProcessReport
from prm.evaluation.steps import Slice
from prm.metrics.binary import step_auroc
from prm.metrics.intervals import auroc_interval
from prm.records import CORRECTNESS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, RED, GRAY = "#2563eb", "#dc2626", "#94a3b8"
NUM_BINS = 10
MAX_OFFSET = 5
MAX_POSITION = 15
MIN_STEPS = 5
"""Steps of each class that a position needs to be shown."""


def draw_plots(report: ProcessReport) -> dict[str, bytes]:
    """Return the plots that the report's labels allow, PNG bytes by file name."""
    part = report.arrays
    plots: dict[str, tuple[bool, Callable[[Axes], None]]] = {
        "roc.png": (_has_both(part.label), lambda axes: _roc(axes, report)),
        "reliability.png": (len(part.label) > 0, lambda axes: _reliability(axes, part)),
        "auroc_by_position.png": (bool(_positions(part)), lambda axes: _by_position(axes, part)),
        "first_error_offsets.png": (
            any(report.first_error_offsets.values()),
            lambda axes: _offsets(axes, report.first_error_offsets),
        ),
    }
    return {name: png(draw) for name, (possible, draw) in plots.items() if possible}


def png(draw: Callable[[Axes], None]) -> bytes:
    """Return a plot that `draw` fills, as PNG."""
    from matplotlib.figure import Figure

    figure: Figure = Figure(figsize=(6, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes)
    stream = BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _has_both(labels: NDArray[np.float64]) -> bool:
    return 0 < int((labels >= 0.5).sum()) < len(labels)


def _roc(axes: Axes, report: ProcessReport) -> None:
    """Draw the ROC curve of all steps in blue, and of each source more lightly."""
    whole = report.arrays
    sources = sorted({p.chain.source for p in report.predictions})
    for index, source in enumerate(sources if 1 < len(sources) <= 6 else ()):
        rows = [p for p in report.predictions if p.chain.source == source]
        part = Slice(rows, report.settings["threshold"])
        if _has_both(part.label):
            _curve(axes, part, source or "(no source)", color=f"C{index + 1}", linewidth=1)
    _curve(axes, whole, "all", color=BLUE, linewidth=2.2)
    axes.plot([0, 1], [0, 1], color=GRAY, linestyle="--", linewidth=1)
    axes.set(
        title="ROC of step correctness",
        xlabel="wrong steps accepted",
        ylabel="correct steps accepted",
        xlim=(-0.01, 1.01),
        ylim=(-0.01, 1.01),
    )
    axes.set_aspect("equal")
    axes.legend(loc="lower right", frameon=False, fontsize=9)


def _curve(axes: Axes, part: Slice, name: str, *, color: str, linewidth: float) -> None:
    thresholds = np.concatenate([[np.inf], np.unique(part.probability)[::-1]])
    correct = np.sort(part.probability[part.label >= 0.5])
    wrong = np.sort(part.probability[part.label < 0.5])
    accepted_correct = 1 - np.searchsorted(correct, thresholds) / len(correct)
    accepted_wrong = 1 - np.searchsorted(wrong, thresholds) / len(wrong)
    auroc = step_auroc(part.probability, part.label)
    label = f"{name} (AUROC {auroc:.3f})"
    axes.plot(accepted_wrong, accepted_correct, color=color, linewidth=linewidth, label=label)


def _reliability(axes: Axes, part: Slice) -> None:
    """Draw observed against predicted correctness, and how many steps lie in each bin."""
    edges = np.linspace(0, 1, NUM_BINS + 1)
    bins = np.minimum((part.probability * NUM_BINS).astype(int), NUM_BINS - 1)
    count = np.bincount(bins, minlength=NUM_BINS)
    used = count > 0
    predicted = np.bincount(bins, part.probability, NUM_BINS)[used] / count[used]
    observed = np.bincount(bins, part.label, NUM_BINS)[used] / count[used]
    shares = axes.twinx()
    shares.bar(edges[:-1], count / count.sum(), 1 / NUM_BINS, align="edge", color=GRAY, alpha=0.3)
    shares.set(ylabel="share of steps (bars)", ylim=(0, 1))
    shares.spines["top"].set_visible(False)
    axes.plot([0, 1], [0, 1], color=GRAY, linestyle="--", linewidth=1)
    axes.errorbar(
        predicted,
        observed,
        yerr=_wilson(observed, count[used]),
        color=BLUE,
        marker="o",
        markersize=5,
        capsize=2,
        linewidth=1.5,
    )
    axes.set(
        title=f"Reliability ({len(part.label)} steps)",
        xlabel="predicted probability of being correct",
        ylabel="observed share of correct steps",
        xlim=(-0.01, 1.01),
        ylim=(-0.01, 1.03),
    )


def _wilson(share: NDArray[np.float64], count: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the distances down and up to the 95 % Wilson bounds of shares."""
    z = 1.96
    center = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * np.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2) / (1 + z**2 / count)
    return np.maximum(np.stack([share - (center - half), center + half - share]), 0)


def _positions(part: Slice) -> dict[int, list[tuple[float, float, str]]]:
    """Return (probability, label, group) of the steps at each position with enough of both."""
    steps: dict[int, list[tuple[float, float, str]]] = {}
    for prediction in part.predictions:
        chain = prediction.chain
        labels = chain.labels.get(CORRECTNESS, ())
        for index, (p, label) in enumerate(zip(prediction.probabilities, labels, strict=False)):
            if p is not None and label is not None and index < MAX_POSITION:
                steps.setdefault(index, []).append((p, label, chain.group))
    return {i: rows for i, rows in sorted(steps.items()) if _enough([row[1] for row in rows])}


def _enough(labels: list[float]) -> bool:
    wrong = sum(label < 0.5 for label in labels)
    return min(wrong, len(labels) - wrong) >= MIN_STEPS


def _by_position(axes: Axes, part: Slice) -> None:
    """Draw the AUROC among steps of one position, where position itself cannot help."""
    for index, rows in _positions(part).items():
        probability, label, group = zip(*rows, strict=True)
        interval = auroc_interval(probability, label, group, num_resamples=300)
        wrong = sum(value < 0.5 for value in label)
        if interval.value is not None:
            axes.plot(index + 1, interval.value, marker="o", color=BLUE)
        if interval.low is not None and interval.high is not None:
            axes.vlines(index + 1, interval.low, interval.high, color=BLUE, linewidth=1.5)
        axes.annotate(
            str(wrong),
            (index + 1, 0.02),
            ha="center",
            fontsize=8,
            color="#475569",
            xycoords=("data", "axes fraction"),
        )
    axes.axhline(0.5, color=GRAY, linestyle="--", linewidth=1)
    axes.set(
        title="Step AUROC by position (95 % interval)",
        xlabel="step (below the points: number of wrong steps)",
        ylabel="AUROC within the position",
    )
    axes.set_ylim(top=1.02, bottom=min(0.35, axes.get_ylim()[0]))
    axes.locator_params(axis="x", integer=True)


def _offsets(axes: Axes, offsets: Mapping[str, int]) -> None:
    """Draw where the first error was put relative to where it is."""
    counts = dict.fromkeys(range(-MAX_OFFSET, MAX_OFFSET + 1), 0)
    for offset, count in offsets.items():
        if offset not in ("missed", "unscored"):
            counts[max(-MAX_OFFSET, min(MAX_OFFSET, int(offset)))] += count
    names = [f"{offset:+d}" if offset else "exact" for offset in counts]
    names[0], names[-1] = f"≤ −{MAX_OFFSET}", f"≥ +{MAX_OFFSET}"
    bars = dict(zip(names, counts.values(), strict=True)) | {"missed": offsets["missed"]}
    if offsets["unscored"]:
        bars["unscored"] = offsets["unscored"]
    colors = [BLUE if name == "exact" else RED if name == "missed" else GRAY for name in bars]
    shown = axes.bar([name.replace("-", "−") for name in bars], list(bars.values()), color=colors)
    axes.bar_label(shown, fontsize=8, padding=2)
    axes.tick_params(axis="x", labelsize=8)
    axes.set(
        title=f"First error: predicted − true ({sum(offsets.values())} chains with an error)",
        ylabel="chains",
    )
