"""An audit of trade-offs for people: tables in the terminal and in Markdown, plots, and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from prm.atomic import atomic_file
from prm.audit.tradeoff_report import Flip, TradeoffReport
from prm.errors import OutputError
from prm.metrics.intervals import Interval
from prm.report.markdown import bullets, table
from prm.report.process import PLOTS_MISSING

if TYPE_CHECKING:
    from rich.console import Console

REPORT = "tradeoffs.json"
"""The file that is written last."""

Rows = list[list[str]]
Section = tuple[str, list[str], Rows]
"""Title, headings and rows of a table."""


def draw(console: Console, report: TradeoffReport) -> None:
    """Draw the tables of the report, the most important first."""
    from prm.report.terminal import results_table

    for title, head, rows in _sections(report):
        folded = [heading.replace(" ", "\n") for heading in head]
        console.print(results_table(title, folded, rows))
        console.print()
    console.print(headline(report), highlight=False, markup=False)


def headline(report: TradeoffReport) -> str:
    """Return what to remember: how often the choice of an aggregation decides."""
    others = {name: item for name, item in report.choices.items() if name != report.base}
    name = max(others, key=lambda other: others[other].changed.value or 0.0)
    weight = max(report.sensitivity, key=lambda item: report.sensitivity[item].changed)
    return (
        f"{report.counts['num_prompts']:,} prompts with {report.pareto.mean_candidates:.1f} "
        f"responses each. Most different: {name}, another response wins in "
        f"{_share_interval(others[name].changed)} of the prompts. Most sensitive: {weight}, 10 % "
        f"of its weight change {report.sensitivity[weight].changed:.1%} of the winners."
    )


def markdown(report: TradeoffReport, notes: Iterable[str] = ()) -> str:
    """Return the report as Markdown.

    Args:
        report: What to show.
        notes: Paragraphs for the end: the plots, or why there are none.
    """
    parts = ["# Trade-offs between objectives", headline(report)]
    for title, head, rows in _sections(report):
        parts += [f"## {title}", _MEANINGS[title], table(head, rows)]
    facts = {**report.counts, **report.settings, "weights swept": report.swept}
    parts += [
        "## What was measured",
        bullets(facts),
    ]
    return "\n\n".join([*parts, *notes]) + "\n"


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder that holds such a report, before any work is done.

    Raises:
        OutputError: It does, and `overwrite` is false.
    """
    if (folder / REPORT).exists() and not overwrite:
        raise OutputError(
            "the folder holds a report",
            got=str(folder / REPORT),
            fix="Give --overwrite to replace it",
        )


def write(report: TradeoffReport, folder: Path) -> list[Path]:
    """Write the plots, `tradeoffs.md` and, last, `tradeoffs.json`, each whole or not at all.

    Without matplotlib the plots are left out and `tradeoffs.md` says so.

    Raises:
        OutputError: A file cannot be written.
    """
    files: dict[str, bytes] = {}
    notes = [PLOTS_MISSING]
    if find_spec("matplotlib") is not None:
        from prm.report.plots.tradeoffs import draw_plots

        files |= draw_plots(report)
        notes = [f"![{Path(name).stem.replace('_', ' ')}]({name})" for name in files]
    files["tradeoffs.md"] = markdown(report, notes).encode()
    text = json.dumps(report.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
    files[REPORT] = f"{text}\n".encode()
    for name, content in files.items():
        with atomic_file(folder / name) as stream:
            stream.write(content)
    return [folder / name for name in files]


def _sections(report: TradeoffReport) -> Iterable[Section]:
    """Yield the tables, the most important first."""
    names = list(report.objectives)
    yield (
        "Winners under each aggregation",
        ["aggregation", "other winner", "pairs flipped", "tied", "dominated", *names],
        _choices(report),
    )
    yield (
        "Same winner",
        ["share of prompts", *report.agreement],
        [[name, *map(_share, row.values())] for name, row in report.agreement.items()],
    )
    yield from _weights(report)
    yield (
        "Exchange rates",
        ["gain of 1", "paid in", "accepted", "quartiles", "asked by the data", "conflicts"],
        _exchange(report),
    )
    yield (
        "Pareto front",
        ["responses", "per prompt", "undominated", "share", "one is best in all"],
        [
            [
                f"{report.counts['num_candidates']:,}",
                f"{report.pareto.mean_candidates:.2f}",
                f"{report.pareto.mean_front:.2f}",
                _share(report.pareto.undominated),
                _share(report.pareto.single),
            ]
        ],
    )
    yield (
        "Correlation within prompts",
        ["utilities", *names],
        [[name, *map(_number, row.values())] for name, row in report.correlation.items()],
    )


def _choices(report: TradeoffReport) -> Rows:
    rows = [
        [
            name,
            _share_interval(item.changed),
            _share(item.pairs_flipped),
            _share(item.tied),
            _share(item.dominated),
            *map(_number, item.utilities.values()),
        ]
        for name, item in report.choices.items()
    ]
    references = [
        [name, "", "", "", "", *map(_number, values.values())]
        for name, values in report.references.items()
    ]
    return rows + references


def _weights(report: TradeoffReport) -> Iterable[Section]:
    yield (
        "Other winner when one weight is multiplied",
        ["weight of", *_settings(report.by_weight)],
        _flips(report.by_weight),
    )
    if report.by_share:
        yield (
            "Other winner when two weights are divided anew",
            ["share of the first", *_settings(report.by_share)],
            _flips(report.by_share),
        )
    yield (
        "A weight 10 % higher or lower",
        ["weight of", "other winner", *report.objectives],
        [
            [name, _share(item.changed), *map(_number, item.utilities.values())]
            for name, item in report.sensitivity.items()
        ],
    )


def _settings(flips: Mapping[str, Sequence[Flip]]) -> list[str]:
    return [f"{flip.setting:g}" for flip in next(iter(flips.values()))]


def _flips(flips: Mapping[str, Sequence[Flip]]) -> Rows:
    return [[name, *(_share(flip.changed) for flip in row)] for name, row in flips.items()]


def _exchange(report: TradeoffReport) -> Rows:
    return [
        [
            item.gained,
            item.given,
            _number(item.rate),
            f"{_number(item.low)} to {_number(item.high)}",
            _number(item.paid),
            f"{item.num_conflicts:,}",
        ]
        for item in report.exchange
    ]


def _share_interval(interval: Interval) -> str:
    low, high = interval.low or 0.0, interval.high or 0.0
    return f"{_share(interval.value)} [{low:.0%}, {high:.0%}]"


def _share(value: float | None) -> str:
    return "—" if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:.3f}"


_MEANINGS = {
    "Winners under each aggregation": "How often another response wins than under the base (share "
    "of prompts, 95 % interval), how often pairs of responses change their order, how often "
    "several are equally good, how often the winner is dominated (another response is better "
    "somewhere and nowhere worse), and the winners' mean utility of each objective.",
    "Same winner": "How often two aggregations choose the same response.",
    "Other winner when one weight is multiplied": "Share of prompts where another response wins.",
    "Other winner when two weights are divided anew": "Share of prompts where another response "
    "wins; the total of both weights stays.",
    "A weight 10 % higher or lower": "Share of prompts where another response wins, and by "
    "objective the change of the winners' mean utility per unit of the weight's logarithm.",
    "Exchange rates": "In utilities: how much of the second objective the base gives for one unit "
    "of the first (median over the winners), and how much it costs between undominated responses "
    "to the same prompt. Where less is accepted than asked, the base keeps the second.",
    "Pareto front": "Only undominated responses are worth choosing between; where one is best in "
    "all objectives, every monotone aggregation agrees.",
    "Correlation within prompts": "Negative where responses to the same prompt gain one objective "
    "at the cost of another.",
}
"""What the numbers of a table say, by its title."""
