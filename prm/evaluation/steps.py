"""All metrics of one set of scored chains, with intervals clustered by problem."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from prm.errors import DataError
from prm.metrics.binary import (
    Ranking,
    brier_score,
    expected_calibration_error,
    weighted_mean,
)
from prm.metrics.first_error import (
    CLEAN,
    UNDECIDED,
    best_threshold,
    first_error_rates,
    predict_first_error,
)
from prm.metrics.intervals import Interval, cluster_bootstrap, group_indices, make_interval
from prm.records import CORRECTNESS, Chain

Array = NDArray[np.float64]

STEP_METRICS = ("step_auroc", "error_ap", "ece", "brier")
CHAIN_METRICS = (
    "first_error_accuracy",
    "error_acc",
    "correct_acc",
    "processbench_f1",
    "error_recall",
    "min_on_last_step",
)


@dataclass(frozen=True, slots=True)
class StepPrediction:
    """The step probabilities of one chain.

    Args:
        chain: The chain, with labels where they are known.
        probabilities: Probability of being correct in [0, 1], one per step; `None` is a step that
            was not scored.
        reason: Why steps were not scored (`"truncated at 4096 tokens"`). Empty steps are never
            scored and need none. A chain with a reason and no flagged step has no prediction.

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

    def first_error(self, threshold: float) -> int:
        """Return the predicted first error, as `predict_first_error` codes it."""
        return predict_first_error(self.array, threshold, complete=not self.reason)


def true_first_error(chain: Chain) -> int:
    """Return the labeled first error, `CLEAN` or `UNDECIDED`.

    Example:
        >>> true_first_error(Chain("?", ["a", "b"], [1, None]))
        -2
    """
    first = chain.first_error()
    return UNDECIDED if first is None else first


class Slice:
    """One set of scored chains as arrays, measured under any weighting of its problems.

    Args:
        predictions: The scored chains.
        threshold: A step is judged wrong strictly below it.
        num_bins: Bins of the calibration error.
    """

    def __init__(
        self, predictions: Sequence[StepPrediction], threshold: float, num_bins: int = 15
    ) -> None:
        self.predictions = predictions
        self.num_bins = num_bins
        self.chain_group = group_indices([p.chain.group for p in predictions])
        self.num_groups = int(self.chain_group.max(initial=-1)) + 1
        self.predicted = np.array([p.first_error(threshold) for p in predictions], dtype=np.int64)
        self.true = np.array([true_first_error(p.chain) for p in predictions], dtype=np.int64)
        self._collect_steps()

    def _collect_steps(self) -> None:
        rows = [
            (probability, label, group)
            for prediction, group in zip(self.predictions, self.chain_group, strict=True)
            for probability, label in zip(
                prediction.probabilities,
                prediction.chain.labels.get(CORRECTNESS, [None] * len(prediction.probabilities)),
                strict=True,
            )
            if probability is not None and label is not None
        ]
        self.probability = np.array([row[0] for row in rows], dtype=np.float64)
        self.label = np.array([row[1] for row in rows], dtype=np.float64)
        self.step_group = np.array([row[2] for row in rows], dtype=np.int64)

    @cached_property
    def ranking(self) -> Ranking:
        """The labeled steps, sorted by probability."""
        return Ranking(self.probability, self.label, self.step_group)

    @cached_property
    def min_on_last_step(self) -> Array:
        """1 where the last scored step alone has the lowest probability; NaN for fewer than two."""
        return np.array([_min_is_last(p.array) for p in self.predictions])

    def measure(self, multiplicity: Array) -> Array:
        """Return `STEP_METRICS` and then `CHAIN_METRICS`, each group counting that often."""
        steps, chains = multiplicity[self.step_group], multiplicity[self.chain_group]
        rates = first_error_rates(self.predicted, self.true, chains)
        several = ~np.isnan(self.min_on_last_step)
        return np.array(
            [
                self.ranking.auroc(multiplicity),
                self.ranking.error_ap(multiplicity),
                expected_calibration_error(
                    self.probability, self.label, steps, num_bins=self.num_bins
                ),
                brier_score(self.probability, self.label, steps),
                rates.first_error_accuracy,
                rates.error_acc,
                rates.correct_acc,
                rates.f1,
                rates.error_recall,
                weighted_mean(self.min_on_last_step[several], chains[several]),
            ]
        )

    def counts(self) -> dict[str, int]:
        """Return how much of what the numbers rest on."""
        return {
            "num_chains": len(self.predictions),
            "num_groups": self.num_groups,
            "num_steps": sum(len(p.probabilities) for p in self.predictions),
            "num_labeled_steps": len(self.label),
            "num_wrong_steps": int((self.label < 0.5).sum()),
            "num_error_chains": int((self.true >= 0).sum()),
            "num_clean_chains": int((self.true == CLEAN).sum()),
            "num_undecided_chains": int((self.true == UNDECIDED).sum()),
            "num_unscored_steps": sum(p.probabilities.count(None) for p in self.predictions),
            "num_truncated_chains": sum(bool(p.reason) for p in self.predictions),
        }

    def metrics(self, num_resamples: int, seed: int) -> dict[str, Interval]:
        """Return every metric with its interval."""
        names = STEP_METRICS + CHAIN_METRICS
        value, low, high = cluster_bootstrap(
            self.measure, self.num_groups, num_resamples=num_resamples, seed=seed
        )
        units = self._units()
        return {
            name: make_interval(value[i], low[i], high[i], units[name], self.num_groups)
            for i, name in enumerate(names)
        }

    def _units(self) -> dict[str, int]:
        """Return how many steps or chains each metric is about."""
        errors, clean = int((self.true >= 0).sum()), int((self.true == CLEAN).sum())
        return {
            **dict.fromkeys(STEP_METRICS, len(self.label)),
            "first_error_accuracy": errors + clean,
            "error_acc": errors,
            "correct_acc": clean,
            "processbench_f1": errors + clean,
            "error_recall": errors,
            "min_on_last_step": int((~np.isnan(self.min_on_last_step)).sum()),
        }

    def oracle(self) -> dict[str, float | None]:
        """Return the best threshold on these very labels and its F1: an upper bound."""
        threshold, f1 = best_threshold(
            [p.array for p in self.predictions], self.true, [not p.reason for p in self.predictions]
        )
        return {
            "threshold_oracle": None if np.isnan(threshold) else threshold,
            "processbench_f1_oracle": None if np.isnan(f1) else f1,
        }


def _min_is_last(probabilities: Array) -> float:
    scored = probabilities[~np.isnan(probabilities)]
    return float(scored[:-1].min() > scored[-1]) if len(scored) > 1 else np.nan
