"""The process report: how good step probabilities are, beside what trivial baselines reach.

Every metric comes with its number of units and a 95 % interval that resamples whole problems. The
ProcessBench headline is the unweighted mean of the F1 of its four subsets; a report on fewer of
them, or on part of one, is marked partial.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prm.errors import DataError
from prm.evaluation.baselines.steps import AlwaysCorrect, standard_baselines
from prm.evaluation.steps import Slice, StepPrediction, true_first_error
from prm.metrics.first_error import CLEAN, DEFAULT_THRESHOLD, UNSCORED, first_error_rates
from prm.metrics.intervals import Interval, cluster_bootstrap, group_indices, make_interval
from prm.records import Chain

SCHEMA = "prm.process-report"
SCHEMA_VERSION = 1

MODEL = "model"
"""Name of the scorer under evaluation, among the baselines."""

PROCESSBENCH_SIZES = {"gsm8k": 400, "math": 1000, "olympiadbench": 1000, "omnimath": 1000}
"""Chains per subset; sources are named `processbench/<subset>`."""

CONVENTIONS = {
    "interval": "95 % percentile bootstrap over problems (groups)",
    "step_auroc": "a soft label of 0.5 and above is correct; a tie counts half",
    "error_ap": "average precision with the wrong step as the positive class",
    "ece": "15 bins of equal width, probability against observed frequency of correct steps",
    "first_error": "first step with a probability strictly below the threshold",
    "incomplete": "a chain cut short without a flagged step has no prediction and counts as wrong",
    "processbench_f1": "harmonic mean of error_acc and correct_acc; 0 when both are 0",
    "min_on_last_step": "share of chains of two or more steps whose last step alone is lowest",
    "processbench_f1_oracle": "at the best threshold on these labels: an upper bound, not a result",
}


@dataclass(frozen=True, slots=True)
class Scores:
    """What one scorer reaches on one set of chains.

    Args:
        counts: Numbers of chains, steps and problems the metrics rest on.
        metrics: Metric name to its value and interval.
        oracle: Threshold and F1 chosen on the evaluated labels.
    """

    counts: dict[str, int]
    metrics: dict[str, Interval]
    oracle: dict[str, float | None]


@dataclass(frozen=True)
class ProcessReport:
    """The result of `evaluate`.

    Args:
        settings: Threshold, seed and number of resamples.
        overall: Scorer name (`"model"` and baselines) to its scores on all chains.
        sources: Scorer name to source name to scores.
        means: Scorer name to `macro_f1` (unweighted over sources) and `count_weighted_f1`.
        benchmark: `"processbench"` if every source is a subset of it.
        missing: What a complete run of the benchmark has and this one has not.
        breakdowns: The model's scores on parts of the data, by property and value.
        first_error_offsets: Predicted minus true first error to number of chains with an error;
            `"missed"` where no step was flagged, `"unscored"` where there is no prediction.
        data_sha256: Hash of the evaluated rows, independent of their order.
        context: What the caller knows: model, aggregation, separators, time.
        predictions: What was evaluated; written apart.
    """

    settings: dict[str, Any]
    overall: dict[str, Scores]
    sources: dict[str, dict[str, Scores]]
    means: dict[str, dict[str, Interval]]
    benchmark: str | None
    missing: dict[str, int]
    breakdowns: dict[str, dict[str, Scores]]
    first_error_offsets: dict[str, int]
    data_sha256: str
    context: Mapping[str, Any]
    predictions: tuple[StepPrediction, ...]

    @property
    def partial(self) -> bool:
        """Whether only part of a benchmark was run, so that no headline may be printed."""
        return bool(self.missing)

    @cached_property
    def arrays(self) -> Slice:
        """All chains as arrays, for plots."""
        return Slice(self.predictions, self.settings["threshold"])

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values, without the predictions."""
        return {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "benchmark": self.benchmark,
            "partial": self.partial,
            "missing": self.missing,
            "settings": self.settings,
            "conventions": CONVENTIONS,
            "context": dict(self.context),
            "data_sha256": self.data_sha256,
            "overall": _plain(self.overall),
            "sources": {name: _plain(scores) for name, scores in self.sources.items()},
            "means": {
                name: {mean: asdict(interval) for mean, interval in means.items()}
                for name, means in self.means.items()
            },
            "breakdowns": {name: _plain(scores) for name, scores in self.breakdowns.items()},
            "first_error_offsets": self.first_error_offsets,
        }


def evaluate(
    predictions: Sequence[StepPrediction],
    *,
    train_chains: Sequence[Chain] | None = None,
    threshold: float = DEFAULT_THRESHOLD,
    seed: int = 0,
    num_resamples: int = 1000,
    context: Mapping[str, Any] | None = None,
) -> ProcessReport:
    """Measure step probabilities against labels, over all chains and by source.

    Args:
        predictions: The scored chains; baselines are measured on the same steps.
        train_chains: Labeled chains that the baselines learn from; without them, only
            always-correct is shown.
        threshold: A step is judged wrong strictly below it.
        seed: Seed of the bootstrap.
        num_resamples: Bootstrap resamples; 0 gives no intervals.
        context: Facts for the report: model, tokenizer, aggregation, separators, wall time.

    Raises:
        DataError: There are no predictions, or the baselines cannot learn from `train_chains`.

    Example:
        >>> chain = Chain("1 + 1 + 1?", ["1 + 1 = 2", "2 + 1 = 4"], [1, 0], source="toy")
        >>> report = evaluate([StepPrediction(chain, (0.9, 0.2))], num_resamples=0)
        >>> report.overall["model"].metrics["step_auroc"].value
        1.0
    """
    if not predictions:
        raise DataError("there is nothing to evaluate", expected="at least one scored chain", got=0)

    def score(subset: Sequence[StepPrediction]) -> Scores:
        part = Slice(subset, threshold)
        return Scores(part.counts(), part.metrics(num_resamples, seed), part.oracle())

    def score_parts(parts: Mapping[str, Sequence[StepPrediction]]) -> dict[str, Scores]:
        return {name: score(rows) for name, rows in parts.items()}

    systems = {MODEL: tuple(predictions), **_baseline_predictions(predictions, train_chains)}
    overall = score_parts(systems)
    by_source = {name: _by(rows, lambda p: p.chain.source) for name, rows in systems.items()}
    benchmark, missing = _benchmark({name: len(rows) for name, rows in by_source[MODEL].items()})
    return ProcessReport(
        settings={"threshold": threshold, "seed": seed, "num_resamples": num_resamples},
        overall=overall,
        sources={
            name: score_parts(parts) if len(parts) > 1 else dict.fromkeys(parts, overall[name])
            for name, parts in by_source.items()
        },
        means={
            name: _mean_f1(Slice(rows, threshold), num_resamples, seed)
            for name, rows in systems.items()
        },
        benchmark=benchmark,
        missing=missing,
        breakdowns={name: score_parts(p) for name, p in _breakdowns(predictions).items()},
        first_error_offsets=_offsets(predictions, threshold),
        data_sha256=_data_hash([p.chain for p in predictions]),
        context=context or {},
        predictions=tuple(predictions),
    )


def _baseline_predictions(
    predictions: Sequence[StepPrediction], train_chains: Sequence[Chain] | None
) -> dict[str, tuple[StepPrediction, ...]]:
    """Return the predictions of each baseline for exactly the steps that the model scored."""
    baselines = [AlwaysCorrect()] if train_chains is None else standard_baselines()
    chains = [p.chain for p in predictions]
    result = {}
    for baseline in baselines:
        probabilities = baseline.fit(train_chains or ()).predict(chains)
        result[baseline.name] = tuple(
            _same_steps(prediction, values)
            for prediction, values in zip(predictions, probabilities, strict=True)
        )
    return result


def _same_steps(prediction: StepPrediction, probabilities: Sequence[float]) -> StepPrediction:
    shown = tuple(
        None if scored is None else value
        for scored, value in zip(prediction.probabilities, probabilities, strict=True)
    )
    return StepPrediction(prediction.chain, shown, prediction.reason)


def _by(
    predictions: Sequence[StepPrediction], key: Callable[[StepPrediction], str | None]
) -> dict[str, list[StepPrediction]]:
    """Return the predictions by key, keys sorted; `None` leaves a prediction out."""
    parts: dict[str, list[StepPrediction]] = {}
    for prediction in predictions:
        name = key(prediction)
        if name is not None:
            parts.setdefault(name, []).append(prediction)
    return dict(sorted(parts.items()))


def _breakdowns(
    predictions: Sequence[StepPrediction],
) -> dict[str, dict[str, list[StepPrediction]]]:
    def metadata(name: str) -> Callable[[StepPrediction], str | None]:
        def value(prediction: StepPrediction) -> str | None:
            found = prediction.chain.metadata.get(name)
            return None if found is None else str(found)

        return value

    def right_answer(prediction: StepPrediction) -> str | None:
        chain = prediction.chain
        wrong_process = true_first_error(chain) >= 0
        return "true" if wrong_process and chain.metadata.get("final_answer_correct") else None

    parts = {
        "error_kind": _by(predictions, metadata("error_kind")),
        "difficulty": _by(predictions, metadata("difficulty")),
        "right_answer_wrong_process": _by(predictions, right_answer),
    }
    return {name: part for name, part in parts.items() if part}


def _mean_f1(part: Slice, num_resamples: int, seed: int) -> dict[str, Interval]:
    """Return the mean of the sources' F1, unweighted and weighted by decided chains."""
    source = group_indices([p.chain.source for p in part.predictions])
    members = [source == index for index in range(int(source.max()) + 1)]

    def means(multiplicity: NDArray[np.float64]) -> list[float]:
        weight = multiplicity[part.chain_group]
        rates = [first_error_rates(part.predicted[m], part.true[m], weight[m]) for m in members]
        f1 = np.array([rate.f1 for rate in rates])
        sizes = np.array([(weight[m] * (part.true[m] >= CLEAN)).sum() for m in members])
        total = sizes.sum()
        return [float(f1.mean()), float((f1 * sizes).sum() / total) if total else np.nan]

    value, low, high = cluster_bootstrap(
        means, part.num_groups, num_resamples=num_resamples, seed=seed
    )
    decided = int((part.true >= CLEAN).sum())
    return {
        name: make_interval(value[i], low[i], high[i], decided, part.num_groups)
        for i, name in enumerate(("macro_f1", "count_weighted_f1"))
    }


def _benchmark(sizes: Mapping[str, int]) -> tuple[str | None, dict[str, int]]:
    """Return the benchmark that all sources belong to, and how many chains of it are missing.

    Example:
        >>> _benchmark({"processbench/gsm8k": 400, "processbench/math": 1000})[1]
        {'olympiadbench': 1000, 'omnimath': 1000}
    """
    subsets = {f"processbench/{name}": name for name in PROCESSBENCH_SIZES}
    if not set(sizes) <= set(subsets):
        return None, {}
    missing = {
        name: PROCESSBENCH_SIZES[name] - sizes.get(source, 0) for source, name in subsets.items()
    }
    return "processbench", {name: count for name, count in missing.items() if count > 0}


def _offsets(predictions: Sequence[StepPrediction], threshold: float) -> dict[str, int]:
    pairs = [(p.first_error(threshold), true_first_error(p.chain)) for p in predictions]
    guesses = [(guess, true) for guess, true in pairs if true >= 0]
    counts = Counter(guess - true for guess, true in guesses if guess >= 0)
    return {
        **{str(offset): counts[offset] for offset in sorted(counts)},
        "missed": sum(guess == CLEAN for guess, _ in guesses),
        "unscored": sum(guess == UNSCORED for guess, _ in guesses),
    }


def _data_hash(chains: Sequence[Chain]) -> str:
    rows = sorted(json.dumps(chain.to_row(), sort_keys=True) for chain in chains)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def _plain(scores: Mapping[str, Scores]) -> dict[str, Any]:
    return {name: asdict(value) for name, value in scores.items()}
