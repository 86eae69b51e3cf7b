"""Plots of the studies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from prm.atomic import atomic_file
from tests.benchmarks.rl.study import Run, of_condition

Curve = Callable[[Run], Sequence[tuple[float, float]]]
"""From a run to points (step, value)."""


def probes(name: str) -> Curve:
    """Return the curve of a number on held-out prompts."""
    return lambda run: [(point["step"], point[name]) for point in run.curve]


def logged(name: str) -> Curve:
    """Return the curve of a number that TRL logged."""
    return lambda run: [(row["step"], row[name]) for row in run.log if name in row]


def figure(num_panels: int) -> tuple[Any, Sequence[Any]]:
    """Return a figure with panels side by side."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(3.6 * num_panels, 3.2), layout="constrained")
    return drawn, drawn.subplots(1, num_panels)


def draw_curves(axes: Any, runs: Sequence[Run], curves: dict[str, str], of: Curve) -> None:
    """Draw each seed as a thin line and the mean of a condition as a thick one.

    Args:
        axes: Where to.
        runs: All runs of a study.
        curves: Condition to color.
        of: What is drawn.
    """
    for condition, color in curves.items():
        seeds = [of(run) for run in of_condition(runs, condition)]
        for points in seeds:
            axes.plot(*zip(*points, strict=True), color=color, linewidth=0.7, alpha=0.5)
        steps = [step for step, _ in seeds[0]]
        mean = [fmean(value for _, value in points) for points in zip(*seeds, strict=True)]
        axes.plot(steps, mean, color=color, linewidth=2, label=condition)
    axes.set_xlabel("optimizer step")
    axes.grid(alpha=0.3)


def draw_weights(axes: Any, found: Sequence[dict[str, Any]], colors: dict[str, str]) -> None:
    """Draw gold values against the share of safety, with intervals; dashed where they started.

    Args:
        axes: Where to.
        found: Changes of the conditions `safety-SHARE`.
        colors: Name of the value to color.
    """
    for name, color in colors.items():
        rows = [row for row in found if row["name"] == name]
        shares = [float(row["condition"].removeprefix("safety-")) for row in rows]
        after = [row["after"] for row in rows]
        reach = [
            [one["value"] - one["low"] for one in after],
            [one["high"] - one["value"] for one in after],
        ]
        heights = [one["value"] for one in after]
        label = name.removeprefix("gold/")
        axes.errorbar(shares, heights, reach, color=color, marker="o", capsize=3, label=label)
        axes.axhline(fmean(row["before"]["value"] for row in rows), color=color, linestyle="--")
    axes.set_xlabel("share of safety in the moved weight")
    axes.set_ylabel("gold on held-out prompts")
    axes.grid(alpha=0.3)
    axes.legend()


def save(drawn: Any, path: Path) -> None:
    """Write a figure as PNG."""
    with atomic_file(path) as stream:
        drawn.savefig(stream, format="png", dpi=80)
