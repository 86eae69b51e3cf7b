"""The report of an evaluation: how good scores of steps and of responses are, beside baselines.

Every metric comes with its number of units and a 95 % interval that resamples whole problems. Every
baseline comes with the interval of the difference to the model on the same resamples, and with a
verdict. A report on fewer subsets of a benchmark, or on part of one, is marked partial.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from prm.errors import DataError
from prm.evaluation.baselines.responses import RESPONSE_BASELINES
from prm.evaluation.baselines.steps import STEP_BASELINES
from prm.evaluation.benchmarks import Benchmark, benchmark_of
from prm.evaluation.parts import Part
from prm.evaluation.predictions import Predictions
from prm.evaluation.response_study import ResponseResults, study_responses
from prm.evaluation.step_study import StepResults, study_steps
from prm.metrics.intervals import cluster_bootstrap
from prm.records import Chain, Outcome, Record
from prm.spec import RewardSpec

SCHEMA_VERSION = 1

SHARED_CONVENTIONS = {
    "interval": "95 % bootstrap over problems or prompts (groups), corrected for bias and skewness",
    "difference": "model minus baseline, on the same units and resamples; better or worse if the "
    "interval excludes 0",
}
STEP_CONVENTIONS = {
    "first_error": "first step with a probability strictly below the threshold",
    "incomplete": "a chain cut short without a flagged step has no prediction and counts as wrong",
    "processbench_f1_oracle": "at the best threshold on these labels: an upper bound, not a result",
}
RESPONSE_CONVENTIONS = {
    "ties": "equal scores are wrong in pair_accuracy and count half in pair_accuracy_half; "
    "comparisons without a better response are left out and counted",
    "rankings": "all pairs of different rank, a ranking counting as one comparison",
    "probability": "of a value of 1: the sigmoid of the score's log-odds, or the score itself, "
    "clipped to [0, 1], where it is in the units of the labels; ece and brier are of it, and for "
    "values of 0 and 1 only",
    "minimum_domain": "lowest pair_accuracy_half over the domains that were scored, a domain being "
    "a source or its subset; chance makes it lower than the lowest true accuracy, the more so the "
    "fewer prompts and the more domains there are, so it has no interval",
    "reward": "the aggregated reward, on the comparisons of each objective",
    "unscored": "a record with a response that the model did not score is left out, for baselines "
    "too, and counted; a report with such records is partial",
}


@dataclass(frozen=True, slots=True)
class Report:
    """The result of `evaluate`; that of a joint model has both kinds of results.

    Args:
        settings: Threshold, seed and number of resamples.
        steps: Results on scored steps, if there are any.
        responses: Results on scored responses, if there are any.
        predictions: What was evaluated; written apart.
        data_sha256: Hash of the evaluated rows, independent of their order.
        context: What the caller knows: model, aggregation, tokenizer, time.
    """

    settings: dict[str, Any]
    steps: StepResults | None
    responses: ResponseResults | None
    predictions: Predictions
    data_sha256: str
    context: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """Kind of the models that give such results: `process`, `outcome` or `joint`."""
        if self.steps is None:
            return "outcome"
        return "process" if self.responses is None else "joint"

    @property
    def objectives(self) -> Mapping[str, Any]:
        """The results of each objective of responses."""
        return {} if self.responses is None else self.responses.objectives

    @property
    def benchmark(self) -> Benchmark | None:
        """The benchmark that every source is a subset of."""
        return benchmark_of(self._counts())

    @property
    def missing(self) -> dict[str, int]:
        """What a whole run of the benchmark has and this one has not."""
        benchmark = self.benchmark
        return {} if benchmark is None else benchmark.missing(self._counts())

    @property
    def partial(self) -> bool:
        """Whether the numbers are about part of a benchmark or of the data."""
        return bool(self.missing or (self.responses and self.responses.unscored))

    def _counts(self) -> Counter[str]:
        """Return how many records of each source were evaluated."""
        return Counter(record.source for record in self.predictions.records)

    def parts(self) -> list[Part]:
        """Return the results on all records: of steps, and of each objective of responses."""
        steps = [self.steps.overall] if self.steps else []
        return [*steps, *(result.overall for result in self.objectives.values())]

    def sources(self) -> list[Mapping[str, Part]]:
        """Return the results by source: of steps, and of each objective of responses."""
        steps = [self.steps.sources] if self.steps else []
        return [*steps, *(result.sources for result in self.objectives.values())]

    def conventions(self) -> dict[str, str]:
        """Return what the numbers mean: by metric, by baseline, and what holds for all."""
        shown = [metric for part in self.parts() for metric in part.decided]
        texts = [*SHARED_CONVENTIONS.items(), *((m.name, m.convention) for m in shown)]
        if self.steps:
            texts += [*STEP_CONVENTIONS.items(), *((b.name, b.convention) for b in STEP_BASELINES)]
        if self.responses:
            texts += RESPONSE_CONVENTIONS.items()
            texts += [(b.name, b.convention) for b in RESPONSE_BASELINES]
        conventions: dict[str, str] = {}
        for name, text in texts:
            before = conventions.get(name, text)
            conventions[name] = text if text == before else f"{before}; {text}"
        return conventions

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values, without the predictions."""
        return {
            "schema": f"prm.{self.kind}-report",
            "schema_version": SCHEMA_VERSION,
            "benchmark": None if self.benchmark is None else self.benchmark.name,
            "partial": self.partial,
            "missing": self.missing,
            "settings": self.settings,
            "conventions": self.conventions(),
            "context": dict(self.context),
            "data_sha256": self.data_sha256,
            **(self.steps.to_dict() if self.steps else {}),
            **(self.responses.to_dict() if self.responses else {}),
        }


def evaluate(
    predictions: Predictions,
    spec: RewardSpec | None = None,
    training: Iterable[Record] | None = None,
    *,
    seed: int = 0,
    num_resamples: int = 1000,
    in_label_units: Collection[str] = (),
    context: Mapping[str, Any] | None = None,
) -> Report:
    """Measure scores against labels, all in all and by source, beside trivial baselines.

    Args:
        predictions: The scored chains, comparisons and ratings; baselines are measured on the same
            steps and responses.
        spec: Names, directions and utilities of the objectives; needed for responses.
        training: Records that the baselines learn from, chains for those of steps; without them
            there is only the one that learns nothing.
        seed: Seed of the bootstrap.
        num_resamples: Bootstrap resamples; 0 gives no intervals.
        in_label_units: Objectives whose scores are in the units of their values, as squared error
            and likelihoods of the value train them. Scores of others are read as log-odds.
        context: Facts for the report: model, tokenizer, aggregation, separators, wall time.

    Raises:
        DataError: There are no predictions, scores do not have one column per objective, or the
            baselines of steps cannot learn from `training`.

    Example:
        >>> from prm.evaluation.steps import StepPrediction
        >>> chain = Chain("1 + 1 + 1?", ["1 + 1 = 2", "2 + 1 = 4"], [1, 0], source="toy")
        >>> predictions = Predictions([StepPrediction(chain, (0.9, 0.2))])
        >>> report = evaluate(predictions, num_resamples=0)
        >>> report.steps.overall.scores["model"]["step_auroc"].value
        1.0
    """
    if not predictions:
        raise DataError("there is nothing to evaluate", expected="at least one record", got=0)
    bootstrap = partial(cluster_bootstrap, num_resamples=num_resamples, seed=seed)
    chains, outcomes = _split(training)
    settings: dict[str, Any] = {"seed": seed, "num_resamples": num_resamples}
    steps = responses = None
    if predictions.steps:
        settings = {"threshold": predictions.threshold, **settings}
        steps = study_steps(predictions.steps, chains, predictions.threshold, bootstrap)
    if predictions.responses:
        responses = study_responses(
            predictions.responses, spec or RewardSpec(), outcomes, in_label_units, bootstrap
        )
    return Report(settings, steps, responses, predictions, _data_hash(predictions), context or {})


def _split(records: Iterable[Record] | None) -> tuple[list[Chain] | None, list[Outcome] | None]:
    """Return the chains among training records, and the others."""
    if records is None:
        return None, None
    chains: list[Any] = []
    outcomes: list[Any] = []
    for record in records:
        (chains if isinstance(record, Chain) else outcomes).append(record)
    return chains, outcomes


def _data_hash(predictions: Predictions) -> str:
    rows = sorted(json.dumps(record.to_row(), sort_keys=True) for record in predictions.records)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()
