"""Scored chains: what scorers say of every step, as units of labeled steps and of whole chains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np

from prm.arrays import Array, Indices
from prm.data.groups import problem_groups
from prm.errors import DataError
from prm.evaluation.parts import MODEL, Bootstrap, Part, measure_part
from prm.metrics.binary import StepUnits, strata_of, weighted_mean
from prm.metrics.first_error import (
    CORRECT_ACC,
    ERROR_ACC,
    FIRST_ERROR_ACCURACY,
    PROCESSBENCH_F1,
    UNDECIDED,
    ChainUnits,
    best_threshold,
    lowest_is_last,
    predict_first_error,
)
from prm.metrics.intervals import group_indices, renumbered
from prm.metrics.metric import Measures, Metric, Units
from prm.records import CORRECTNESS, Chain


@dataclass(frozen=True, slots=True)
class StepPrediction:
    """The step probabilities of one chain.

    Args:
        chain: The chain, with labels where they are known.
        probabilities: Probability of being correct in [0, 1], one per step; `None` is a step that
            was not scored.
        reason: Why steps were not scored (`"truncated at 4096 tokens"`). Empty steps are never
            scored and need none. A chain with a reason and no flagged step has no prediction.
        objective: The objective whose labels the probabilities are held against.

    Raises:
        DataError: The number of probabilities is not the number of steps, one is outside [0, 1]
            or NaN, or a step with text is not scored and no reason is given.

    Example:
        >>> StepPrediction(Chain("1 + 1?", ["= 3"], [0]), (0.2,)).first_error(threshold=0.5)
        0
    """

    chain: Chain
    probabilities: tuple[float | None, ...]
    reason: str = ""
    objective: str = CORRECTNESS

    def __post_init__(self) -> None:
        chain = self.chain
        where = ", ".join(part for part in (chain.origin, f"row {chain.id!r}") if part)
        if len(self.probabilities) != len(chain.completions):
            raise DataError(
                "probabilities do not match the steps",
                expected=f"{len(chain.completions)} probabilities, one per step",
                got=len(self.probabilities),
                where=where,
            )
        for index, (step, value) in enumerate(
            zip(chain.completions, self.probabilities, strict=True)
        ):
            if value is None and step.strip() and not self.reason:
                raise DataError(f"step {index} has no probability and no reason", where=where)
            if value is not None and not 0 <= value <= 1:
                raise DataError(
                    f"probability {index} is wrong", expected="[0, 1]", got=value, where=where
                )

    @property
    def array(self) -> Array:
        """The probabilities, NaN where a step was not scored."""
        return np.array([np.nan if p is None else p for p in self.probabilities])

    @property
    def labels(self) -> Sequence[float | None]:
        """The label of each step, `None` where there is none."""
        return self.chain.labels.get(self.objective, (None,) * len(self.probabilities))

    @property
    def true_first_error(self) -> int:
        """The labeled first error, `CLEAN` or `UNDECIDED`.

        Example:
            >>> StepPrediction(Chain("?", ["a", "b"], [1, None]), (0.9, 0.2)).true_first_error
            -2
        """
        first = self.chain.first_error(self.objective)
        return UNDECIDED if first is None else first

    def first_error(self, threshold: float) -> int:
        """Return the predicted first error, as `predict_first_error` codes it."""
        return predict_first_error(self.array, threshold, complete=not self.reason)

    def with_probabilities(self, probabilities: Sequence[float]) -> StepPrediction:
        """Return what another scorer says of the steps that this one scored."""
        shown = tuple(
            None if scored is None else value
            for scored, value in zip(self.probabilities, probabilities, strict=True)
        )
        return StepPrediction(self.chain, shown, self.reason, self.objective)

    def to_row(self, threshold: float) -> dict[str, Any]:
        """Return the row of `predictions.jsonl`: probabilities, labels and first errors."""
        chain = self.chain
        return {
            "id": chain.id,
            "source": chain.source,
            "group": chain.group,
            "probabilities": list(self.probabilities),
            "labels": chain.labels.get(self.objective),
            "first_error": chain.first_error(self.objective),
            "predicted_first_error": self.first_error(threshold),
            "reason": self.reason,
        }


class LabeledStep(NamedTuple):
    """A step that was scored and has a label.

    Args:
        chain: Indices of its prediction.
        position: Its index in the chain.
        probability: Probability of being correct.
        label: Step label in [0, 1].
    """

    chain: int
    position: int
    probability: float
    label: float


def labeled_steps(predictions: Sequence[StepPrediction]) -> list[LabeledStep]:
    """Return the steps that were scored and have a label, in order."""
    return [
        LabeledStep(chain, position, probability, label)
        for chain, prediction in enumerate(predictions)
        for position, (probability, label) in enumerate(
            zip(prediction.probabilities, prediction.labels, strict=True)
        )
        if probability is not None and label is not None
    ]


def mean_over_sources(metric: Metric) -> Metric:
    """Return the metric that is the unweighted mean of a metric of chains over their sources.

    Example:
        >>> mean_over_sources(ERROR_ACC).name
        'macro_error_acc'
    """
    heading = metric.heading
    return replace(
        metric,
        name=f"macro_{heading.lower().replace(' ', '_')}",
        heading=f"mean {heading}",
        convention=f"unweighted mean of the {heading} of the sources",
    )


AVERAGED = {mean_over_sources(metric): metric for metric in ChainUnits.metrics}
"""Each mean over sources, and the metric of chains that it is of."""

MACRO_F1 = mean_over_sources(PROCESSBENCH_F1)
COUNT_WEIGHTED_F1 = Metric(
    "count_weighted_f1",
    "count-weighted F1",
    True,
    "mean of the F1 of the sources, weighted by their chains",
    "chains",
)


def _averaging(metric: Metric) -> Callable[[SourceUnits, Array], float]:
    return lambda units, weights: float(np.mean(units.by_source(metric, weights)))


class SourceUnits(Units):
    """Chains by source, and the means over sources of what is measured on them.

    Args:
        chains: All chains.
        sources: Number of the source of each chain, from 0 up without a gap.

    Example:
        >>> chains = ChainUnits(np.array([0, -1, -1, -1]), np.array([0, -1, 0, -1]))
        >>> means = SourceUnits(chains, np.array([0, 0, 1, 1])).values()
        >>> means["macro_f1"], means["count_weighted_f1"], means["macro_error_acc"]
        (0.5, 0.5, 0.5)
    """

    def __init__(self, chains: ChainUnits, sources: Indices) -> None:
        super().__init__(chains.groups)
        self.chains = chains
        self.members = np.eye(int(sources.max(initial=-1)) + 1)[:, sources]

    def count(self, metric: Metric) -> int:
        return self.chains.count(AVERAGED.get(metric, PROCESSBENCH_F1))

    def by_source(self, metric: Metric, weights: Array) -> list[float]:
        """Return a metric of the chains of each source, each chain counting that often."""
        measure = self.chains.metrics[metric]
        return [measure(self.chains, weights * members) for members in self.members]

    def _count_weighted(self, weights: Array) -> float:
        sizes = self.members @ (weights * self.chains.about(PROCESSBENCH_F1))
        return weighted_mean(self.by_source(PROCESSBENCH_F1, weights), sizes)

    metrics: ClassVar[Measures] = {
        **{mean: _averaging(metric) for mean, metric in AVERAGED.items()},
        COUNT_WEIGHTED_F1: _count_weighted,
    }


@dataclass(frozen=True, slots=True)
class StepPart(Part):
    """What the scorers reach on one set of chains.

    Args:
        oracle: Scorer to the threshold and F1 chosen on the evaluated labels: an upper bound.
    """

    oracle: dict[str, dict[str, float | None]]

    def by_scorer(self) -> dict[str, dict[str, Any]]:
        """Return for each scorer counts, metrics, oracle, and how far the model is from it."""
        return {
            scorer: {
                "counts": self.counts,
                "metrics": {name: asdict(interval) for name, interval in row.items()},
                "oracle": self.oracle[scorer],
                "differences": {
                    name: asdict(gain) for name, gain in self.differences.get(scorer, {}).items()
                },
            }
            for scorer, row in self.scores.items()
        }


class ScoredChains:
    """Chains with what each scorer says of their steps.

    Args:
        scorers: Scorer to its predictions of the same chains in the same order; the model first.
        threshold: A step is judged wrong strictly below it.
        groups: Number of each chain's problem, by which intervals are resampled; by default as
            splits tell problems apart.
    """

    def __init__(
        self,
        scorers: Mapping[str, Sequence[StepPrediction]],
        threshold: float,
        groups: Indices | None = None,
    ) -> None:
        self.scorers = scorers
        self.threshold = threshold
        self.model = scorers[MODEL]
        found = problem_groups([p.chain for p in self.model]) if groups is None else groups
        self.groups = renumbered(found)
        self.num_groups = int(self.groups.max(initial=-1)) + 1
        self.chains = {
            name: ChainUnits(
                np.array([p.first_error(threshold) for p in rows], dtype=np.int64),
                np.array([p.true_first_error for p in rows], dtype=np.int64),
                np.array([lowest_is_last(p.array) for p in rows]),
                self.groups,
            )
            for name, rows in scorers.items()
        }

    def select(self, keep: Sequence[bool]) -> ScoredChains:
        """Return the chains where `keep` holds."""
        kept = np.flatnonzero(keep).tolist()
        scorers = {name: [rows[index] for index in kept] for name, rows in self.scorers.items()}
        return ScoredChains(scorers, self.threshold, self.groups[kept])

    def part(self, bootstrap: Bootstrap) -> StepPart:
        """Measure all scorers."""
        units = {
            name: (self._step_units(rows), self.chains[name]) for name, rows in self.scorers.items()
        }
        part = measure_part(units, self.num_groups, self._counts(units[MODEL][0]), bootstrap)
        oracle = {name: _oracle(rows) for name, rows in self.scorers.items()}
        return StepPart(part.counts, part.kinds, part.scores, part.differences, oracle)

    def means(self, bootstrap: Bootstrap) -> Part:
        """Measure the means over sources of all scorers."""
        sources = group_indices([p.chain.source for p in self.model])
        units = {name: [SourceUnits(chains, sources)] for name, chains in self.chains.items()}
        return measure_part(units, self.num_groups, {}, bootstrap)

    def _step_units(self, predictions: Sequence[StepPrediction]) -> StepUnits:
        steps = labeled_steps(predictions)
        chains = np.array([step.chain for step in steps], dtype=np.int64)
        positions = np.array([step.position for step in steps], dtype=np.int64)
        sources = group_indices([p.chain.source for p in predictions])[chains]
        return StepUnits(
            np.array([step.probability for step in steps], dtype=np.float64),
            np.array([step.label for step in steps], dtype=np.float64),
            self.groups[chains],
            strata_of(sources, positions),
        )

    def _counts(self, steps: StepUnits) -> dict[str, int]:
        chains = self.chains[MODEL]
        return {
            "num_chains": len(self.model),
            "num_groups": self.num_groups,
            "num_steps": sum(len(p.probabilities) for p in self.model),
            "num_labeled_steps": len(steps),
            "num_wrong_steps": int((steps.label < 0.5).sum()),
            "num_error_chains": chains.count(ERROR_ACC),
            "num_clean_chains": chains.count(CORRECT_ACC),
            "num_undecided_chains": len(chains) - chains.count(FIRST_ERROR_ACCURACY),
            "num_unscored_steps": sum(p.probabilities.count(None) for p in self.model),
            "num_truncated_chains": sum(bool(p.reason) for p in self.model),
        }


def _oracle(predictions: Sequence[StepPrediction]) -> dict[str, float | None]:
    threshold, f1 = best_threshold(
        [p.array for p in predictions],
        [p.true_first_error for p in predictions],
        [not p.reason for p in predictions],
    )
    return {
        "threshold_oracle": None if np.isnan(threshold) else threshold,
        "processbench_f1_oracle": None if np.isnan(f1) else f1,
    }
