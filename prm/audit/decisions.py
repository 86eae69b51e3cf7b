"""The decisions on stored scores: who wins under which aggregation, and what that costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from prm.aggregation.objectives import ObjectiveAggregation, to_dict
from prm.arrays import Array, Indices, Mask
from prm.audit.groups import PromptGroups, share_flipped
from prm.audit.tradeoff_report import Pareto, Scatter, WinnerStatistics
from prm.errors import DataError
from prm.metrics.intervals import Interval, wilson
from prm.scores.tables import ResponseTable, aggregate

MAX_PAIRS = 100_000
"""Pairs of responses that flips are counted over, at random if there are more."""

MAX_POINTS = 4000
"""Candidates in the scatter plot."""


@dataclass(frozen=True, slots=True, eq=False)
class Decisions:
    """The candidates with what they offer, and the decisions under the base.

    Args:
        objectives: Names of the objectives.
        candidates: Responses with a score of every objective, by prompt.
        utilities: Their utilities, shape `[candidate, objective]`.
        scores: Their scores in the heads' own units, likewise.
        gates: Weights that the model gives their prompts, likewise, if there are any.
        base_rewards: Their rewards under the base, shape `[candidate]`.
        dominated: Whether another response to the prompt is better and nowhere worse.
        pairs: Candidates of the same group, two by two.
    """

    objectives: tuple[str, ...]
    candidates: PromptGroups
    utilities: Array
    scores: Array
    gates: Array | None
    base_rewards: Array
    dominated: Mask
    pairs: tuple[Indices, Indices]

    @classmethod
    def of(cls, table: ResponseTable, base: ObjectiveAggregation) -> Decisions:
        utilities, rewards = table.utilities(), table.with_aggregation(base).aggregated()
        usable = np.isfinite(utilities).all(axis=1) & np.isfinite(rewards)
        candidates = PromptGroups.of(table.groups, usable)
        if candidates.num_groups == 0:
            raise DataError(
                "there is nothing to choose between",
                expected="two or more responses to a prompt, with a score of every objective",
                where=str(table.path),
            )
        mine = utilities[candidates.rows]
        return cls(
            table.objectives,
            candidates,
            mine,
            table.scores[candidates.rows],
            None if table.gates is None else table.gates[candidates.rows],
            rewards[candidates.rows],
            candidates.dominated(mine),
            candidates.pairs(MAX_PAIRS),
        )

    def rewards(self, aggregation: ObjectiveAggregation) -> Array:
        """Return the reward of each candidate."""
        return aggregate(aggregation, self.utilities, self.objectives, self.gates)

    def winners(self, aggregation: ObjectiveAggregation) -> Indices:
        """Return the candidate that wins in each group."""
        return self.candidates.winners(self.rewards(aggregation))

    def counts(self, table: ResponseTable) -> dict[str, int]:
        """Return how many rows, prompts and pairs there are, and what was left out."""
        complete = np.isfinite(table.utilities()).all(axis=1)
        return {
            "num_rows": table.num_rows,
            "num_rows_without_a_score": int((~complete).sum()),
            "num_rows_cut_off": int(table.cut_off.sum()),
            "num_rows_without_a_rival": int(complete.sum()) - len(self.candidates.rows),
            "num_candidates": len(self.candidates.rows),
            "num_prompts": self.candidates.num_groups,
            "num_pairs": len(self.pairs[0]),
        }

    def statistics(self, aggregation: ObjectiveAggregation) -> WinnerStatistics:
        """Return the winners under an aggregation, compared with those under the base."""
        rewards = self.rewards(aggregation)
        winners = self.candidates.winners(rewards)
        changed = int((winners != self.candidates.winners(self.base_rewards)).sum())
        best = np.add.reduceat(self.candidates.is_best(rewards), self.candidates.starts)
        return WinnerStatistics(
            to_dict(aggregation),
            share_interval(changed, len(winners)),
            share_flipped(self.pairs, self.base_rewards, rewards),
            float((best > 1).mean()),
            float(self.dominated[winners].mean()),
            self.named(self.utilities[winners].mean(axis=0)),
            self.named(self.scores[winners].mean(axis=0)),
        )

    def references(self) -> dict[str, dict[str, float]]:
        """Return the mean utilities that bound what choosing can do."""
        best = np.maximum.reduceat(self.utilities, self.candidates.starts, axis=0)
        everyone = self.candidates.group_means(self.utilities)[self.candidates.starts]
        return {
            "a random response": self.named(everyone.mean(axis=0)),
            "the best in each objective": self.named(best.mean(axis=0)),
        }

    def pareto(self) -> Pareto:
        """Return how much choice the data leave."""
        front = np.add.reduceat(~self.dominated, self.candidates.starts, dtype=np.int64)
        return Pareto(
            float(front.mean()),
            float(self.candidates.sizes.mean()),
            float((front == 1).mean()),
            float((~self.dominated).mean()),
        )

    def centered(self) -> Array:
        """Return the utilities without the mean of their group."""
        return self.utilities - self.candidates.group_means(self.utilities)

    def scatter(self) -> Scatter | None:
        """Return whole groups of candidates for a plot of the most conflicting objectives."""
        if len(self.objectives) < 2:
            return None
        centered = self.centered()
        matrix = correlation(self.objectives, centered)
        pairs = list(combinations(range(len(self.objectives)), 2))
        names = self.objectives
        conflict = [matrix[names[a]][names[b]] for a, b in pairs]
        a, b = pairs[int(np.argmin([2.0 if value is None else value for value in conflict]))]
        shown = slice(0, int(np.searchsorted(self.candidates.groups, self._last_shown())))
        winner = np.zeros(len(centered), dtype=bool)
        winner[self.candidates.winners(self.base_rewards)] = True
        return Scatter(
            (names[a], names[b]),
            centered[shown][:, [a, b]],
            self.dominated[shown],
            winner[shown],
        )

    def _last_shown(self) -> int:
        return max(1, int((np.cumsum(self.candidates.sizes) <= MAX_POINTS).sum()))

    def named(self, values: Array) -> dict[str, float]:
        """Return one value per objective, by name."""
        return dict(zip(self.objectives, values.tolist(), strict=True))


def correlation(objectives: Sequence[str], centered: Array) -> dict[str, dict[str, float | None]]:
    """Return the correlation of columns that have mean 0."""
    norms = np.sqrt((centered**2).sum(axis=0))
    products = centered.T @ centered
    with np.errstate(divide="ignore", invalid="ignore"):
        matrix = products / np.outer(norms, norms)
    constant = norms <= 1e-12 * math.sqrt(len(centered))
    matrix[constant] = matrix[:, constant] = np.nan
    return {
        name: {
            other: None if math.isnan(value) else value
            for other, value in zip(objectives, row, strict=True)
        }
        for name, row in zip(objectives, matrix.tolist(), strict=True)
    }


def share_interval(count: int, total: int) -> Interval:
    """Return a share of prompts with its 95 % Wilson interval.

    Example:
        >>> print(share_interval(5, 10))
        0.500 [.237, .763]
    """
    low, high = wilson(count / total, total)
    return Interval(count / total, low.item(), high.item(), total, total)
