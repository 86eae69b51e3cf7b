"""What is measured of scored responses beside baselines: each objective, all in all and by part."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from prm.arrays import Array
from prm.errors import DataError
from prm.evaluation.baselines.responses import RESPONSE_BASELINES
from prm.evaluation.parts import MODEL, REWARD, Bootstrap, Part
from prm.evaluation.responses import ResponsePrediction, ResponseScorer, ScoredResponses
from prm.metrics.binary import weighted_mean
from prm.metrics.correlation import CorrelationMatrix, correlation_matrix
from prm.metrics.intervals import Interval
from prm.metrics.pairs import hits
from prm.records import Outcome
from prm.spec import ResponseHead, RewardSpec

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

_PLACE = re.compile(r"^(?:.*?\brow (['\"]).*?\1|\S+:\d+): ")
_FACTS = re.compile(r": (?:expected|got) .*$")


@dataclass(frozen=True, slots=True)
class ObjectiveResults:
    """The result for one objective of responses.

    Args:
        direction: Whether a higher score is better (`maximize`) or worse (`minimize`).
        in_label_units: Whether scores are in the units of the labels.
        overall: All records of the objective.
        sources: Source name to its records.
        subsets: `source/subset` to its records, for those that name a subset.
        minimum_domain: Scorer to its lowest pair accuracy over domains, which chance makes lower
            than the lowest true one, and which has no interval; empty with one domain.
        weakest_domain: The domain of the model's minimum.
        missing_domains: Domains of which nothing was scored, to their number of records. What the
            model is worth there is not known, so its true minimum may be lower.
        margins: Margin of the better response of each pair, in utilities of the model.
        baselines_missing: Why baselines could not be fitted; empty if all are there.
    """

    direction: str
    in_label_units: bool
    overall: Part
    sources: dict[str, Part]
    subsets: dict[str, Part]
    minimum_domain: dict[str, Interval]
    weakest_domain: str | None
    missing_domains: dict[str, int]
    margins: Array
    baselines_missing: str

    @property
    def margin_quantiles(self) -> dict[str, float]:
        """Quantile to margin of the better response."""
        values = np.quantile(self.margins, QUANTILES).tolist() if len(self.margins) else []
        return {f"{q:g}": value for q, value in zip(QUANTILES, values, strict=False)}

    def to_dict(self) -> dict[str, Any]:
        """Return the results as JSON values."""
        return {
            "direction": self.direction,
            "in_label_units": self.in_label_units,
            "overall": self.overall.to_dict(),
            "sources": {name: part.to_dict() for name, part in self.sources.items()},
            "subsets": {name: part.to_dict() for name, part in self.subsets.items()},
            "minimum_domain": {name: asdict(x) for name, x in self.minimum_domain.items()},
            "weakest_domain": self.weakest_domain,
            "missing_domains": self.missing_domains,
            "margin_quantiles": self.margin_quantiles,
            "baselines_missing": self.baselines_missing,
        }


@dataclass(frozen=True, slots=True)
class ResponseResults:
    """The result on scored responses.

    Args:
        objectives: Objective name to its result; objectives without a labeled record are absent.
        head_correlations: Correlations of the objectives' scores over all responses.
        label_correlations: The same of the labels, over rated responses.
        unscored: Why records were not scored, to how many.
        other_objectives: Objectives of records that the model has no head for, to how many.
        num_truncated: Records with a response that was cut off, and scored by what was left of it.
    """

    objectives: dict[str, ObjectiveResults]
    head_correlations: CorrelationMatrix
    label_correlations: CorrelationMatrix
    unscored: dict[str, int]
    other_objectives: dict[str, int]
    num_truncated: int

    def to_dict(self) -> dict[str, Any]:
        """Return the results as JSON values."""
        return {
            "unscored": self.unscored,
            "other_objectives": self.other_objectives,
            "num_truncated": self.num_truncated,
            "objectives": {name: result.to_dict() for name, result in self.objectives.items()},
            "head_correlations": asdict(self.head_correlations),
            "label_correlations": asdict(self.label_correlations),
        }


def study_responses(
    predictions: Sequence[ResponsePrediction],
    spec: RewardSpec,
    training: Sequence[Outcome] | None,
    in_label_units: Collection[str],
    bootstrap: Bootstrap,
) -> ResponseResults:
    """Measure scores against comparisons and values, for each objective.

    Args:
        predictions: The scored records; at least one.
        spec: Names, directions and utilities of the objectives.
        training: Records that the baselines learn from; without them none is shown.
        in_label_units: Objectives whose scores are in the units of their values.
        bootstrap: What gives intervals.

    Raises:
        DataError: Scores do not have one column per objective.
    """
    model = _ModelScores(predictions, spec)
    results, unscored = {}, np.zeros(len(predictions), dtype=bool)
    for index, objective in enumerate(spec.response_heads):
        study = _ObjectiveStudy(model, index, objective, training, objective.name in in_label_units)
        unscored |= study.unscored
        if study.labeled.any():
            results[objective.name] = study.results(bootstrap)
    lost = [p for p, out in zip(predictions, unscored, strict=True) if out]
    return ResponseResults(
        objectives=results,
        head_correlations=correlation_matrix(model.scores, spec.response_names),
        label_correlations=correlation_matrix(_labels(model.records, spec), spec.response_names),
        unscored=count_kinds(prediction.reason or "no score" for prediction in lost),
        other_objectives=_other_objectives(model.records, spec),
        num_truncated=sum(prediction.num_truncated > 0 for prediction in predictions),
    )


def kind_of(reason: str) -> str:
    """Return what a reason says without the record that it is about, and without its numbers.

    Example:
        >>> kind_of("a.jsonl:7, row 'c-6': no room for it: expected 13 tokens, got 101 tokens")
        'no room for it'
    """
    kinds = (_FACTS.sub("", _PLACE.sub("", part)) for part in reason.split("; "))
    return "; ".join(dict.fromkeys(kinds))


def count_kinds(reasons: Iterable[str]) -> dict[str, int]:
    """Return the kinds of some reasons to how many there are, the most frequent first.

    Example:
        >>> count_kinds(["row 'a': too long: got 9", "row 'b': too long: got 7", "no score"])
        {'too long': 2, 'no score': 1}
    """
    return dict(Counter(map(kind_of, reasons)).most_common())


def _labels(records: Sequence[Outcome], spec: RewardSpec) -> list[list[float]]:
    rows = []
    for record in records:
        if record.values:
            values = [record.values.get(name) for name in spec.response_names]
            rows.append([np.nan if value is None else value for value in values])
    return rows


def _other_objectives(records: Sequence[Outcome], spec: RewardSpec) -> dict[str, int]:
    counts = Counter(name for record in records for name in record.objectives)
    return {name: n for name, n in sorted(counts.items()) if name not in spec.response_names}


class _ModelScores:
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


class _ObjectiveStudy:
    """One objective: its records, the model's scores of them, and the fitted baselines."""

    def __init__(
        self,
        model: _ModelScores,
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
        head = ResponseScorer(
            MODEL,
            model.utilities[rows, index],
            model.scores[rows, index],
            sign=objective.sign,
            is_probability=True,
            in_label_units=in_label_units,
        )
        reward = [ResponseScorer(REWARD, model.rewards[rows])] if model.scores.shape[1] > 1 else []
        baselines, self.baselines_missing = _baselines(records, objective, training)
        self.scored = ScoredResponses(records, objective.name, [head, *reward, *baselines])

    def results(self, bootstrap: Bootstrap) -> ObjectiveResults:
        """Measure the objective's records, all in all and by part."""

        def parts(names: Sequence[str | None]) -> dict[str, Part]:
            return {
                name: self._part([other == name for other in names], bootstrap)
                for name in sorted({name for name in names if name is not None})
            }

        sources = [record.source for record in self.all_records]
        overall = self._part([True] * len(sources), bootstrap)
        domains = [_domain(record) for record in self.scored.records]
        minimum = self.scored.minimum_domain(domains)
        lost = Counter(_domain(record) for record in self.all_records if record.ranks)
        known = {_domain(record) for record in self.scored.records if record.ranks}
        return ObjectiveResults(
            direction=str(self.objective.direction),
            in_label_units=self.in_label_units,
            overall=overall,
            sources=parts(sources) if len(set(sources)) > 1 else {sources[0]: overall},
            subsets=parts([_subset(record) for record in self.all_records]),
            minimum_domain=minimum,
            weakest_domain=self._weakest(domains) if minimum else None,
            missing_domains={name: n for name, n in sorted(lost.items()) if name not in known},
            margins=self.scored.margins,
            baselines_missing=self.baselines_missing,
        )

    def _part(self, chosen: Sequence[bool], bootstrap: Bootstrap) -> Part:
        part = np.array(chosen, dtype=bool)
        num_unscored = int((part & ~self.was_scored).sum())
        return self.scored.select(part[self.was_scored]).part(num_unscored, bootstrap)

    def _weakest(self, domains: Sequence[str]) -> str:
        def accuracy(name: str) -> float:
            scored = self.scored.select(np.array([domain == name for domain in domains]))
            share = scored.labels.share
            return weighted_mean(hits(scored.margins, "half"), share) if len(share) else np.inf

        return min(sorted(set(domains)), key=accuracy)


def _baselines(
    records: Sequence[Outcome], objective: ResponseHead, training: Sequence[Outcome] | None
) -> tuple[list[ResponseScorer], str]:
    """Return the fitted baselines' view of the records, and why there is none."""
    if training is None or not records:
        return [], "no records to learn from" if records else "no records to measure"
    known = [record for record in training if objective.name in record.objectives]
    scorers = []
    try:
        for kind in RESPONSE_BASELINES:
            baseline = kind(objective.name, objective.sign).fit(known)
            utilities = baseline.utilities(records)
            scorers.append(
                ResponseScorer(
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
    return scorers, ""


def _subset(record: Outcome) -> str | None:
    subset = record.metadata.get("subset")
    return None if subset is None else f"{record.source}/{subset}"


def _domain(record: Outcome) -> str:
    return _subset(record) or record.source
