"""An audit of trade-offs for people: its tables with what they mean, and plots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from prm.audit.tradeoff_report import Flip, TradeoffReport
from prm.errors import OutputError
from prm.report import terminal
from prm.report.cells import count, number, share, share_interval
from prm.report.document import Document, Facts, Section, Text, named_table
from prm.report.files import write_report
from prm.report.plots.tradeoffs import tradeoff_plots

NAME = "tradeoffs"
"""Name of the files; the JSON is written last."""

Rows = list[list[str]]
Described = tuple[str, list[str], Rows]
"""Title, headings and rows of a table."""


def draw(console: Console, report: TradeoffReport) -> None:
    """Draw the tables of the report, the most important first."""
    terminal.draw(console, document(report))


def document(report: TradeoffReport) -> Document:
    """Return the page of an audit."""
    sections = [
        Section(title, [Text(_MEANINGS[title]), named_table(head, rows)])
        for title, head, rows in _tables(report)
    ]
    facts = {**report.counts, **report.settings, "weights swept": report.swept}
    sections.append(Section("What was measured", [Facts(facts)]))
    title = "Trade-offs between objectives"
    return Document(title, headline(report), sections, tradeoff_plots(report))


def headline(report: TradeoffReport) -> str:
    """Return what to remember: how often the choice of an aggregation decides."""
    others = {name: item for name, item in report.choices.items() if name != report.base}
    name = max(others, key=lambda other: others[other].changed.value or 0.0)
    weight = max(report.sensitivity, key=lambda item: report.sensitivity[item].changed)
    return (
        f"{report.counts['num_prompts']:,} prompts with {report.pareto.mean_candidates:.1f} "
        f"responses each. Most different: {name}, another response wins in "
        f"{share_interval(others[name].changed)} of the prompts. Most sensitive: {weight}, 10 % "
        f"of its weight change {report.sensitivity[weight].changed:.1%} of the winners."
    )


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder that holds such a report, before any work is done.

    Raises:
        OutputError: It does, and `overwrite` is false.
    """
    path = folder / f"{NAME}.json"
    if path.exists() and not overwrite:
        raise OutputError(
            "the folder holds a report",
            got=str(path),
            fix="Give --overwrite to replace it",
        )


def write(report: TradeoffReport, folder: Path) -> list[Path]:
    """Write the plots, `tradeoffs.md` and, last, `tradeoffs.json`; see `write_report`."""
    return write_report(document(report), report.to_dict(), folder, NAME)


def _tables(report: TradeoffReport) -> Iterable[Described]:
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
        [[name, *map(share, row.values())] for name, row in report.agreement.items()],
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
                count(report.counts["num_candidates"]),
                f"{report.pareto.mean_candidates:.2f}",
                f"{report.pareto.mean_front:.2f}",
                share(report.pareto.undominated),
                share(report.pareto.single),
            ]
        ],
    )
    yield (
        "Correlation within prompts",
        ["utilities", *names],
        [[name, *map(number, row.values())] for name, row in report.correlation.items()],
    )


def _choices(report: TradeoffReport) -> Rows:
    rows = [
        [
            name,
            share_interval(item.changed),
            share(item.pairs_flipped),
            share(item.tied),
            share(item.dominated),
            *map(number, item.utilities.values()),
        ]
        for name, item in report.choices.items()
    ]
    references = [
        [name, "", "", "", "", *map(number, values.values())]
        for name, values in report.references.items()
    ]
    return rows + references


def _weights(report: TradeoffReport) -> Iterable[Described]:
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
            [name, share(item.changed), *map(number, item.utilities.values())]
            for name, item in report.sensitivity.items()
        ],
    )


def _settings(flips: Mapping[str, Sequence[Flip]]) -> list[str]:
    return [f"{flip.setting:g}" for flip in next(iter(flips.values()))]


def _flips(flips: Mapping[str, Sequence[Flip]]) -> Rows:
    return [[name, *(share(flip.changed) for flip in row)] for name, row in flips.items()]


def _exchange(report: TradeoffReport) -> Rows:
    return [
        [
            item.gained,
            item.given,
            number(item.rate),
            f"{number(item.low)} to {number(item.high)}",
            number(item.paid),
            count(item.num_conflicts),
        ]
        for item in report.exchange
    ]


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
