"""Files of scores, read into tables.

`prm score` writes one row per chain or response, and beside the file `<file>.spec.json`, the
model's spec. Both together give the reward under any aggregation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prm.aggregation.steps import step_aggregation
from prm.arrays import Array
from prm.data.sources.files import read_file
from prm.errors import ConfigError, DataError
from prm.scores.columns import (
    by_objective,
    column,
    counts,
    is_filled,
    numbered,
    numbers,
    read_columns,
    steps_by_objective,
)
from prm.scores.rows import ChainRow, RowKind, row_kind
from prm.scores.tables import ChainTable, ResponseTable, ScoreTable, spec_path
from prm.spec import RewardSpec

if TYPE_CHECKING:
    import pyarrow as pa


def read_scores(path: Path, model: Path | None = None) -> ScoreTable:
    """Read score rows and the spec beside them.

    Args:
        path: JSON lines (`.jsonl`) or Parquet (`.parquet`), as `prm score` writes them.
        model: Folder of the model that gave the scores, for a file without a spec beside it.

    Returns:
        A `ChainTable` or a `ResponseTable`, as the first row is the score of a chain or response.

    Raises:
        DataError: The file is not one of score rows; the message names the line and the id.
        SpecError: The spec cannot be read.
        ConfigError: The file has a spec, and `model` names another.
    """
    _check_kind(path)
    spec = _read_spec(path, model)
    row, where = next(read_file(path))
    objectives = _objectives(row, where, spec)
    kind = _kind(row, spec)
    columns = read_columns(path, kind, objectives)
    if columns.num_rows == 0:
        raise DataError("the file holds no rows", where=str(path))
    table = _table(path, kind, objectives, columns, spec)
    return _without_half_widths(table) if isinstance(table, ResponseTable) else table


def tabulate(rows: Sequence[Mapping[str, Any]], spec: RewardSpec, name: Path) -> ScoreTable:
    """Return the table of score rows that are in memory.

    Args:
        rows: `to_row()` of the scores of chains or of responses, at least one.
        spec: The spec that they were scored with.
        name: What stands for the file in messages.
    """
    import pyarrow as pa

    objectives = _objectives(rows[0], str(name), spec)
    columns = pa.Table.from_pylist(list(rows))
    return _table(name, _kind(rows[0], spec), objectives, columns, spec)


def responses_of(table: ScoreTable, purpose: str) -> ResponseTable:
    """Return a table that must be one of responses.

    Raises:
        ConfigError: Its rows are of chains, which do not serve the purpose.
    """
    if not isinstance(table, ResponseTable):
        raise ConfigError(
            f"{purpose} is for objectives of responses, and the scores are of {table.noun}",
            where=str(table.path),
            fix="Score the responses with an outcome or joint model",
        )
    return table


def _kind(row: Mapping[str, Any], spec: RewardSpec | None) -> RowKind:
    return ChainRow if spec is not None and not spec.response_heads else row_kind(row)


def _table(
    path: Path,
    kind: RowKind,
    objectives: tuple[str, ...],
    columns: pa.Table,
    spec: RewardSpec | None,
) -> ScoreTable:
    groups, group_names = numbered(columns, "group")
    common = {
        "path": path,
        "objectives": objectives,
        "ids": column(columns, "id").to_numpy(),
        "groups": groups,
        "group_names": group_names,
        "scores": by_objective(columns, "scores", objectives),
        "stored_rewards": numbers(column(columns, "reward")),
        "num_truncated": counts(columns, "num_truncated"),
        "spec": spec,
    }
    make = _of_chains if kind is ChainRow else _of_responses
    table = make(columns, common)
    table.check()
    return table


def _of_chains(columns: pa.Table, common: dict[str, Any]) -> ChainTable:
    table = ChainTable(
        **common,
        steps=steps_by_objective(columns, common["objectives"]),
        unscored=is_filled(columns, "reason"),
    )
    return replace(table, spec=_as_aggregated(columns, table))


def _as_aggregated(columns: pa.Table, table: ChainTable) -> RewardSpec | None:
    """Return the spec with the aggregation that the rows name, which `--aggregation` may have set.

    Raises:
        DataError: Rows name several, or one that needs a parameter that the spec does not have.
    """
    numbers, names = numbered(columns, "aggregation")
    spec = table.spec
    if spec is None or set(names) <= {spec.step_aggregation.name}:
        return spec
    if len(names) == 1 and not step_aggregation(names[0]).parameters():
        return spec.with_(step_aggregation=step_aggregation(names[0]))
    known = spec.step_aggregation.name
    other = next(index for index, name in enumerate(names) if name != known)
    raise DataError(
        "the row's score is of another aggregation",
        expected=f"{known}, as the spec says",
        got=names[other],
        where=table.place(int(np.flatnonzero(numbers == other)[0])),
        fix="Score the chains again, with one aggregation",
    )


def _of_responses(columns: pa.Table, common: dict[str, Any]) -> ResponseTable:
    objectives = common["objectives"]
    return ResponseTable(
        **common,
        responses=counts(columns, "response"),
        spreads=_if_any(by_objective(columns, "spreads", objectives)),
        gates=_if_any(by_objective(columns, "gates", objectives)),
    )


def _check_kind(path: Path) -> None:
    if path.suffix not in (".jsonl", ".parquet"):
        raise DataError(
            "this is not a file of scores",
            expected="a .jsonl or .parquet file that `prm score` wrote",
            got=str(path),
        )
    if not path.is_file():
        raise DataError("there is no such file", where=str(path))


def _without_half_widths(table: ResponseTable) -> ResponseTable:
    """Forget the spreads of quantiles in a file whose spec is older than their levels.

    Before version 5 they were half the width of the outer quantiles, not a standard deviation.
    """
    beside = spec_path(table.path)
    if table.spec is None or table.spreads is None or not beside.is_file():
        return table
    if json.loads(beside.read_text(encoding="utf-8"))["version"] >= 5:
        return table
    quantiles = {head.name for head in table.spec.response_heads if head.readout == "quantile"}
    old = [name in quantiles for name in table.objectives]
    return replace(table, spreads=_if_any(np.where(old, np.nan, table.spreads)))


def _read_spec(path: Path, model: Path | None) -> RewardSpec | None:
    beside = spec_path(path)
    if not beside.is_file():
        return None if model is None else RewardSpec.load(model)
    if model is not None:
        raise ConfigError(
            f"--model contradicts {beside}",
            fix="Leave --model out: the scores were made with the spec beside them",
        )
    return RewardSpec.from_json(beside.read_text(encoding="utf-8", errors="replace"), str(beside))


def _objectives(row: Mapping[str, Any], where: str, spec: RewardSpec | None) -> tuple[str, ...]:
    """Return the objectives of the first row, in the order of the spec."""
    scores = row.get("scores")
    if not isinstance(scores, Mapping):
        raise DataError(
            "the row holds no scores",
            expected="a `scores` field with a number per objective",
            got=f"the fields {list(row)[:8]}",
            where=where,
            fix="To score first, name the file with --input",
        )
    if spec is None:
        return tuple(scores)
    names = spec.step_names if _kind(row, spec) is ChainRow else spec.response_names
    if set(scores) != set(names):
        raise DataError(
            "the scores are not those of the spec",
            expected=", ".join(names) or f"those of a model of kind {spec.kind}",
            got=", ".join(scores),
            where=where,
        )
    return names


def _if_any(values: Array) -> Array | None:
    return None if np.isnan(values).all() else values
