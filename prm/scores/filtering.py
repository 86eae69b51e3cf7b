"""Which rows to keep: by reward, by objective, by share of the best; and why the others go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from prm.arrays import Array, Mask
from prm.errors import ConfigError, DataError
from prm.scores.ranking import rank_candidates
from prm.scores.tables import ChainTable, ScoreTable, Unit

Within = Literal["all", "group"]
Missing = Literal["drop", "keep", "error"]
Truncated = Literal["last", "keep", "error"]

CUT_OFF = "cut off at the model's max_length"
"""Why a row that was not read to its end goes."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a row must fulfil to be kept; every rule on its own, all of them together.

    Args:
        min_reward: Smallest reward.
        max_reward: Largest reward.
        thresholds: Objective to the worst value that is accepted.
        unit: What thresholds are in. Of responses: `score`, the head's own units, where an
            objective to minimize must not be above its threshold; or `utility` or `probability`
            (the sigmoid of the utility), where more is always better. Of chains: `score`, as the
            steps were aggregated, or `probability`.
        top_share: Share of the rows with a reward that is kept, in (0, 1]; the best ones, and at
            least one, of all rows or of each group.
        within: Whether `top_share` is of `all` rows or of each `group`.
        missing: What happens to a row without a number that a rule needs.
        truncated: What happens to a row that the model did not read to its end, so that its numbers
            are of a part: `last`, it passes no rule and takes no place of the best share from
            others; `keep`, it counts as if it were whole.

    Raises:
        ConfigError: There is no rule, or `top_share` is out of range.
    """

    min_reward: float | None = None
    max_reward: float | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)
    unit: Unit = "score"
    top_share: float | None = None
    within: Within = "all"
    missing: Missing = "drop"
    truncated: Truncated = "last"

    def __post_init__(self) -> None:
        given = (self.min_reward, self.max_reward, self.top_share)
        if given == (None, None, None) and not self.thresholds:
            raise ConfigError(
                "there is nothing to filter by",
                fix="Give --min_reward, --max_reward, --thresholds.NAME=NUMBER or --top_share",
            )
        if self.top_share is not None and not 0 < self.top_share <= 1:
            raise ConfigError(
                "--top_share is wrong", expected="a share above 0, up to 1", got=self.top_share
            )

    def check(self, objectives: Sequence[str], *, chains: bool) -> None:
        """Refuse thresholds that scores do not have.

        Args:
            objectives: Names of the objectives.
            chains: Whether the scores are of chains, or of responses.

        Raises:
            ConfigError: There is no such objective, or chains have no such unit.
        """
        if chains and self.thresholds and self.unit == "utility":
            raise ConfigError(
                "the scores are of chains, which have no utilities",
                expected="--unit score or probability",
                got="--unit utility",
            )
        for name in self.thresholds:
            if name not in objectives:
                raise ConfigError(
                    "threshold for an objective that does not exist",
                    expected=" | ".join(objectives),
                    got=name,
                )

    @property
    def use_rewards(self) -> bool:
        """Whether a rule looks at the reward."""
        return (self.min_reward, self.max_reward, self.top_share) != (None, None, None)


def failures(table: ScoreTable, rewards: Array, rules: Rules) -> dict[str, Mask]:
    """Return the rows that fail each rule, shape `[row]`, by the reason to give.

    Raises:
        ConfigError: A threshold is for an objective or in a unit that the scores do not have.
        DataError: A row has no number that a rule needs, or was cut off, and the policy for it is
            `error`.
    """
    rules.check(table.objectives, chains=isinstance(table, ChainTable))
    if rules.truncated == "error":
        table.check_cut_off()
    failed = {
        **dict(_by_reward(rewards, rules)),
        **dict(_by_objective(table, rules)),
        **dict(_by_share(table, rewards, rules)),
    }
    missing = dict(_missing(table, rewards, rules))
    if rules.missing == "error":
        for reason, rows in missing.items():
            if rows.any():
                place = table.place(int(np.flatnonzero(rows)[0]))
                raise DataError(f"the row has {reason}", where=place, fix="--missing drop or keep")
    if rules.truncated == "last" and table.cut_off.any():
        failed[CUT_OFF] = table.cut_off
    return failed | missing if rules.missing == "drop" else failed


def _by_reward(rewards: Array, rules: Rules) -> Iterator[tuple[str, Mask]]:
    if rules.min_reward is not None:
        yield f"reward below {rules.min_reward:g}", rewards < rules.min_reward
    if rules.max_reward is not None:
        yield f"reward above {rules.max_reward:g}", rewards > rules.max_reward


def _by_objective(table: ScoreTable, rules: Rules) -> Iterator[tuple[str, Mask]]:
    if not rules.thresholds:
        return
    signs, values = table.in_unit(rules.unit)
    for name, threshold in rules.thresholds.items():
        column = table.objectives.index(name)
        side = "below" if signs[column] > 0 else "above"
        reason = f"{name}: {rules.unit} {side} {threshold:g}"
        yield reason, signs[column] * values[:, column] < signs[column] * threshold


def _by_share(table: ScoreTable, rewards: Array, rules: Rules) -> Iterator[tuple[str, Mask]]:
    if rules.top_share is None:
        return
    if rules.within == "group":
        table.check_groups()
    groups = table.groups if rules.within == "group" else np.zeros_like(table.groups)
    cut = None if rules.truncated == "keep" else table.cut_off
    ranking = rank_candidates(groups, rewards, cut_off=cut)
    counts = np.bincount(groups[~np.isnan(rewards)], minlength=int(groups.max()) + 1)
    kept = np.ceil(np.round(rules.top_share * counts, 9))
    low = np.zeros(table.num_rows, dtype=bool)
    low[ranking.order] = ranking.rank >= kept[ranking.groups]
    where = "their group" if rules.within == "group" else "all rows"
    yield f"not in the best {rules.top_share:.4g} of {where}", low


def _missing(table: ScoreTable, rewards: Array, rules: Rules) -> Iterator[tuple[str, Mask]]:
    if rules.use_rewards:
        yield "no reward", np.isnan(rewards)
    for name in rules.thresholds:
        yield f"no score of {name}", np.isnan(table.scores[:, table.objectives.index(name)])
