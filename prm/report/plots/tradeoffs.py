"""Plots of an audit of trade-offs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from prm.audit.tradeoff_report import TradeoffReport
from prm.report.document import Plot
from prm.report.plots.figure import BLUE, GRAY, RED, only_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def tradeoff_plots(report: TradeoffReport) -> list[Plot]:
    """Return the plots of an audit."""
    plots = [
        Plot("flips_by_weight", lambda figure: _by_weight(figure, report)),
        Plot("winners_by_aggregation", lambda figure: _winners(figure, report)),
    ]
    if report.by_share:
        plots.append(Plot("flips_by_share", lambda figure: _by_share(figure, report)))
    if report.scatter is not None:
        plots.append(Plot("pareto", lambda figure: _pareto(figure, report)))
    return plots


def _by_weight(figure: Figure, report: TradeoffReport) -> None:
    """Draw the share of other winners against the factor on each weight."""
    axes = only_axes(figure)
    for name, flips in report.by_weight.items():
        shares = [np.nan if flip.changed is None else flip.changed for flip in flips]
        axes.plot(range(len(flips)), shares, marker="o", markersize=4, label=name)
    settings = [f"{flip.setting:g}" for flip in next(iter(report.by_weight.values()))]
    axes.set_xticks(range(len(settings)), settings)
    axes.axvline(settings.index("1"), color=GRAY, linestyle="--", linewidth=1)
    axes.set(
        title="How a weight decides",
        xlabel="the weight is multiplied by",
        ylabel="share of prompts with another winner",
    )
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=9, title="weight of")


def _by_share(figure: Figure, report: TradeoffReport) -> None:
    """Draw the share of other winners against how two weights are divided."""
    axes = only_axes(figure)
    for name, flips in report.by_share.items():
        shares = [np.nan if flip.changed is None else flip.changed for flip in flips]
        axes.plot([flip.setting for flip in flips], shares, marker="o", markersize=4, label=name)
    axes.set(
        title="How two weights are divided between them",
        xlabel="share of the first objective",
        ylabel="share of prompts with another winner",
    )
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=9)


def _winners(figure: Figure, report: TradeoffReport) -> None:
    """Draw the winners' mean utility of each objective, above that of a random response."""
    axes = only_axes(figure)
    floor = report.references["a random response"]
    height = 0.8 / len(report.objectives)
    for index, name in enumerate(report.objectives):
        places = np.arange(len(report.choices)) + index * height
        gains = [choice.utilities[name] - floor[name] for choice in report.choices.values()]
        axes.barh(places, gains, height, label=name)
    axes.set_yticks(np.arange(len(report.choices)) + 0.4 - height / 2, list(report.choices))
    axes.invert_yaxis()
    axes.axvline(0, color=GRAY, linewidth=1)
    axes.set(title="What each aggregation chooses", xlabel="mean utility above a random response")
    axes.legend(frameon=False, fontsize=9)


def _pareto(figure: Figure, report: TradeoffReport) -> None:
    """Draw candidates in the plane of the two objectives that conflict most."""
    axes = only_axes(figure)
    scatter = report.scatter
    assert scatter is not None
    kinds = {
        "dominated": (scatter.dominated & ~scatter.winner, GRAY, 6),
        "undominated": (~scatter.dominated & ~scatter.winner, BLUE, 8),
        "winner under the base": (scatter.winner, RED, 14),
    }
    for label, (shown, color, size) in kinds.items():
        x, y = scatter.points[shown].T
        axes.scatter(x, y, s=size, color=color, alpha=0.6, linewidths=0, label=label)
    first, second = scatter.objectives
    correlation = report.correlation[first][second]
    value = "undefined" if correlation is None else f"{correlation:.2f}"
    axes.set(
        title=f"The objectives that conflict most (correlation {value})",
        xlabel=f"utility of {first}, around the prompt's mean",
        ylabel=f"utility of {second}, around the prompt's mean",
    )
    axes.legend(frameon=False, fontsize=9)
