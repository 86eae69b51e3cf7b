"""Scored responses of one objective, as units of pairs, rankings and rated responses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from prm.arrays import Array, Indices, Mask
from prm.data.groups import problem_groups
from prm.errors import DataError
from prm.evaluation.labels import ObjectiveLabels
from prm.evaluation.parts import Bootstrap, Part, measure_part
from prm.metrics.binary import weighted_mean
from prm.metrics.correlation import RankingUnits, best_credit, kendall_tau
from prm.metrics.intervals import Interval, group_indices, make_interval, renumbered
from prm.metrics.metric import Units
from prm.metrics.pairs import PairUnits, hits, minimum_domain
from prm.metrics.values import ValueUnits
from prm.records import Comparison, Outcome


@dataclass(frozen=True, slots=True, eq=False)
class ResponsePrediction:
    """The scores of the responses of one record.

    Args:
        record: The comparison or rating.
        scores: Score of each response, `[response, objective]`, in the order of the spec's response
            heads; NaN is missing. float32.
        rewards: Aggregated reward of each response, `[response]`; NaN is missing. float32.
        reason: Why a response was not scored.
        num_truncated: Responses of it that were cut off, and scored by what was left of them.

    Raises:
        DataError: The scores or rewards are not one per response.

    Example:
        >>> import torch
        >>> pair = Comparison("Name a prime.", ["7", "8"], objective="factuality")
        >>> ResponsePrediction(pair, torch.zeros(1, 2), torch.zeros(2))
        Traceback (most recent call last):
        prm.errors.DataError: scores do not match the responses: expected 2 rows, got 1
    """

    record: Outcome
    scores: Tensor
    rewards: Tensor
    reason: str = ""
    num_truncated: int = 0

    def __post_init__(self) -> None:
        record = self.record
        where = ", ".join(
            x for x in (record.origin, f"row {record.id!r}" if record.id else "") if x
        )
        for name, rows in (("scores", self.scores), ("rewards", self.rewards)):
            if len(rows) != len(record.responses):
                raise DataError(
                    f"{name} do not match the responses",
                    expected=f"{len(record.responses)} rows",
                    got=len(rows),
                    where=where or None,
                )

    def to_row(self, objectives: Sequence[str]) -> dict[str, Any]:
        """Return the row of `predictions.jsonl`: scores, rewards and labels.

        Args:
            objectives: Names of the columns of the scores.
        """
        record = self.record
        columns = zip(objectives, self.scores.unbind(dim=1), strict=True)
        if isinstance(record, Comparison):
            labels: dict[str, Any] = {"objective": record.objective, "ranks": list(record.ranks)}
        else:
            labels = {"values": dict(record.values)}
        return {
            "id": record.id,
            "source": record.source,
            "group": record.group,
            **labels,
            "scores": {name: _finite(column) for name, column in columns},
            "rewards": _finite(self.rewards),
            "reason": self.reason,
            "num_truncated": self.num_truncated,
        }


def _finite(column: Tensor) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in column.tolist()]


@dataclass(frozen=True)
class ResponseScorer:
    """What one scorer says of every response, in the order of the records.

    Args:
        name: Name of the scorer.
        utilities: Higher is better; NaN where not scored.
        values: Prediction of the value, higher where the value is higher; `None` for a scorer that
            only ranks.
        sign: 1 if a higher value is better, -1 if a lower one is.
        is_probability: Whether the sigmoid of a difference of utilities is a probability.
        in_label_units: Whether `values` are in the units of the labels. If not, they are log-odds:
            the sigmoid of a utility is the probability of a value of 1 (of 0 if lower is better).
    """

    name: str
    utilities: Array
    values: Array | None = None
    sign: int = 1
    is_probability: bool = False
    in_label_units: bool = False

    def select(self, rows: Mask) -> ResponseScorer:
        """Return what it says of the responses where `rows` holds."""
        values = None if self.values is None else self.values[rows]
        return replace(self, utilities=self.utilities[rows], values=values)


class ScoredResponses:
    """Records of one objective with what each scorer says of their responses.

    Args:
        records: Records that supervise the objective, all scored by the model.
        objective: Name of the objective.
        scorers: The scorers, the model first; one entry per response, in order.
        groups: Number of each record's problem, by which intervals are resampled; by default as
            splits tell problems apart.
    """

    def __init__(
        self,
        records: Sequence[Outcome],
        objective: str,
        scorers: Sequence[ResponseScorer],
        groups: Indices | None = None,
    ) -> None:
        self.records = list(records)
        self.objective = objective
        self.scorers = list(scorers)
        self.sizes = np.array([len(record.responses) for record in records], dtype=np.int64)
        self.record_groups = renumbered(problem_groups(self.records) if groups is None else groups)
        self.num_groups = int(self.record_groups.max(initial=-1)) + 1
        self.groups = self.record_groups.repeat(self.sizes)

    def select(self, keep: Mask) -> ScoredResponses:
        """Return the records where `keep` holds."""
        rows = keep.repeat(self.sizes)
        records = [record for record, kept in zip(self.records, keep, strict=True) if kept]
        scorers = [scorer.select(rows) for scorer in self.scorers]
        return ScoredResponses(records, self.objective, scorers, self.record_groups[keep])

    @cached_property
    def labels(self) -> ObjectiveLabels:
        """The labeled pairs and values."""
        return ObjectiveLabels(self.records, self.objective)

    @property
    def margins(self) -> Array:
        """Utility of the better minus that of the worse response of each pair, of the model."""
        return self._margins(self.scorers[0])

    def part(self, num_unscored: int, bootstrap: Bootstrap) -> Part:
        """Measure all scorers.

        Args:
            num_unscored: Number of further records that the model did not score.
            bootstrap: What gives intervals.
        """
        units = {scorer.name: self._units(scorer) for scorer in self.scorers}
        num_ratings, num_ties = len(self.labels.value), self.labels.num_ties
        counts = {
            "num_records": len(self.records) + num_unscored,
            "num_groups": self.num_groups,
            "num_comparisons": len(self.records) - num_ratings - num_ties,
            "num_tied_comparisons": num_ties,
            "num_ratings": num_ratings,
            "num_unscored": num_unscored,
        }
        return measure_part(units, self.num_groups, counts, bootstrap)

    def minimum_domain(self, domains: Sequence[str]) -> dict[str, Interval]:
        """Return each scorer's lowest pair accuracy over domains, ties half, without an interval.

        The domain is chosen by the pairs that its accuracy is of, so the value is too low by
        chance, and resampling, which chooses again, gives no interval that covers.

        Args:
            domains: The domain of each record.

        Returns:
            Scorer name to value; empty if the pairs are of fewer than two domains.
        """
        domain = group_indices(domains).repeat(self.sizes)[self.labels.better]
        members = [np.flatnonzero(domain == index) for index in np.unique(domain)]
        if len(members) < 2:
            return {}
        margins = np.array([self._margins(scorer) for scorer in self.scorers])
        hit = hits(margins, "half")
        share = self.labels.share
        lowest = [minimum_domain([_known_mean(row[m], share[m]) for m in members]) for row in hit]
        n = round(float(share.sum()))
        return {
            scorer.name: make_interval(value, math.nan, math.nan, n, self.num_groups)
            for scorer, value in zip(self.scorers, lowest, strict=True)
        }

    def _margins(self, scorer: ResponseScorer) -> Array:
        return scorer.utilities[self.labels.better] - scorer.utilities[self.labels.worse]

    def _units(self, scorer: ResponseScorer) -> tuple[Units, ...]:
        """Return the pairs, rankings and rated responses as a scorer sees them."""
        labels = self.labels
        pairs = PairUnits(
            self._margins(scorer),
            labels.share,
            labels.strength,
            self.groups[labels.better],
            scorer.is_probability,
        )
        return pairs, self._ranking_units(scorer), self._value_units(scorer)

    def _ranking_units(self, scorer: ResponseScorer) -> RankingUnits:
        starts = np.cumsum(self.sizes) - self.sizes
        rankings = [
            (start, scorer.utilities[start : start + len(record.ranks)], record.ranks)
            for record, start in zip(self.records, starts.tolist(), strict=True)
            if len(record.ranks) > 2
        ]
        return RankingUnits(
            np.array([kendall_tau(scores, ranks) for _, scores, ranks in rankings]),
            np.array([best_credit(scores, ranks) for _, scores, ranks in rankings]),
            self.groups[[start for start, _, _ in rankings]],
        )

    def _value_units(self, scorer: ResponseScorer) -> ValueUnits:
        """Return the rated responses; none for a scorer that only ranks."""
        rated = self.labels.rated if scorer.values is not None else self.labels.rated[:0]
        values = scorer.utilities if scorer.values is None else scorer.values
        log_odds = None if scorer.in_label_units else scorer.sign * scorer.utilities[rated]
        labels = self.labels.value[: len(rated)]
        return ValueUnits(values[rated], labels, log_odds, self.groups[rated])


def _known_mean(values: Array, weights: Array) -> float:
    known = ~np.isnan(values)
    return weighted_mean(values[known], weights[known])
