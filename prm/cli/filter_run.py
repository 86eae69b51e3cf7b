"""What `prm filter` does once its options are known to be right: join, keep, drop, count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prm.arrays import Indices, Mask
from prm.cli.inputs import choose_format, model_kind, records_of
from prm.cli.score_first import Scoring, score_first
from prm.cli.stored import Rewarded, cut_off, open_scores, progress, wide_console, with_rewards
from prm.data.formats.base import ChainFormat, Format
from prm.data.sources.rows import read_rows
from prm.errors import DataError
from prm.report.terminal import results_table
from prm.scores.filtering import Rules, failures
from prm.scores.rewrite import Columns, check_outputs, write_plain_rows, write_scores
from prm.scores.rows import Row
from prm.spec import RewardSpec

REASON = "dropped_because"
"""The field of dropped rows that says why."""

NO_SCORE = "no score with its id"


class Outputs(NamedTuple):
    """Where the rows go.

    Args:
        kept: File for the rows that pass.
        dropped: File for the others, if they are wanted.
        overwrite: Whether files that exist are replaced.
    """

    kept: Path
    dropped: Path | None
    overwrite: bool


def filter_scores(
    scores: Path,
    data: str | None,
    format: Format | None,
    rules: Rules,
    outputs: Outputs,
    aggregation: str | None,
    overrides: Mapping[str, Any] | None,
    model: Path | None,
) -> int:
    """Filter a score file, or the data that it is about; return the exit code: 1 if none is kept.

    Raises:
        OutputError: An output exists, or cannot be written.
        DataError: The file is not one of scores, or a row has no number that is needed.
        ConfigError: Rules or aggregation do not fit the objectives.
    """
    check_outputs(outputs.kept, outputs.dropped, overwrite=outputs.overwrite)
    rewarded = with_rewards(open_scores(scores, model), aggregation, overrides)
    failed = failures(rewarded.table, rewarded.rewards, rules)
    if data is None:
        code = _filter_scores(rewarded, failed, outputs)
    else:
        code = _filter_data(rewarded, failed, data, format, rules, outputs)
    for line in cut_off(rewarded.table):
        print(line)
    return code


def filter_input(
    scoring: Scoring, input: str, format: Format | None, rules: Rules, outputs: Outputs
) -> int:
    """Score an input and filter its rows; returns and raises as above, and as `prm score`."""
    check_outputs(outputs.dropped, overwrite=outputs.overwrite)
    chosen = choose_format(model_kind(scoring.model), format)
    spec, chains = RewardSpec.load(scoring.model), isinstance(chosen, ChainFormat)
    rules.check(spec.step_names if chains else spec.response_names, chains=chains)
    scores = score_first(
        scoring, input, chosen, outputs.kept, keep_text=False, overwrite=outputs.overwrite
    )
    return filter_scores(scores, input, chosen, rules, outputs, None, None, None)


def _filter_scores(rewarded: Rewarded, failed: dict[str, Mask], outputs: Outputs) -> int:
    table = rewarded.table
    fails = _any(failed, table.num_rows)
    kept, others = np.flatnonzero(~fails), np.flatnonzero(fails)
    parts: list[tuple[Path, Indices, str, Columns]] = [(outputs.kept, kept, "keeping", {})]
    if outputs.dropped is not None:
        parts += [(outputs.dropped, others, "dropping", {REASON: _reasons(failed, others)})]
    for path, order, verb, extra in parts:
        columns = {**rewarded.columns(order), **extra}
        track = progress(verb, len(order))
        write_scores(table.path, path, order, columns, rewarded.spec, track=track)
    _print_table(failed, len(kept), table.num_rows, outputs.kept)
    return int(len(kept) == 0)


def _filter_data(
    rewarded: Rewarded,
    failed: dict[str, Mask],
    data: str,
    format: Format | None,
    rules: Rules,
    outputs: Outputs,
) -> int:
    """Filter the rows of another file by the scores that have their ids."""
    reasons, num_unused = _join(rewarded, failed, data, format, rules.missing)
    drop = [bool(reason) for reason in reasons]

    def rows(dropping: bool) -> Iterator[Row]:
        for (row, _), reason in zip(read_rows(data), reasons, strict=True):
            if bool(reason) == dropping:
                yield row | {REASON: "; ".join(reason)} if dropping else row

    count = len(drop) - sum(drop)
    write_plain_rows(rows(dropping=False), outputs.kept, track=progress("keeping", count))
    if outputs.dropped is not None:
        track = progress("dropping", sum(drop))
        write_plain_rows(rows(dropping=True), outputs.dropped, track=track)
    _print_table(_masks(reasons), count, len(drop), outputs.kept)
    if num_unused:
        print(f"{num_unused:,} scored ids are not in {data}")
    return int(count == 0)


def _join(
    rewarded: Rewarded, failed: dict[str, Mask], data: str, format: Format | None, missing: str
) -> tuple[list[tuple[str, ...]], int]:
    """Return why each row of the data is dropped, and how many scored ids it does not have."""
    found: dict[str, dict[str, None]] = {name: {} for name in rewarded.table.ids.tolist()}
    for reason, rows in failed.items():
        for name in rewarded.table.ids[rows].tolist():
            found[name][reason] = None
    reasons: list[tuple[str, ...]] = []
    seen: set[str] = set()
    for where, names in _row_names(data, format):
        known = [name for name in names if name in found]
        seen.update(known)
        if not known and missing == "error":
            raise DataError("the row has no score", where=where, fix="--missing drop or keep")
        unscored = (NO_SCORE,) if missing == "drop" and not known else ()
        reasons.append(
            (*dict.fromkeys(reason for name in known for reason in found[name]), *unscored)
        )
    return reasons, len(found.keys() - seen)


def _row_names(data: str, format: Format | None) -> Iterator[tuple[str, list[str]]]:
    """Yield the place of each row and the ids that its records are scored under."""
    if format is None:
        yield from _own_names(data)
        return
    names: dict[str, dict[str, None]] = {}
    for record in records_of(data, format):
        names.setdefault(record.origin, {})[record.id] = None
    for _, where in read_rows(data):
        yield where, list(names.get(where, ()))


def _own_names(data: str) -> Iterator[tuple[str, list[str]]]:
    seen: set[str] = set()
    for index, (row, where) in enumerate(read_rows(data)):
        name = str(row.get("id") or f"{Path(data).name.split('.')[0]}-{index}")
        if name in seen:
            raise DataError("two rows have the same id", got=name, where=where)
        seen.add(name)
        yield f"{where}, row {name!r}", [name]


def _masks(reasons: list[tuple[str, ...]]) -> dict[str, Mask]:
    names = dict.fromkeys(name for reason in reasons for name in reason)
    return {name: np.array([name in reason for reason in reasons]) for name in names}


def _any(failed: dict[str, Mask], num_rows: int) -> Mask:
    fails: Mask = np.any([*failed.values(), np.zeros(num_rows, dtype=bool)], axis=0)
    return fails


def _reasons(failed: dict[str, Mask], rows: Any) -> list[str]:
    """Return the reasons of each row, as text."""
    names = [[reason if fails else "" for fails in failed[reason][rows]] for reason in failed]
    return ["; ".join(filter(None, reasons)) for reasons in zip(*names, strict=True)]


def _print_table(failed: dict[str, Mask], num_kept: int, num_rows: int, output: Path) -> None:
    share = num_kept / num_rows
    print(f"{output}: {num_kept:,} of {num_rows:,} rows kept ({share:.1%})")
    rows = []
    for reason, mask in failed.items():
        others = sum(other.astype(int) for name, other in failed.items() if name != reason)
        rows.append([reason, f"{mask.sum():,}", f"{(mask & (others == 0)).sum():,}"])
    head = ["reason", "rows", "this alone"]
    wide_console().print(results_table(f"dropped: {num_rows - num_kept:,}", head, rows))
