"""Rewards relative to a point: how far from the ideal, how surely above a reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional

from prm.aggregation.base import Missing
from prm.aggregation.weights import (
    WeightedAggregation,
    by_objective,
    check_names,
    finite_number,
    number_or_numbers,
)
from prm.errors import ConfigError


class AugmentedChebyshev(WeightedAggregation):
    """The largest weighted distance to an ideal point, and a little of all of them.

        d_k = w_k (ideal_k - u_k)
        R = -max_k d_k - augmentation * sum_k d_k

    With `smoothing` above 0 the maximum is `smoothing * log sum_k exp(d_k / smoothing)`.

    Args:
        weights: As in `WeightedAggregation`.
        ideal: The utility to reach, one for all objectives or one for each.
        augmentation: Share of the sum, 0 or above; 0 is the plain Chebyshev distance, to which
            improving any but the worst objective is worth nothing.
        smoothing: Width of the smooth maximum, 0 or above; 0 is the maximum.
        missing: `renormalize` takes maximum and sum over the present objectives, their weights
            scaled to keep the total.

    Source: Steuer and Choo 1983; smooth: Lin et al. 2024 (arXiv 2402.19078).
    """

    name = "augmented_chebyshev"

    def __init__(
        self,
        weights: dict[str, float] | None = None,
        *,
        ideal: float | dict[str, float] = 3.0,
        augmentation: float = 0.05,
        smoothing: float = 0.0,
        missing: Missing = "nan",
    ) -> None:
        super().__init__(weights, missing=missing)
        self.ideal = number_or_numbers(ideal, "ideal of augmented_chebyshev")
        self.augmentation = finite_number(augmentation, "augmentation of augmented_chebyshev")
        self.smoothing = finite_number(smoothing, "smoothing of augmented_chebyshev")
        if min(self.augmentation, self.smoothing) < 0:
            raise ConfigError(
                "augmentation and smoothing of augmented_chebyshev",
                expected="0 or above",
                got=(augmentation, smoothing),
            )

    def check(self, objectives: Sequence[str]) -> None:
        super().check(objectives)
        if isinstance(self.ideal, dict):
            check_names(self.ideal, objectives, "ideal of augmented_chebyshev")

    def named_parameters(self, objectives: Sequence[str]) -> dict[str, Any]:
        ideal = by_objective(self.ideal, objectives)
        return super().named_parameters(objectives) | {"ideal": ideal}

    def reduce(self, values: Tensor, present: Tensor, objectives: Sequence[str]) -> Tensor:
        ideal = values.new_tensor(list(by_objective(self.ideal, objectives).values()))
        distances = self.present_weights(present, objectives, values) * (ideal - values)
        largest = self._largest(distances.masked_fill(~present, -math.inf))
        return -largest - self.augmentation * distances.sum(dim=-1)

    def _largest(self, distances: Tensor) -> Tensor:
        if self.smoothing == 0:
            return distances.amax(dim=-1)
        return self.smoothing * (distances / self.smoothing).logsumexp(dim=-1)


class LogSigmoidSum(WeightedAggregation):
    """How likely everything is good: `R = sum_k w_k log sigmoid(u_k - reference_k)`, at most 0.

    With weights 1 it is the logarithm of the probability that the answer beats the reference in
    every objective, if the objectives are independent.

    Args:
        weights: As in `WeightedAggregation`; without them each is 1.
        reference: The utility that counts as good, one for all objectives or one for each, such
            as the 85th percentile of reference answers.
        missing: `renormalize` sums over the present objectives, their weights scaled to keep the
            total.

    Source: Wang et al. 2024 (arXiv 2402.00742).
    """

    name = "log_sigmoid_sum"

    def __init__(
        self,
        weights: dict[str, float] | None = None,
        *,
        reference: float | dict[str, float] = 0.0,
        missing: Missing = "nan",
    ) -> None:
        super().__init__(weights, missing=missing)
        self.reference = number_or_numbers(reference, "reference of log_sigmoid_sum")

    def check(self, objectives: Sequence[str]) -> None:
        super().check(objectives)
        if isinstance(self.reference, dict):
            check_names(self.reference, objectives, "reference of log_sigmoid_sum")

    def weights_of(self, objectives: Sequence[str]) -> dict[str, float]:
        if self.weights is None:
            return dict.fromkeys(objectives, 1.0)
        return super().weights_of(objectives)

    def named_parameters(self, objectives: Sequence[str]) -> dict[str, Any]:
        reference = by_objective(self.reference, objectives)
        return super().named_parameters(objectives) | {"reference": reference}

    def reduce(self, values: Tensor, present: Tensor, objectives: Sequence[str]) -> Tensor:
        reference = values.new_tensor(list(by_objective(self.reference, objectives).values()))
        return self.weighted_sum(functional.logsigmoid(values - reference), present, objectives)
