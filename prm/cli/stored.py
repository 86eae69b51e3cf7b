"""What the commands on stored scores share: reading with a status line, rewards, progress."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from prm.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn

    from prm.aggregation.objectives import ObjectiveAggregation
    from prm.aggregation.steps import StepAggregation
    from prm.arrays import Array, Indices
    from prm.scores.rewrite import Columns, Track
    from prm.scores.tables import ScoreTable
    from prm.spec import RewardSpec


class Rewarded(NamedTuple):
    """A table with the rewards to use.

    Args:
        table: The score rows.
        rewards: Reward of each row; NaN if it has none.
        name: Name of the aggregation that was asked for; `None` for the rewards in the file.
        spec: The spec with that aggregation; `None` if the file has none.
    """

    table: ScoreTable
    rewards: Array
    name: str | None
    spec: RewardSpec | None

    def columns(self, order: Indices) -> Columns:
        """Return the fields to replace in the rows of `order`."""
        from prm.scores.columns import plain

        if self.name is None:
            return {}
        return {
            "reward": plain(self.rewards[order]),
            "aggregation": [self.name] * len(order),
            **self.table.aggregated_columns(order),
        }

    def write(
        self, output: Path, order: Indices, verb: str = "writing", new: Columns | None = None
    ) -> None:
        """Write rows with these rewards, and with new fields, while a bar shows how far it is."""
        from prm.scores.rewrite import write_scores

        columns = {**self.columns(order), **(new or {})}
        track = progress(verb, len(order))
        write_scores(self.table.path, output, order, columns, self.spec, track=track)


def open_scores(scores: Path, model: Path | None) -> ScoreTable:
    """Read a score file while a status line says so; raises as `read_scores`."""
    from rich.console import Console

    from prm.scores.stored import read_scores

    with Console(stderr=True).status(f"reading {scores}"):
        return read_scores(scores, model)


def reshaped(table: ScoreTable, shaping: Mapping[str, Any] | None) -> ScoreTable:
    """Return the table with another shaping in its spec, if one is given.

    Raises:
        ConfigError: The file has no spec, or as `Shaping.changed`.
    """
    if not shaping:
        return table
    spec = table.known_spec()
    return replace(table, spec=spec.with_(shaping=spec.shaping.changed(shaping)))


def cut_off(table: ScoreTable, what: str) -> list[str]:
    """Return a line that says how much was cut off before it was scored, if anything was.

    Args:
        table: The score rows.
        what: What was done with such rows.
    """
    count = int(table.cut_off.sum())
    line = f"{count:,} {table.noun} were cut off at the model's max_length: {what}"
    return [line] if count else []


def with_rewards(
    table: ScoreTable, aggregation: str | None, overrides: Mapping[str, Any] | None
) -> Rewarded:
    """Return the rewards that the options ask for: those in the file without any option.

    Raises:
        ConfigError: The file has no spec, or as `resolve_aggregation`.
    """
    if aggregation is None and not overrides:
        return Rewarded(table, table.stored_rewards, None, table.spec)
    return aggregated(table, aggregation, overrides)


def aggregated(
    table: ScoreTable, aggregation: str | None, overrides: Mapping[str, Any] | None
) -> Rewarded:
    """Return new rewards; raises as `with_rewards`."""
    chosen = _chosen(table, aggregation, overrides)
    changed = table.with_aggregation(chosen)
    return Rewarded(changed, changed.rewards(), chosen.name, changed.spec)


def _chosen(
    table: ScoreTable, aggregation: str | None, overrides: Mapping[str, Any] | None
) -> ObjectiveAggregation | StepAggregation:
    """Return the aggregation that the options ask for: of steps for chains, else of objectives."""
    from prm.aggregation.steps import STEP_AGGREGATIONS
    from prm.cli.aggregation import resolve_aggregation, resolve_step_aggregation
    from prm.scores.tables import ChainTable

    spec = table.known_spec()
    if isinstance(table, ChainTable):
        return resolve_step_aggregation(spec, aggregation, overrides)
    if aggregation in STEP_AGGREGATIONS:
        raise ConfigError(
            f"{aggregation} aggregates the steps of chains, and the scores are of responses",
            expected="a class (WeightedSum, WorstCase, ...), or a YAML file",
        )
    return resolve_aggregation(spec, aggregation, overrides)


def progress(verb: str, total: int) -> Track:
    """Return a function that shows a bar while rows pass through it."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return partial(track, description=verb, total=total, console=console, transient=True)


def bar(verb: str, *columns: ProgressColumn) -> Progress:
    """Return a bar with the number of items that are done, and further columns."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    shown = (BarColumn(), MofNCompleteColumn(), *columns, TimeRemainingColumn())
    return Progress(verb, *shown, console=Console(stderr=True), transient=True)


def wide_console() -> Console:
    """Return a console that cuts tables at the terminal's edge, and not early in a file or pipe."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=160)
