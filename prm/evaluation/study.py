"""One objective under evaluation: the model's scores of its records, beside fitted baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prm.errors import DataError
from prm.evaluation.baselines.responses import BASELINES
from prm.evaluation.parts import MODEL, REWARD, Part, ScoredRecords
from prm.evaluation.responses import System
from prm.metrics.binary import weighted_mean
from prm.metrics.intervals import Interval
from prm.metrics.pairs import hits
from prm.records import Outcome
from prm.spec import ResponseHead, RewardSpec

Array = NDArray[np.float64]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, slots=True, eq=False)
class ResponsePrediction:
    """The scores of the responses of one record.

    Args:
        record: The comparison or rating.
        scores: Score of each response, `[response, objective]`, in the order of the spec's outcome
            objectives; NaN is missing. float32.
        rewards: Aggregated reward of each response, `[response]`; NaN is missing. float32.
        reason: Why a response was not scored.

    Raises:
        DataError: The scores or rewards are not one per response.

    Example:
        >>> from prm.records import Comparison
        >>> pair = Comparison("Name a prime.", ["7", "8"], objective="factuality")
        >>> ResponsePrediction(pair, torch.zeros(1, 2), torch.zeros(2))
        Traceback (most recent call last):
        prm.errors.DataError: scores do not match the responses: expected 2 rows, got 1
    """

    record: Outcome
    scores: Tensor
    rewards: Tensor
    reason: str = ""

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


class ModelScores:
    """The scores of all predictions, one row per response."""

    def __init__(self, predictions: Sequence[ResponsePrediction], spec: RewardSpec) -> None:
        for prediction in predictions:
            if prediction.scores.shape[1:] != (len(spec.response_names),):
                raise DataError(
                    "scores do not match the objectives",
                    expected=f"one column each for {', '.join(spec.response_names)}",
                    got=tuple(prediction.scores.shape),
                    where=prediction.record.origin or None,
                )
        scores = torch.cat([prediction.scores for prediction in predictions]).detach().cpu().float()
        self.records = [prediction.record for prediction in predictions]
        self.sizes = np.array([len(record.responses) for record in self.records])
        self.scores: Array = scores.double().numpy()
        self.utilities: Array = spec.utilities(scores).double().numpy()
        rewards = torch.cat([prediction.rewards for prediction in predictions])
        self.rewards: Array = rewards.detach().cpu().double().numpy()


@dataclass(frozen=True, slots=True)
class ObjectiveReport:
    """The result for one objective.

    Args:
        direction: Whether a higher score is better (`maximize`) or worse (`minimize`).
        in_label_units: Whether scores are in the units of the labels.
        overall: All records of the objective.
        sources: Source name to its records.
        subsets: `source/subset` to its records, for those that name a subset.
        minimum_domain: Scorer to its lowest pair accuracy over domains; empty with one domain.
        weakest_domain: The domain of the model's minimum.
        margin_quantiles: Quantile to margin of the better response, in utilities of the model.
        baselines_missing: Why baselines could not be fitted; empty if all are there.
    """

    direction: str
    in_label_units: bool
    overall: Part
    sources: dict[str, Part]
    subsets: dict[str, Part]
    minimum_domain: dict[str, Interval]
    weakest_domain: str | None
    margin_quantiles: dict[str, float]
    baselines_missing: str


class ObjectiveStudy:
    """One objective: its records, the model's scores of them, and the fitted baselines."""

    def __init__(
        self,
        model: ModelScores,
        index: int,
        objective: ResponseHead,
        training: Sequence[Outcome] | None,
        in_label_units: bool,
    ) -> None:
        self.objective = objective
        self.in_label_units = in_label_units
        labeled = np.array([objective.name in record.objectives for record in model.records])
        has_score = np.logical_and.reduceat(
            np.isfinite(model.utilities[:, index]), np.cumsum(model.sizes) - model.sizes
        )
        self.labeled = labeled
        self.unscored = labeled & ~has_score
        self.all_records = [r for r, keep in zip(model.records, labeled, strict=True) if keep]
        self.was_scored = has_score[labeled]
        records = [r for r, out in zip(self.all_records, self.was_scored, strict=True) if out]
        rows = (labeled & has_score).repeat(model.sizes)
        head = System(
            MODEL,
            model.utilities[rows, index],
            model.scores[rows, index],
            sign=objective.sign,
            is_probability=True,
            in_label_units=in_label_units,
        )
        reward = [System(REWARD, model.rewards[rows])] if model.scores.shape[1] > 1 else []
        baselines, self.baselines_missing = _baselines(records, objective, training)
        self.scored = ScoredRecords(records, objective.name, [head, *reward, *baselines])

    @property
    def margins(self) -> Array:
        """Utility margin of the better response of each pair that the model scored."""
        return self.scored.margins(self.scored.systems[0])

    def report(self, num_resamples: int, seed: int) -> ObjectiveReport:
        """Measure the objective's records, all in all and by part."""

        def parts(names: Sequence[str | None]) -> dict[str, Part]:
            return {
                name: self._part([other == name for other in names], num_resamples, seed)
                for name in sorted({name for name in names if name is not None})
            }

        sources = [record.source for record in self.all_records]
        overall = self._part([True] * len(sources), num_resamples, seed)
        domains = [_domain(record) for record in self.scored.records]
        minimum = self.scored.minimum_domain(domains, num_resamples, seed)
        return ObjectiveReport(
            direction=str(self.objective.direction),
            in_label_units=self.in_label_units,
            overall=overall,
            sources=parts(sources) if len(set(sources)) > 1 else {sources[0]: overall},
            subsets=parts([_subset(record) for record in self.all_records]),
            minimum_domain=minimum,
            weakest_domain=self._weakest(domains) if minimum else None,
            margin_quantiles=self._margin_quantiles(),
            baselines_missing=self.baselines_missing,
        )

    def _part(self, chosen: Sequence[bool], num_resamples: int, seed: int) -> Part:
        part = np.array(chosen, dtype=bool)
        num_unscored = int((part & ~self.was_scored).sum())
        scored = self.scored.select(part[self.was_scored])
        return scored.part(num_unscored, num_resamples, seed)

    def _margin_quantiles(self) -> dict[str, float]:
        margins = self.margins
        values = np.quantile(margins, QUANTILES).tolist() if len(margins) else []
        return {f"{q:g}": value for q, value in zip(QUANTILES, values, strict=False)}

    def _weakest(self, domains: Sequence[str]) -> str:
        def accuracy(name: str) -> float:
            scored = self.scored.select(np.array([domain == name for domain in domains]))
            margins = scored.margins(scored.systems[0])
            weight = scored.rows.weight
            return weighted_mean(hits(margins, "half"), weight) if len(weight) else np.inf

        return min(sorted(set(domains)), key=accuracy)


def _baselines(
    records: Sequence[Outcome], objective: ResponseHead, training: Sequence[Outcome] | None
) -> tuple[list[System], str]:
    """Return the fitted baselines' view of the records, and why there is none."""
    if training is None or not records:
        return [], "no records to learn from" if records else "no records to measure"
    known = [record for record in training if objective.name in record.objectives]
    systems = []
    try:
        for kind in BASELINES:
            baseline = kind(objective.name, objective.sign).fit(known)
            utilities = baseline.utilities(records)
            systems.append(
                System(
                    baseline.name,
                    utilities,
                    baseline.values(utilities),
                    sign=objective.sign,
                    is_probability=True,
                    in_label_units=True,
                )
            )
    except DataError as error:
        return [], str(error)
    return systems, ""


def _subset(record: Outcome) -> str | None:
    subset = record.metadata.get("subset")
    return None if subset is None else f"{record.source}/{subset}"


def _domain(record: Outcome) -> str:
    return _subset(record) or record.source
