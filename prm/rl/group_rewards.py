"""Objectives compared within the answers to one prompt, then summed (GDPO), for any trainer.

TRL and NeMo-RL can do this themselves. Other trainers want one number per completion; here it is
the sum of the normalized objectives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from prm.aggregation.groups import normalize_then_sum
from prm.aggregation.weights import check_names, finite_numbers
from prm.errors import ConfigError, DataError
from prm.rl.completions import Text
from prm.rl.reward_function import RewardFunction
from prm.rl.weighting import linear_weights


class GroupNormalizedReward:
    """The reward `S = sum_k w_k (r_k - mean_G) / max(std_G, floor)` of each completion.

    The groups G are the completions of one prompt in a call, so a call must bring all of them. An
    objective that is missing adds nothing to its completion and to the statistics of its group; a
    completion without any has no reward. Absolute levels are lost: whatever must hold absolutely (a
    gate, a constraint) belongs into the aggregation of a `RewardFunction` that is used directly.

    A trainer that subtracts a group's mean changes nothing, since that of S is 0. One that divides
    by the group's standard deviation too makes all groups equally large: the order within a group
    stays, but a group that differs in one objective then counts as much as one that differs in all.
    Turn its scaling off (in TRL `scale_rewards="none"`).

    Args:
        function: What scores completions; its objectives are utilities, without the spec's shaping.
        weights: Weight of each objective, 0 or above; by default those of the aggregation in force,
            which must then be a weighted sum.
        num_generations: Completions per prompt, which then follow each other in a call; without it,
            equal prompts are a group.
        floor: The smallest standard deviation divided by, above 0, in units of the utilities.
        column: Name of the argument with the objectives that apply to each completion.

    Raises:
        ConfigError: Weights do not fit the objectives, or the aggregation is not a weighted sum.

    Attributes:
        zero_std_share: Objective to the share of groups of the last call whose completions are all
            equal in it, so that they teach nothing; logged too where the trainer offers
            `log_metric`.

    Source: GDPO (arXiv 2601.05242), equations 4-6.
    """

    def __init__(
        self,
        function: RewardFunction,
        *,
        weights: Mapping[str, float] | None = None,
        num_generations: int | None = None,
        floor: float = 0.01,
        column: str = "objectives",
    ) -> None:
        if weights is not None:
            weights = finite_numbers(weights, "weights")
            check_names(weights, function.objectives, "weights")
        if num_generations is not None and num_generations < 2:
            raise ConfigError("num_generations", expected="2 or more", got=num_generations)
        self.function = function
        self.num_generations = num_generations
        self.floor = floor
        self.column = column
        self.zero_std_share: dict[str, float] = {}
        self.__name__ = "group_normalized"
        self._weights = weights
        self.weights()

    def weights(self) -> dict[str, float]:
        """Return the weights in force.

        Raises:
            ConfigError: None were given, and the aggregation is not a weighted sum.
        """
        weights = self._weights
        if weights is None:
            weights = linear_weights(self.function.spec, self.function.objectives)
        if weights is None:
            raise ConfigError(
                "objectives that are normalized apart cannot be aggregated like this",
                expected="a weighted sum, or weights",
                got=self.function.spec.objective_aggregation,
            )
        return dict(weights)

    def __call__(
        self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any
    ) -> list[float | None]:
        """Return the reward of each completion; `None` for one without any score.

        Raises:
            DataError: The number of completions is not a multiple of `num_generations`, or as
                `RewardFunction.score`.
        """
        results = self.function.score(prompts, completions, applicable=columns.get(self.column))
        weights, names = self.weights(), self.function.objectives
        table = torch.tensor(
            [[_number(result.objectives[name]) for name in names] for result in results],
            dtype=torch.float64,
        ).reshape(len(results), len(names))
        counted = torch.tensor([weights[name] for name in names], dtype=torch.float64)
        advantages = normalize_then_sum(
            table, self._groups(prompts), counted, floor=self.floor, whiten=False
        )
        self._report(advantages.zero_std_share.tolist(), columns)
        unscored = (table.isnan() | (counted == 0)).all(dim=-1).tolist()
        return [
            None if nothing else value
            for value, nothing in zip(advantages.values.tolist(), unscored, strict=True)
        ]

    def _groups(self, prompts: Sequence[Text]) -> torch.Tensor:
        if self.num_generations is None:
            seen: dict[str, int] = {}
            return torch.tensor([seen.setdefault(_key(prompt), len(seen)) for prompt in prompts])
        if len(prompts) % self.num_generations:
            raise DataError(
                "a call holds only a part of a group",
                expected=f"a multiple of {self.num_generations} completions",
                got=len(prompts),
                fix="Make the batch of each process a multiple of num_generations",
            )
        return torch.arange(len(prompts)) // self.num_generations

    def _report(self, shares: Sequence[float], columns: Mapping[str, Any]) -> None:
        self.zero_std_share = dict(zip(self.function.objectives, shares, strict=True))
        if log_metric := columns.get("log_metric"):
            for name, share in self.zero_std_share.items():
                log_metric(f"prm/zero_std_share/{name}", share)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _key(prompt: Any) -> str:
    return repr(prompt.tolist() if hasattr(prompt, "tolist") else prompt)
