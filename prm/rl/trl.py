"""Reward functions for the trainers of TRL: one per objective, or the aggregated reward.

TRL calls each reward function by itself with the same batch; all views of one `TRLRewards` share
one forward pass.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from prm.errors import ConfigError, DataError
from prm.rl.completions import Text
from prm.rl.reward_function import CompletionReward, RewardFunction
from prm.rl.weighting import linear_weights
from prm.scores.responses import ResponseScore

AGGREGATED = "aggregated"
"""What TRL's metrics call the aggregated reward: `rewards/aggregated/mean`."""

Values = list[float | None]


class TRLRewards:
    """Makes the `reward_funcs` of a TRL trainer from a reward function.

    Everything is `None` for a completion that could not be scored, and an objective is `None` for
    a prompt that it does not apply to; TRL leaves both out. A completion whose objectives could be
    scored only in part is `None` in all of them, because TRL would count the others as 0.

    Args:
        function: What scores completions.
        column: Dataset column with the objectives that apply to a prompt, as a list of names;
            `None`, or no such column: all of them.
        asynchronous: Whether the reward functions are coroutines, which TRL runs concurrently
            with those of the user, for example when the model is behind `prm serve`.

    Raises:
        ConfigError: An objective is called like the aggregated reward.

    Example:
        >>> rewards = TRLRewards(RewardFunction("runs/replies/model"))  # doctest: +SKIP
        >>> GRPOTrainer(policy, rewards.aggregated(), ...)  # doctest: +SKIP
        >>> config = GRPOConfig(reward_weights=rewards.weights(), ...)  # doctest: +SKIP
        >>> GRPOTrainer(policy, rewards.objectives(), config, ...)  # doctest: +SKIP
    """

    def __init__(
        self, function: RewardFunction, *, column: str = "objectives", asynchronous: bool = False
    ) -> None:
        if AGGREGATED in function.objectives:
            raise ConfigError(f"an objective is called {AGGREGATED!r}", expected="another name")
        self.function = function
        self.column = column
        self.asynchronous = asynchronous
        self._batch: tuple[Sequence[Text] | None, set[str | None]] = (None, set())

    def aggregated(self) -> Reward | AsyncReward:
        """Return the reward function of the aggregated reward, as the spec makes it."""
        return self._view(None)

    def objectives(self) -> list[Reward | AsyncReward]:
        """Return one reward function per objective, of which more is better.

        TRL sums them by its own `reward_weights`; see `weights`.
        """
        return [self._view(name) for name in self.function.objectives]

    def weights(self) -> list[float]:
        """Return the spec's weights in the order of `objectives`, for TRL's `reward_weights`.

        Raises:
            ConfigError: The aggregation is not a weighted sum.
        """
        weights = linear_weights(self.function.spec, self.function.objectives)
        if weights is None:
            raise ConfigError(
                "the aggregation cannot be written as reward_weights",
                expected="a weighted sum",
                got=self.function.spec.objective_aggregation,
                fix="Train on aggregated(), or choose reward_weights yourself",
            )
        return [weights[name] for name in self.function.objectives]

    def _view(self, objective: str | None) -> Reward | AsyncReward:
        return (AsyncReward if self.asynchronous else Reward)(self, objective)

    def score(
        self, prompts: Sequence[Text], completions: Sequence[Text], columns: Mapping[str, Any]
    ) -> list[CompletionReward]:
        """Score a batch; the same batch again costs no forward pass.

        Raises:
            DataError: A row's applicable objectives are not names of objectives.
        """
        applicable = self._applicable(columns, len(completions))
        return self.function.score(prompts, completions, applicable=applicable)

    def values(
        self,
        objective: str | None,
        results: Sequence[CompletionReward],
        completions: Sequence[Text],
        columns: Mapping[str, Any],
    ) -> Values:
        """Return what one reward function returns, and log the batch if it is the first to.

        Raises:
            ConfigError: A trainer has both the aggregated reward and single objectives.
        """
        if "log_extra" in columns and self._is_first(objective, completions):
            self._log(results, objective is None, columns)
        if objective is None:
            return [result.reward for result in results]
        applicable = self._applicable(columns, len(results))
        return [
            result.objectives[objective] if _is_complete(result, names) else None
            for result, names in zip(results, applicable, strict=True)
        ]

    def _applicable(self, columns: Mapping[str, Any], num_rows: int) -> list[Collection[str]]:
        everything = self.function.objectives
        rows = columns.get(self.column)
        if rows is None:
            return [everything] * num_rows
        return [everything if row is None else self._checked(row) for row in rows]

    def _checked(self, row: Collection[str]) -> Collection[str]:
        known = self.function.objectives
        is_list = isinstance(row, Collection) and not isinstance(row, str)
        if not is_list or any(name not in known for name in row):
            raise DataError(
                f"column {self.column!r} is wrong",
                expected=f"a list with some of {', '.join(known)}, or null for all of them",
                got=row,
                fix="Name another column with TRLRewards(..., column=...)",
            )
        return row

    def _is_first(self, objective: str | None, completions: Sequence[Text]) -> bool:
        """Tell whether no reward function has seen this batch, which TRL passes to each of them."""
        if self._batch[0] is not completions:
            self._batch = (completions, set())
        seen = self._batch[1]
        is_first = not seen
        seen.add(objective)
        if None in seen and len(seen) > 1:
            raise ConfigError(
                "the trainer sums the aggregated reward and single objectives",
                expected="reward_funcs with either aggregated() or objectives()",
                fix="The aggregated reward logs the objectives too; leave objectives() out",
            )
        return is_first

    def _log(
        self, results: Sequence[CompletionReward], is_aggregated: bool, columns: Mapping[str, Any]
    ) -> None:
        """Log a batch through what TRL passes to reward functions.

        `log_extra` gets a column of the completions table for every score, utility, step vector and
        reward; `log_metric` their means over the batch, the weights that made the aggregated reward
        if it is what TRL optimizes, and the shares of completions without reward and cut off.
        """
        table = _score_columns(results)
        log_extra: Callable[[str, list[Any]], None] = columns["log_extra"]
        for column, values in (table | _step_columns(results)).items():
            log_extra(column, values)
        log_extra("prm/reason", [result.score.reason for result in results])
        means = {column: _mean(values) for column, values in table.items()}
        if is_aggregated:
            means |= self._used_weights(results)
        means["prm/unscored"] = fmean(result.reward is None for result in results)
        means["prm/truncated"] = fmean(result.score.num_truncated > 0 for result in results)
        for metric, mean in means.items():
            if mean is not None:
                columns["log_metric"](metric, mean)

    def _used_weights(self, results: Sequence[CompletionReward]) -> dict[str, float | None]:
        """Return the weights behind the aggregated rewards: fixed ones, or mean gates."""
        names = self.function.objectives
        fixed = linear_weights(self.function.spec, names)
        if fixed is not None:
            return {f"prm/weight/{name}": weight for name, weight in fixed.items()}
        aggregation = self.function.spec.objective_aggregation
        if aggregation is None or not aggregation.needs_gates:
            return {}
        scores = [result.score for result in results]
        gates = [score.gates for score in scores if score.gates]
        return {f"prm/weight/{name}": _mean([row[name] for row in gates]) for name in names}


class _View:
    """One number per completion out of scores that all views share; named as in TRL's metrics."""

    def __init__(self, rewards: TRLRewards, objective: str | None) -> None:
        self.rewards = rewards
        self.objective = objective
        self.__name__ = objective or AGGREGATED


class Reward(_View):
    """A reward function of TRL."""

    def __call__(
        self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any
    ) -> Values:
        """Return one reward per completion.

        Args:
            prompts: Prompts, one per completion.
            completions: What the policy wrote.
            columns: Columns of the dataset, and what TRL adds (`completion_ids`, `trainer_state`,
                `log_extra`, `log_metric`).

        Raises:
            DataError: A row's applicable objectives are not names of objectives.
            ConfigError: A trainer has both the aggregated reward and single objectives.
        """
        results = self.rewards.score(prompts, completions, columns)
        return self.rewards.values(self.objective, results, completions, columns)


class AsyncReward(_View):
    """A reward function of TRL as a coroutine; the forward pass runs in a thread."""

    async def __call__(
        self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any
    ) -> Values:
        """Return one reward per completion; arguments and errors as in `Reward`."""
        results = await asyncio.to_thread(self.rewards.score, prompts, completions, columns)
        return self.rewards.values(self.objective, results, completions, columns)


def _is_complete(result: CompletionReward, names: Iterable[str]) -> bool:
    return all(result.objectives[name] is not None for name in names)


def _score_columns(results: Sequence[CompletionReward]) -> dict[str, Values]:
    """Return scores in the heads' units, utilities and rewards, one value per completion."""
    table = {
        f"prm/score/{name}": [result.score.scores[name] for result in results]
        for name in results[0].objectives
    }
    if isinstance(results[0].score, ResponseScore):
        for name in results[0].objectives:
            table[f"prm/utility/{name}"] = [result.objectives[name] for result in results]
    return table | {"prm/reward": [result.reward for result in results]}


def _step_columns(results: Sequence[CompletionReward]) -> dict[str, list[Any]]:
    """Return the step probabilities of each completion, by objective."""
    probabilities = [result.score.step_probabilities for result in results]
    names = probabilities[0] if probabilities else ()
    return {f"prm/steps/{name}": [list(row[name]) for row in probabilities] for name in names}


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
