"""Plots of scored steps: how well they are told apart, how sure the model is, and where it errs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from prm.arrays import Array
from prm.data.groups import problem_groups
from prm.evaluation.steps import StepPrediction, labeled_steps
from prm.metrics.binary import step_auroc
from prm.metrics.intervals import auroc_interval
from prm.report.document import Plot
from prm.report.plots.figure import BLUE, GRAY, NUM_BINS, RED, only_axes, reliability

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


MAX_OFFSET = 5
MAX_POSITION = 15
MAX_SOURCES = 6
"""With more sources than this, only the curve of all steps is drawn."""
MIN_STEPS = 5
"""Steps of each class that a position needs to be shown."""


def step_plots(predictions: Sequence[StepPrediction], offsets: Mapping[str, int]) -> list[Plot]:
    """Return the plots that the labels allow.

    Args:
        predictions: The scored chains.
        offsets: Predicted minus true first error to the number of chains, as `StepResults` has it.
    """
    probability, label = _columns(predictions)
    positions = _positions(predictions)
    plots = {
        "roc": (_has_both(label), lambda figure: _roc(figure, predictions)),
        "reliability": (len(label) > 0, lambda figure: _reliability(figure, probability, label)),
        "auroc_by_position": (bool(positions), lambda figure: _by_position(figure, positions)),
        "first_error_offsets": (
            any(offsets.values()),
            lambda figure: _offsets(figure, offsets),
        ),
    }
    return [Plot(name, draw) for name, (possible, draw) in plots.items() if possible]


def _columns(predictions: Sequence[StepPrediction]) -> tuple[Array, Array]:
    """Return probability and label of the labeled steps."""
    steps = [(step.probability, step.label) for step in labeled_steps(predictions)]
    table: Array = np.array(steps, dtype=np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _has_both(labels: Array) -> bool:
    return 0 < int((labels >= 0.5).sum()) < len(labels)


def _roc(figure: Figure, predictions: Sequence[StepPrediction]) -> None:
    """Draw the ROC curve of all steps in blue, and of each source more lightly."""
    axes = only_axes(figure, (0, 1))
    sources = sorted({p.chain.source for p in predictions})
    for index, source in enumerate(sources if 1 < len(sources) <= MAX_SOURCES else ()):
        columns = _columns([p for p in predictions if p.chain.source == source])
        if _has_both(columns[1]):
            _curve(axes, columns, source or "(no source)", color=f"C{index + 1}", linewidth=1)
    _curve(axes, _columns(predictions), "all", color=BLUE, linewidth=2.2)
    axes.set(
        title="ROC of step correctness",
        xlabel="wrong steps accepted",
        ylabel="correct steps accepted",
        xlim=(-0.01, 1.01),
        ylim=(-0.01, 1.01),
    )
    axes.set_aspect("equal")
    axes.legend(loc="lower right", frameon=False, fontsize=9)


def _curve(
    axes: Axes, columns: tuple[Array, Array], name: str, *, color: str, linewidth: float
) -> None:
    probability, label = columns
    thresholds = np.concatenate([[np.inf], np.unique(probability)[::-1]])
    correct = np.sort(probability[label >= 0.5])
    wrong = np.sort(probability[label < 0.5])
    accepted_correct = 1 - np.searchsorted(correct, thresholds) / len(correct)
    accepted_wrong = 1 - np.searchsorted(wrong, thresholds) / len(wrong)
    title = f"{name} (AUROC {step_auroc(probability, label):.3f})"
    axes.plot(accepted_wrong, accepted_correct, color=color, linewidth=linewidth, label=title)


def _reliability(figure: Figure, probability: Array, label: Array) -> None:
    """Draw observed against predicted correctness, and how many steps lie in each bin."""
    axes = only_axes(figure, (0, 1))
    shares = axes.twinx()
    shares.set(ylabel="share of steps (bars)", ylim=(0, 1))
    shares.spines["top"].set_visible(False)
    count = reliability(axes, probability, label, (0, 1), color=BLUE, markersize=5, linewidth=1.5)
    places = np.arange(NUM_BINS) / NUM_BINS
    shares.bar(places, count / count.sum(), 1 / NUM_BINS, align="edge", color=GRAY, alpha=0.3)
    axes.set(
        title=f"Reliability ({len(label)} steps)",
        xlabel="predicted probability of being correct",
        ylabel="observed share of correct steps",
        xlim=(-0.01, 1.01),
        ylim=(-0.01, 1.03),
    )


def _positions(
    predictions: Sequence[StepPrediction],
) -> dict[int, list[tuple[float, float, int]]]:
    """Return (probability, label, problem) of the steps at each position with enough of both."""
    rows: dict[int, list[tuple[float, float, int]]] = {}
    problems = problem_groups([prediction.chain for prediction in predictions]).tolist()
    for step in labeled_steps(predictions):
        row = (step.probability, step.label, problems[step.chain])
        if step.position < MAX_POSITION:
            rows.setdefault(step.position, []).append(row)
    return {i: found for i, found in sorted(rows.items()) if _enough([row[1] for row in found])}


def _enough(labels: list[float]) -> bool:
    wrong = sum(label < 0.5 for label in labels)
    return min(wrong, len(labels) - wrong) >= MIN_STEPS


def _by_position(
    figure: Figure, positions: Mapping[int, Sequence[tuple[float, float, int]]]
) -> None:
    """Draw the AUROC among steps of one position, where position itself cannot help."""
    axes = only_axes(figure)
    for index, rows in positions.items():
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


def _offsets(figure: Figure, offsets: Mapping[str, int]) -> None:
    """Draw where the first error was put relative to where it is."""
    axes = only_axes(figure)
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
