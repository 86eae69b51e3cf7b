"""Scores as columns: any number of rows are aggregated anew in seconds, and need no model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray

from prm.arrays import Array, Indices, Mask
from prm.errors import ConfigError, DataError
from prm.scores.columns import StepColumn, plain
from prm.spec import RewardSpec

if TYPE_CHECKING:
    from prm.aggregation.objectives import ObjectiveAggregation
    from prm.aggregation.steps import StepAggregation

Unit = Literal["score", "utility", "probability"]


@dataclass(frozen=True, slots=True, eq=False)
class ScoreTable:
    """Score rows in columns, all in the order of the file: what rows of every kind have.

    Args:
        path: The file.
        objectives: Names of the objectives, in the order of the columns of `scores`.
        ids: Id of the record of each row, shape `[row]`.
        groups: Number of the group (prompt) of each row, in order of appearance; -1 if it has none.
        group_names: The groups by number.
        scores: Scores by objective, shape `[row, objective]`; NaN is missing.
        stored_rewards: The reward in the file, shape `[row]`; NaN if the row has none.
        num_truncated: How much of each record was cut off at the model's `max_length`, `[row]`.
        spec: What scores mean and how they are aggregated; `None` if the file has none beside it.

    Attributes:
        noun: What rows are the scores of, in messages.
    """

    noun: ClassVar[str]

    path: Path
    objectives: tuple[str, ...]
    ids: NDArray[np.str_] | NDArray[np.object_]
    groups: Indices
    group_names: tuple[str, ...]
    scores: Array
    stored_rewards: Array
    num_truncated: Indices
    spec: RewardSpec | None

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self.scores)

    def known_spec(self) -> RewardSpec:
        """Return the spec.

        Raises:
            ConfigError: The file has none.
        """
        if self.spec is None:
            raise ConfigError(
                "there is no spec beside the scores, so their meaning is not known",
                expected=str(spec_path(self.path)),
                where=str(self.path),
                fix="Name the model that gave the scores with --model",
            )
        return self.spec

    def with_aggregation(self, aggregation: Any) -> Self:
        """Return the rows with what another aggregation makes of them.

        Args:
            aggregation: A step aggregation for chains, an objective aggregation for responses.

        Raises:
            ConfigError: The file has no spec, or rows lack what the aggregation needs.
        """
        raise NotImplementedError

    def aggregated(self) -> Array:
        """Return what `rewards` is before it is shaped; raises as `with_aggregation`."""
        raise NotImplementedError

    def rewards(self) -> Array:
        """Return the reward of each row under the spec, NaN where it has none; raises likewise."""
        rewards: Array = self.known_spec().shaping(torch.from_numpy(self.aggregated())).numpy()
        return rewards

    def deviations(self) -> Array | None:
        """Return the standard deviation of each reward, or `None` where it is not known."""
        return None

    def in_unit(self, unit: Unit) -> tuple[list[int], Array]:
        """Return for each objective whether more (1) or less (-1) is better, and its values.

        Args:
            unit: What the values, shape `[row, objective]`, are in.

        Raises:
            ConfigError: The file has no spec to tell.
        """
        raise NotImplementedError

    def aggregated_columns(self, order: Indices) -> dict[str, list[Any]]:
        """Return the fields, beside the reward, that an aggregation changes in rows of `order`."""
        return {}

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
                fix=f"Score the {self.noun} again with this version of prm",
            )

    @property
    def cut_off(self) -> Mask:
        """Which rows are of records that the model did not read to their end, `[row]`."""
        return self.num_truncated > 0

    def check_cut_off(self) -> None:
        """Refuse rows of records that were not read to their end.

        Raises:
            DataError: There is one.
        """
        if self.cut_off.any():
            raise DataError(
                f"the row is of {self.noun} that were cut off at the model's max_length",
                where=self.place(int(np.flatnonzero(self.cut_off)[0])),
                fix="Score with a longer max_length, or leave --truncated out",
            )

    def place(self, row: int) -> str:
        """Return the file, number and id of a row, for messages."""
        place = f":{row + 1}" if self.path.suffix == ".jsonl" else f"[{row}]"
        return f"{self.path}{place}, row {self.ids[row]!r}"

    def check(self) -> None:
        """Refuse rows that no scorer writes.

        Raises:
            DataError: A number is not finite, or a row contradicts itself.
        """
        for message, expected, wrong in self.problems():
            if wrong.any():
                place = self.place(int(np.flatnonzero(wrong)[0]))
                raise DataError(message, expected=expected, where=place)

    def problems(self) -> Iterator[tuple[str, str, Mask]]:
        """Yield what may be wrong with rows, what is expected, and of which it is true, `[row]`."""
        finite = "finite numbers, or null where there is none"
        yield "the row holds a number that is not finite", finite, self.is_infinite()

    def is_infinite(self) -> Mask:
        """Return which rows have a number that is not finite, `[row]`."""
        found: Mask = np.isinf(self.stored_rewards) | np.isinf(self.scores).any(axis=1)
        return found


@dataclass(frozen=True, slots=True, eq=False)
class ResponseTable(ScoreTable):
    """Scores of whole responses, in the heads' own units.

    Args:
        responses: Index of the response within its record, shape `[row]`.
        spreads: Standard deviations of the scores, as `scores`; `None` if no row has one.
        gates: Weights that the model gives the prompt, likewise; `None` if no row has one.
    """

    noun = "responses"

    responses: Indices
    spreads: Array | None
    gates: Array | None

    def is_infinite(self) -> Mask:
        found = ScoreTable.is_infinite(self)
        for values in (self.spreads, self.gates):
            found |= False if values is None else np.isinf(values).any(axis=1)
        return found

    def with_aggregation(self, aggregation: ObjectiveAggregation) -> Self:
        return replace(self, spec=self.known_spec().with_(objective_aggregation=aggregation))

    def utilities(self) -> Array:
        """Return the utilities, shape `[row, objective]`; raises as `known_spec`."""
        utilities: Array = self.known_spec().utilities(torch.from_numpy(self.scores)).numpy()
        return utilities

    def aggregated(self) -> Array:
        aggregation = self.known_spec().objective_aggregation
        assert aggregation is not None
        return aggregate(aggregation, self.utilities(), self.objectives, self.gates)

    def deviations(self) -> Array | None:
        """Return the standard deviation of each reward, or `None` where it is not exact.

        `sqrt(sum_k (c w_k a_k s_k)^2)` for reward `c sum_k w_k u_k + d`, utility
        `u_k = a_k score_k + b_k` and independent spreads `s_k`. NaN in rows that miss a score or a
        spread. `None` also for a score that is off the center of its distribution, as the mean of
        quantiles is whose levels are not symmetric.
        """
        if self.spec is None or self.spec.objective_aggregation is None or self.spreads is None:
            return None
        weights = self.spec.objective_aggregation.linear_weights(self.objectives)
        shaping = self.spec.shaping.affine()
        normalizers = [self.spec.normalizers.get(name) for name in self.objectives]
        lines = [(1.0, 0.0) if item is None else item.affine() for item in normalizers]
        if weights is None or shaping is None or None in lines:
            return None
        slope = shaping[0] * np.array([weights[name] for name in self.objectives])
        slope *= [line[0] for line in lines if line is not None]
        used = slope != 0
        centered = {head.name: head.has_centered_score for head in self.spec.response_heads}
        if not all(centered[name] for name in np.array(self.objectives)[used]):
            return None
        known = ~np.isnan(self.scores[:, used]).any(axis=1)
        deviation = np.sqrt(((self.spreads[:, used] * slope[used]) ** 2).sum(axis=1))
        return np.where(known, deviation, np.nan)

    def in_unit(self, unit: Unit) -> tuple[list[int], Array]:
        if unit == "score":
            directions = {item.name: item.sign for item in self.known_spec().response_heads}
            return [directions[name] for name in self.objectives], self.scores
        utilities = self.utilities()
        values = _sigmoid(utilities) if unit == "probability" else utilities
        return [1] * len(self.objectives), values


@dataclass(frozen=True, slots=True, eq=False)
class ChainTable(ScoreTable):
    """Scores of chains: by objective what the aggregation made of the steps.

    Args:
        steps: The log-odds of the steps by objective, in the order of `objectives`; `None` if the
            file has none.
        unscored: Which rows have a reason for having no reward, `[row]`.
    """

    noun = "chains"

    steps: tuple[StepColumn, ...] | None
    unscored: Mask

    def is_infinite(self) -> Mask:
        found = ScoreTable.is_infinite(self)
        for steps in self.steps or ():
            found |= steps.is_infinite()
        return found

    def problems(self) -> Iterator[tuple[str, str, Mask]]:
        yield from ScoreTable.problems(self)
        expected = f"the score of a chain, for {', '.join(self.objectives)}"
        rewarded, lacks = ~np.isnan(self.stored_rewards), np.isnan(self.scores).any(axis=1)
        counts = np.array([steps.counts for steps in self.steps or ()], dtype=np.int64)
        contradiction = "the row has a reward, and a reason for having none"
        yield contradiction, expected, rewarded & self.unscored
        yield "the row has a reward, and not all scores", expected, rewarded & lacks
        other_steps = (counts != counts[:1]).any(axis=0)
        yield "the objectives have numbers for other steps", expected, other_steps

    def with_aggregation(self, aggregation: StepAggregation) -> Self:
        if self.steps is None:
            raise ConfigError(
                "the rows do not hold the log-odds of their steps, so nothing can be aggregated",
                expected="a `step_logits` field with numbers per objective",
                where=str(self.path),
                fix="Score the chains again with this version of prm",
            )
        for steps, stored in zip(self.steps, self.scores.T, strict=True):
            lost = np.flatnonzero((steps.counts == 0) & ~np.isnan(stored))
            if len(lost):
                raise DataError(
                    "the row has a score, and no log-odds of steps that it is made of",
                    expected=f"a `step_logits` field with numbers for {', '.join(self.objectives)}",
                    where=self.place(int(lost[0])),
                    fix="Score the chains again with this version of prm",
                )
        columns = [steps.aggregated(aggregation) for steps in self.steps]
        scores = np.where(self.unscored[:, None], np.nan, np.stack(columns, axis=1))
        spec = self.known_spec().with_(step_aggregation=aggregation)
        return replace(self, spec=spec, scores=scores)

    def aggregated(self) -> Array:
        return self.scores[:, self.objectives.index(self.known_spec().chain_reward)]

    def in_unit(self, unit: Unit) -> tuple[list[int], Array]:
        values = self.scores
        if unit == "probability" and self.known_spec().step_aggregation.unit == "logit":
            values = _sigmoid(values)
        return [1] * len(self.objectives), values

    def aggregated_columns(self, order: Indices) -> dict[str, list[Any]]:
        columns = [plain(self.scores[order, index]) for index in range(len(self.objectives))]
        rows = zip(*columns, strict=True)
        return {"scores": [dict(zip(self.objectives, row, strict=True)) for row in rows]}


def spec_path(scores: Path) -> Path:
    """Return where the spec of a score file is stored.

    Example:
        >>> spec_path(Path("scores.jsonl")).name
        'scores.jsonl.spec.json'
    """
    return scores.with_name(f"{scores.name}.spec.json")


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


def _sigmoid(values: Array) -> Array:
    with np.errstate(over="ignore"):
        result: Array = 1 / (1 + np.exp(-values))
    return result
