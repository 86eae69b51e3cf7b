"""Stored scores as columns: a million rows are read in seconds and need no model.

`prm score` writes one row per response with the score of every objective, and beside the file
`<file>.spec.json`, the model's spec. Both together give the reward under any aggregation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from prm.data.sources.files import read_file
from prm.errors import ConfigError, DataError
from prm.scores.columns import (
    Array,
    Indices,
    by_objective,
    column,
    numbered,
    numbers,
    read_columns,
)
from prm.spec import RewardSpec

if TYPE_CHECKING:
    import pyarrow as pa

    from prm.aggregation.objectives import ObjectiveAggregation


@dataclass(frozen=True, slots=True, eq=False)
class ScoreTable:
    """Score rows in columns, all in the order of the file.

    Args:
        path: The file.
        objectives: Names of the objectives, in the order of the columns of `scores`.
        ids: Id of the record of each row, shape `[row]`.
        responses: Index of the response within its record, shape `[row]`.
        groups: Number of the group (prompt) of each row, in order of appearance; -1 if it has none.
        group_names: The groups by number.
        scores: Scores in the heads' own units, shape `[row, objective]`; NaN is missing.
        spreads: Standard deviations of the scores, likewise; `None` if no row has one.
        gates: Weights that the model gives the prompt, likewise; `None` if no row has one.
        stored_rewards: The reward in the file, shape `[row]`; NaN if the row has none.
        spec: What scores mean and how they were aggregated; `None` if the file has none beside it.
    """

    path: Path
    objectives: tuple[str, ...]
    ids: NDArray[np.str_] | NDArray[np.object_]
    responses: Indices
    groups: Indices
    group_names: tuple[str, ...]
    scores: Array
    spreads: Array | None
    gates: Array | None
    stored_rewards: Array
    spec: RewardSpec | None

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self.scores)

    def known_spec(self) -> RewardSpec:
        """Return the spec.

        Raises:
            ConfigError: The file has none, or it has no objectives of responses.
        """
        if self.spec is None:
            raise ConfigError(
                "there is no spec beside the scores, so their meaning is not known",
                expected=str(spec_path(self.path)),
                where=str(self.path),
                fix="Name the model that gave the scores with --model",
            )
        if not self.spec.response_names:
            raise ConfigError(
                "the scores are of a process model, which has no objectives to aggregate",
                where=str(self.path),
                fix="`prm score --aggregation` aggregates its steps",
            )
        return self.spec

    def utilities(self) -> Array:
        """Return the utilities, shape `[row, objective]`; raises as `known_spec`."""
        utilities: Array = self.known_spec().utilities(torch.from_numpy(self.scores)).numpy()
        return utilities

    def rewards(self, aggregation: ObjectiveAggregation) -> Array:
        """Return the reward of each row under an aggregation, shaped as the spec says.

        NaN where a row has none; raises as `aggregated`.
        """
        aggregated = torch.from_numpy(self.aggregated(aggregation))
        rewards: Array = self.known_spec().shaping(aggregated).numpy()
        return rewards

    def aggregated(self, aggregation: ObjectiveAggregation) -> Array:
        """Return what `rewards` is before it is shaped.

        Raises:
            ConfigError: As `known_spec`, the aggregation does not fit the objectives, or it needs
                gates and the rows have none.
        """
        return aggregate(aggregation, self.utilities(), self.objectives, self.gates)

    def deviations(self, aggregation: ObjectiveAggregation) -> Array | None:
        """Return the standard deviation of each reward, or `None` where it is not exact.

        `sqrt(sum_k (c w_k a_k s_k)^2)` for reward `c sum_k w_k u_k + d`, utility
        `u_k = a_k score_k + b_k` and independent spreads `s_k`. NaN in rows that miss a score or a
        spread.
        """
        spec = self.known_spec()
        weights, shaping = aggregation.linear_weights(self.objectives), spec.shaping.affine()
        normalizers = [spec.normalizers.get(name) for name in self.objectives]
        lines = [(1.0, 0.0) if item is None else item.affine() for item in normalizers]
        if self.spreads is None or weights is None or shaping is None or None in lines:
            return None
        slope = shaping[0] * np.array([weights[name] for name in self.objectives])
        slope *= [line[0] for line in lines if line is not None]
        used = slope != 0
        known = ~np.isnan(self.scores[:, used]).any(axis=1)
        deviation = np.sqrt(((self.spreads[:, used] * slope[used]) ** 2).sum(axis=1))
        return np.where(known, deviation, np.nan)

    def check_groups(self) -> None:
        """Refuse rows that do not say which prompt they answer.

        Raises:
            DataError: A row has no group.
        """
        missing = np.flatnonzero(self.groups < 0)
        if len(missing):
            raise DataError(
                "the row has no group, so it is not known which rows answer the same prompt",
                where=self.place(int(missing[0])),
                fix="Score the responses again with this version of prm",
            )

    def place(self, row: int) -> str:
        """Return the file, number and id of a row, for messages."""
        place = f":{row + 1}" if self.path.suffix == ".jsonl" else f"[{row}]"
        return f"{self.path}{place}, row {self.ids[row]!r}"


def spec_path(scores: Path) -> Path:
    """Return where the spec of a score file is stored.

    Example:
        >>> spec_path(Path("scores.jsonl")).name
        'scores.jsonl.spec.json'
    """
    return scores.with_name(f"{scores.name}.spec.json")


def read_scores(path: Path, model: Path | None = None) -> ScoreTable:
    """Read score rows and the spec beside them.

    Args:
        path: JSON lines (`.jsonl`) or Parquet (`.parquet`), as `prm score` writes them.
        model: Folder of the model that gave the scores, for a file without a spec beside it.

    Raises:
        DataError: The file is not one of score rows; the message names the line and the id.
        SpecError: The spec cannot be read.
        ConfigError: The file has a spec, and `model` names another.
    """
    _check_kind(path)
    spec = _read_spec(path, model)
    objectives = _objectives(path, spec)
    columns = read_columns(path, objectives)
    if columns.num_rows == 0:
        raise DataError("the file holds no rows", where=str(path))
    return _table(path, objectives, columns, spec)


def tabulate(rows: Sequence[Mapping[str, Any]], spec: RewardSpec, name: Path) -> ScoreTable:
    """Return the table of score rows that are in memory.

    Args:
        rows: `ResponseScore.to_row()` of responses, at least one.
        spec: The spec that they were scored with.
        name: What stands for the file in messages.
    """
    import pyarrow as pa

    return _table(name, spec.response_names, pa.Table.from_pylist(list(rows)), spec)


def _table(
    path: Path, objectives: tuple[str, ...], columns: pa.Table, spec: RewardSpec | None
) -> ScoreTable:
    groups, group_names = numbered(columns, "group")
    table = ScoreTable(
        path,
        objectives,
        column(columns, "id").to_numpy(),
        np.nan_to_num(numbers(column(columns, "response"))).astype(np.int64),
        groups,
        group_names,
        by_objective(columns, "scores", objectives),
        _if_any(by_objective(columns, "spreads", objectives)),
        _if_any(by_objective(columns, "gates", objectives)),
        numbers(column(columns, "reward")),
        spec,
    )
    _check_finite(table)
    return table


def _check_finite(table: ScoreTable) -> None:
    wrong = np.isinf(table.stored_rewards) | np.isinf(table.scores).any(axis=1)
    if wrong.any():
        raise DataError(
            "the row holds a number that is not finite",
            expected="finite numbers, or null where there is none",
            where=table.place(int(np.flatnonzero(wrong)[0])),
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


def _objectives(path: Path, spec: RewardSpec | None) -> tuple[str, ...]:
    """Return the objectives of the first row, in the order of the spec."""
    row, where = next(read_file(path))
    scores = row.get("scores")
    if not isinstance(scores, Mapping):
        raise DataError(
            "the row holds no scores",
            expected="a `scores` field with a number per objective",
            got=f"the fields {list(row)[:8]}",
            where=where,
            fix="To score first, name the file with --input",
        )
    if spec is None or not spec.response_names:
        return tuple(scores)
    if set(scores) != set(spec.response_names):
        raise DataError(
            "the scores are not those of the spec",
            expected=", ".join(spec.response_names),
            got=", ".join(scores),
            where=where,
        )
    return tuple(spec.response_names)


def _if_any(values: Array) -> Array | None:
    return None if np.isnan(values).all() else values


def aggregate(
    aggregation: ObjectiveAggregation,
    utilities: Array,
    objectives: Sequence[str],
    gates: Array | None = None,
) -> Array:
    """Return rewards `[row]` of utilities `[row, objective]`.

    Raises:
        ConfigError: The aggregation does not fit the objectives, or needs gates that are missing.
    """
    if aggregation.needs_gates and gates is None:
        raise ConfigError(
            f"{aggregation.name} needs the gates of each row, and the scores hold none",
            expected="a `gates` field with a weight per objective",
            fix="Score with a model that has a gating head, or choose another aggregation",
        )
    tensor = torch.from_numpy(gates) if gates is not None and aggregation.needs_gates else None
    rewards = aggregation(torch.from_numpy(utilities), objectives, tensor)
    result: Array = rewards.double().numpy()
    return result


def plain(values: Array) -> list[float | None]:
    """Return numbers as JSON has them: `None` in the place of NaN.

    Example:
        >>> plain(np.array([1.5, np.nan]))
        [1.5, None]
    """
    return [None if value != value else value for value in values.tolist()]
