"""What the runs of a study leave: `results.json`, `table.md` and a plot."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from prm.atomic import write_text
from prm.data.synthetic.phrases import read_prompt
from prm.metrics.intervals import Interval, cluster_bootstrap, make_interval
from tests.benchmarks.rl.measure import flat
from tests.benchmarks.rl.study import Run, of_condition

CONTROL = "shuffled"

Values = dict[str, list[float]]
"""Problem to one value per seed."""


def problem(prompt: str) -> str:
    """Name what a prompt asks, whatever its wording and order."""
    return ", ".join(sorted(map(str, read_prompt(prompt)))) or prompt


def values(runs: Sequence[Run], of: Callable[[Run], Sequence[tuple[str, float]]]) -> Values:
    """Collect what `of` says about each held-out prompt of each run."""
    found: Values = {}
    for run in runs:
        for prompt, value in of(run):
            found.setdefault(problem(prompt), []).append(value)
    return found


def interval(*sides: tuple[float, Values]) -> Interval:
    """Return the weighted sum of the sides' means, with an interval that resamples problems.

    Args:
        sides: A weight and values: `(1, after), (-1, before)` is the change.
    """
    names = sorted({name for _, side in sides for name in side})
    index = {name: number for number, name in enumerate(names)}
    tables = []
    for weight, side in sides:
        sums, counts = np.zeros(len(names)), np.zeros(len(names))
        for name, found in side.items():
            sums[index[name]], counts[index[name]] = sum(found), len(found)
        tables.append((weight, sums, counts))

    def statistic(drawn: Any) -> Any:
        return sum(weight * (drawn @ sums) / (drawn @ counts) for weight, sums, counts in tables)

    found = cluster_bootstrap(statistic, len(names))
    num_values = sum(len(own) for own in sides[0][1].values())
    return make_interval(*(bound.item() for bound in found), num_values, len(names))


def column(name: str, rows: str) -> Callable[[Run], list[tuple[str, float]]]:
    """Return a reader of one number of the rows, `before` or `after`."""

    def read(run: Run) -> list[tuple[str, float]]:
        return [
            (row["prompt"], value)
            for row in getattr(run, rows)
            if (value := flat(row)[name]) is not None
        ]

    return read


def changes(runs: Sequence[Run], conditions: Sequence[str], names: Sequence[str]) -> list[Any]:
    """Return how each number changed under each condition, also beside the control."""
    found = []
    for condition in conditions:
        own = list(of_condition(runs, condition))
        control = control_of(runs, own)
        for name in names:
            sides = _change(own, name)
            (_, after), (_, before) = sides
            entry = {
                "condition": condition,
                "name": name,
                "before": asdict(interval((1, before))),
                "after": asdict(interval((1, after))),
                "change": asdict(interval(*sides)),
                "by_seed": {run.seed: interval(*_change([run], name)).value for run in own},
            }
            if control and not condition.startswith(CONTROL):
                against = [(-weight, side) for weight, side in _change(control, name)]
                entry["beside_control"] = asdict(interval(*sides, *against))
            found.append(entry)
    return found


def control_of(runs: Sequence[Run], own: Sequence[Run]) -> list[Run]:
    """Return the runs with shuffled rewards, those with equal settings if there are such."""
    controls = [run for run in runs if run.condition.startswith(CONTROL)]
    equal = [run for run in controls if run.settings == own[0].settings]
    return equal or [run for run in controls if run.condition == CONTROL]


def _change(runs: Sequence[Run], name: str) -> list[tuple[float, Values]]:
    return [(1, values(runs, column(name, "after"))), (-1, values(runs, column(name, "before")))]


def change_table(found: Sequence[dict[str, Any]]) -> str:
    """Return one row per change, with intervals, each seed, and the comparison with the control."""
    head = ["condition", "value", "before", "after", "change", "by seed"]
    if any("beside_control" in entry for entry in found):
        head.append(f"beside {CONTROL}")
    rows = [_change_row(entry)[: len(head)] for entry in found]
    return _markdown([head, ["---"] * len(head), *rows])


def _change_row(entry: dict[str, Any]) -> list[str]:
    return [
        entry["condition"],
        entry["name"].removeprefix("gold/"),
        f"{entry['before']['value']:.2f}",
        f"{entry['after']['value']:.2f}",
        _with_bounds(entry["change"]),
        ", ".join(map(_signed, entry["by_seed"].values())),
        _with_bounds(entry["beside_control"]) if "beside_control" in entry else "",
    ]


def side_table(found: Sequence[dict[str, Any]]) -> str:
    """Return one row per condition: where each number started and ended."""
    names = list(dict.fromkeys(entry["name"] for entry in found))
    rows: dict[str, list[str]] = {}
    for entry in found:
        ends = f"{entry['before']['value']:.2f} → {entry['after']['value']:.2f}"
        rows.setdefault(entry["condition"], []).append(ends)
    head = ("condition", *names)
    return _markdown([head, ("---",) * len(head), *((name, *row) for name, row in rows.items())])


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _with_bounds(found: dict[str, Any]) -> str:
    if found["low"] is None:
        return _signed(found["value"])
    return f"{_signed(found['value'])} [{_signed(found['low'])}, {_signed(found['high'])}]"


def _signed(value: float) -> str:
    """Return two decimals with a sign, which 0 has none of."""
    shown = round(value, 2)
    return f"{shown:+.2f}" if shown else "0.00"


def write(
    folder: Path, runs: Sequence[Run], command: str, gold: Sequence[str], others: Sequence[str]
) -> list[dict[str, Any]]:
    """Write results and tables, and return all changes.

    Args:
        folder: Where to.
        runs: All runs of the study.
        command: How to repeat it.
        gold: The gold values to report.
        others: Other numbers to report.
    """
    conditions = list(dict.fromkeys(run.condition for run in runs))
    by_gold, by_others = (changes(runs, conditions, names) for names in (gold, others))
    seeds = sorted({run.seed for run in runs})
    seconds = fmean(run.seconds for run in runs)
    about = (
        f"Command: `{command}`. {len(seeds)} seeds, {len(runs[0].before)} held-out prompts each, "
        f"{seconds:.0f} seconds a run. Intervals: 95 % bootstrap over problems, all seeds of a "
        "problem together."
    )
    tables = f"{change_table(by_gold)}\n\n{side_table(by_others)}"
    write_text(folder / "table.md", f"{about}\n\n{tables}\n")
    settings = {run.condition: run.settings for run in runs}
    record = {
        "command": command,
        "seeds": seeds,
        "settings": settings,
        "changes": [*by_gold, *by_others],
    }
    write_text(folder / "results.json", json.dumps(record, indent=1) + "\n")
    return [*by_gold, *by_others]
