"""The outcome report: how good the scores of each objective are, beside trivial baselines.

Every metric comes with its number of units and a 95 % interval that resamples whole prompts, for
each objective: over all its records, by source, and by what records name as their `subset`. Every
baseline comes with the interval of the difference to the model on the same resamples.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prm.errors import DataError
from prm.evaluation.study import (
    ModelScores,
    ObjectiveReport,
    ObjectiveStudy,
    ResponsePrediction,
)
from prm.metrics.correlation import CorrelationMatrix, correlation_matrix
from prm.records import Outcome, Rating
from prm.spec import RewardSpec

__all__ = ["OutcomeReport", "ResponsePrediction", "evaluate"]

Array = NDArray[np.float64]

SCHEMA = "prm.outcome-report"
SCHEMA_VERSION = 1

CONVENTIONS = {
    "interval": "95 % percentile bootstrap over prompts (groups)",
    "difference": "model minus baseline, on the same units and resamples; better or worse if the "
    "interval excludes 0",
    "ties": "equal scores are wrong in pair_accuracy and count half in pair_accuracy_half; "
    "comparisons without a better response are left out and counted",
    "rankings": "all pairs of different rank, a ranking counting as one comparison; kendall_tau "
    "is tau-b, averaged over comparisons of three or more responses",
    "pair_nll, pair_brier, pair_ece": "of the sigmoid of the difference of utilities; ECE folded "
    "to confidences in [0.5, 1], 15 bins of equal width",
    "auroc, average_precision, ece, brier": "for values of 0 and 1 only; 1 is the positive class",
    "ece, brier": "of the sigmoid of the score's log-odds, or of the score itself, clipped to "
    "[0, 1], where it is in the units of the labels; ECE of 15 bins of equal width, not folded",
    "mse, quadratic_kappa": "only where scores are in the units of the labels; for kappa, scores "
    "are moved to the nearest value that labels take (20 values at most)",
    "minimum_domain": "lowest pair_accuracy_half over domains, a domain being a source or its "
    "subset",
    "reward": "the aggregated reward, on the comparisons of each objective",
    "constant": "the mean training value, and equal scores in every pair",
    "length_only": "logistic regression on the response's length and its logarithm",
    "tfidf": "logistic regression on the TF-IDF words of prompt and response",
    "unscored": "a record with a response that the model did not score is left out, for baselines "
    "too, and counted; a report with such records is partial",
}


@dataclass(frozen=True)
class OutcomeReport:
    """The result of `evaluate`.

    Args:
        settings: Seed and number of resamples.
        objectives: Objective name to its result; objectives without a labeled record are absent.
        head_correlations: Correlations of the objectives' scores over all responses.
        label_correlations: The same of the labels, over rated responses.
        unscored: Why records were not scored, to how many.
        other_objectives: Objectives of records that the model has no head for, to how many.
        data_sha256: Hash of the evaluated rows, independent of their order.
        context: What the caller knows: model, aggregation, tokenizer, time.
        margins: Objective to the margins of the better responses, for plots.
        predictions: What was evaluated; written apart.
    """

    settings: dict[str, Any]
    objectives: dict[str, ObjectiveReport]
    head_correlations: CorrelationMatrix
    label_correlations: CorrelationMatrix
    unscored: dict[str, int]
    other_objectives: dict[str, int]
    data_sha256: str
    context: Mapping[str, Any]
    margins: Mapping[str, Array]
    predictions: tuple[ResponsePrediction, ...]

    @property
    def partial(self) -> bool:
        """Whether records were not scored, so that the numbers are about part of the data."""
        return bool(self.unscored)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values, without the predictions."""
        return {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "partial": self.partial,
            "unscored": self.unscored,
            "other_objectives": self.other_objectives,
            "settings": self.settings,
            "conventions": CONVENTIONS,
            "context": dict(self.context),
            "data_sha256": self.data_sha256,
            "objectives": {name: asdict(result) for name, result in self.objectives.items()},
            "head_correlations": asdict(self.head_correlations),
            "label_correlations": asdict(self.label_correlations),
        }


def evaluate(
    predictions: Sequence[ResponsePrediction],
    spec: RewardSpec,
    training: Sequence[Outcome] | None = None,
    *,
    seed: int = 0,
    num_resamples: int = 1000,
    in_label_units: Collection[str] = (),
    context: Mapping[str, Any] | None = None,
) -> OutcomeReport:
    """Measure scores against comparisons and values, for each objective, all in all and by source.

    Args:
        predictions: The scored records; baselines are measured on the same ones.
        spec: Names, directions and utilities of the objectives.
        training: Records that the baselines learn from; without them none is shown.
        seed: Seed of the bootstrap.
        num_resamples: Bootstrap resamples; 0 gives no intervals.
        in_label_units: Objectives whose scores are in the units of their values, as squared error
            and likelihoods of the value train them. Scores of others are read as log-odds.
        context: Facts for the report: model, tokenizer, aggregation, wall time.

    Raises:
        DataError: There are no predictions, or scores do not have one column per objective.
    """
    if not predictions:
        raise DataError("there is nothing to evaluate", expected="at least one record", got=0)
    model = ModelScores(predictions, spec)
    results, margins, unscored = {}, {}, np.zeros(len(predictions), dtype=bool)
    for index, objective in enumerate(spec.response_heads):
        study = ObjectiveStudy(model, index, objective, training, objective.name in in_label_units)
        unscored |= study.unscored
        if study.labeled.any():
            results[objective.name] = study.report(num_resamples, seed)
            margins[objective.name] = study.margins
    reasons = (p.reason or "no score" for p, out in zip(predictions, unscored, strict=True) if out)
    return OutcomeReport(
        settings={"seed": seed, "num_resamples": num_resamples},
        objectives=results,
        head_correlations=correlation_matrix(model.scores, spec.response_names),
        label_correlations=correlation_matrix(_labels(model.records, spec), spec.response_names),
        unscored=dict(Counter(reasons).most_common()),
        other_objectives=_other_objectives(model.records, spec),
        data_sha256=_data_hash(model.records),
        context=context or {},
        margins=margins,
        predictions=tuple(predictions),
    )


def _labels(records: Sequence[Outcome], spec: RewardSpec) -> list[list[float]]:
    rows = []
    for record in records:
        if isinstance(record, Rating):
            values = [record.values.get(name) for name in spec.response_names]
            rows.append([np.nan if value is None else value for value in values])
    return rows


def _other_objectives(records: Sequence[Outcome], spec: RewardSpec) -> dict[str, int]:
    counts = Counter(name for record in records for name in record.objectives)
    return {name: n for name, n in sorted(counts.items()) if name not in spec.response_names}


def _data_hash(records: Sequence[Outcome]) -> str:
    rows = sorted(json.dumps(record.to_row(), sort_keys=True) for record in records)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()
