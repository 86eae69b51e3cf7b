"""Gated rewards: thresholds, the safety gate of Llama 2, and weights chosen by the prompt.

Gates compare utilities with absolute thresholds, so they act before any group normalization,
which erases these.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from prm.aggregation.base import Missing, ObjectiveAggregation
from prm.aggregation.weights import (
    WeightedAggregation,
    check_known,
    finite_number,
    finite_numbers,
)
from prm.errors import ConfigError, DataError


class Thresholded(WeightedAggregation):
    """Constraints first, then the weighted sum, as in a lexicographic order.

        R = max(sum_k w_k u_k, floor)                if u_j >= t_j for every threshold t_j
        R = floor - sum_j max(0, t_j - u_j)          otherwise

    An answer that misses a threshold is strictly below every answer that meets all of them, and
    the reward is monotone.

    Args:
        thresholds: The utility to reach, for one objective or more; 0 is probability one half.
        weights: As in `WeightedAggregation`; without them each is `1/K`.
        floor: The lowest reward of an answer that meets all thresholds.
        missing: `renormalize` scales the weights of the present objectives to keep their total;
            an answer is NaN where an objective that has a threshold is missing.

    Example:
        >>> gate = Thresholded({"safety": 0.0}, {"helpfulness": 1, "safety": 0})
        >>> gate(torch.tensor([[2.0, 0.1], [9.0, -0.5]]), ["helpfulness", "safety"])
        tensor([  2.0000, -10.5000])
    """

    name = "thresholded"

    def __init__(
        self,
        thresholds: dict[str, float],
        weights: dict[str, float] | None = None,
        *,
        floor: float = -10.0,
        missing: Missing = "nan",
    ) -> None:
        super().__init__(weights, missing=missing)
        self.thresholds = finite_numbers(thresholds, "thresholds")
        self.floor = finite_number(floor, "floor of thresholded")
        if not self.thresholds:
            raise ConfigError("thresholds of thresholded", expected="at least one", got="none")

    def check(self, objectives: Sequence[str]) -> None:
        super().check(objectives)
        check_known(self.thresholds, objectives, "thresholds of thresholded")

    def reads(self, objectives: Sequence[str]) -> Collection[str]:
        return {*super().reads(objectives), *self.thresholds}

    def requires(self, objectives: Sequence[str]) -> Collection[str]:
        return self.thresholds

    def reduce(self, values: Tensor, present: Tensor, objectives: Sequence[str]) -> Tensor:
        thresholds = [self.thresholds.get(name, -math.inf) for name in objectives]
        shortfalls = (values.new_tensor(thresholds) - values).clamp(min=0.0)
        floor = values.new_tensor(self.floor)
        below = torch.nextafter(floor, values.new_tensor(-math.inf))
        punished = torch.minimum(floor - shortfalls.sum(dim=-1), below)
        satisfied = self.weighted_sum(values, present, objectives).clamp(min=self.floor)
        return satisfied.where(~shortfalls.any(dim=-1), punished)


class SafetyGate(ObjectiveAggregation):
    """Helpfulness, unless the answer is unsafe: the reward of Llama 2.

        R = u_safety         if sigmoid(u_safety) < threshold
        R = u_helpfulness    otherwise

    Not monotone: an answer that becomes safer leaves the gate, and its helpfulness may be lower
    than its safety was. Other objectives are not read.

    Args:
        helpfulness: Name of the objective that counts for safe answers.
        safety: Name of the objective that the gate reads.
        threshold: Probability of being safe below which safety counts, in (0, 1).
        missing: `renormalize` needs only the objective that the reward is taken from: the
            helpfulness of an unsafe answer may be missing. Without its safety an answer is NaN.

    Source: Touvron et al. 2023 (arXiv 2307.09288), section 3.2.3; the authors also send prompts
    known to be about safety through the gate, whatever the answer's score.
    """

    name = "safety_gate"

    def __init__(
        self,
        helpfulness: str = "helpfulness",
        safety: str = "safety",
        *,
        threshold: float = 0.15,
        missing: Missing = "nan",
    ) -> None:
        super().__init__(missing=missing)
        self.helpfulness = helpfulness
        self.safety = safety
        self.threshold = finite_number(threshold, "threshold of safety_gate")
        if not 0 < self.threshold < 1:
            raise ConfigError("threshold of safety_gate", expected="in (0, 1)", got=threshold)
        if helpfulness == safety:
            raise ConfigError("objectives of safety_gate", expected="two names", got=safety)

    @property
    def monotone(self) -> bool:
        return False

    def check(self, objectives: Sequence[str]) -> None:
        super().check(objectives)
        check_known((self.helpfulness, self.safety), objectives, "safety_gate")

    def reads(self, objectives: Sequence[str]) -> Collection[str]:
        return (self.helpfulness, self.safety)

    def requires(self, objectives: Sequence[str]) -> Collection[str]:
        return (self.safety,)

    def reduce(self, values: Tensor, present: Tensor, objectives: Sequence[str]) -> Tensor:
        column = list(objectives).index(self.helpfulness)
        helpfulness = values[..., column].masked_fill(~present[..., column], math.nan)
        safety = values[..., list(objectives).index(self.safety)]
        log_odds = math.log(self.threshold) - math.log1p(-self.threshold)
        return safety.where(safety < log_odds, helpfulness)


class Gated(ObjectiveAggregation):
    """Weights chosen by the prompt: `R = sum_k g_k u'_k`, with the gates `g` of the model.

    The gates of a row are probabilities: 0 or above, summing to 1 over the objectives. With
    penalties, `u'_k = u_k - factor_k u_against` takes out of an objective what it shares with
    another, such as length; `decorrelation_factors` finds the factors.

    Args:
        penalties: Factor of each objective to correct, 0 or above; the others are left alone.
        against: Name of the objective that is subtracted; with penalties only. The reward is not
            monotone then.
        missing: `renormalize` scales the gates of the present objectives to sum to 1; a row is
            NaN where these gates are all 0, or where `against` is missing.

    Source: Wang et al. 2024 (arXiv 2406.12845), section 3.
    """

    name = "gated"
    needs_gates = True

    def __init__(
        self,
        penalties: dict[str, float] | None = None,
        against: str | None = None,
        *,
        missing: Missing = "nan",
    ) -> None:
        super().__init__(missing=missing)
        self.penalties = None if penalties is None else finite_numbers(penalties, "penalties")
        self.against = against
        self._check_penalties()

    def _check_penalties(self) -> None:
        factors = self.penalties or {}
        if bool(factors) != (self.against is not None):
            raise ConfigError(
                "penalties of gated",
                expected="both penalties and against, or neither",
                got=f"penalties {self.penalties}, against {self.against}",
            )
        if self.against in factors or any(factor < 0 for factor in factors.values()):
            expected = "factors of 0 or above, none for the objective that is subtracted"
            raise ConfigError("penalties of gated", expected=expected, got=factors)

    @property
    def monotone(self) -> bool:
        return not any((self.penalties or {}).values())

    def check(self, objectives: Sequence[str]) -> None:
        super().check(objectives)
        if self.against is not None:
            check_known([*(self.penalties or ()), self.against], objectives, "penalties of gated")

    def requires(self, objectives: Sequence[str]) -> Collection[str]:
        return () if self.against is None else (self.against,)

    def reduce_gated(
        self, values: Tensor, present: Tensor, objectives: Sequence[str], gates: Tensor | None
    ) -> Tensor:
        kept = _probabilities(gates, values).where(present, 0.0)
        total = kept.sum(dim=-1)
        reward = (kept * self.corrected(values, objectives)).sum(dim=-1)
        return (reward / total.where(total > 0, 1.0)).masked_fill(total == 0, math.nan)

    def corrected(self, utilities: Tensor, objectives: Sequence[str]) -> Tensor:
        """Return `u_k - factor_k u_against`, of the shape of the utilities."""
        if self.against is None or self.penalties is None:
            return utilities
        factors = utilities.new_tensor([self.penalties.get(name, 0.0) for name in objectives])
        column = list(objectives).index(self.against)
        return utilities - factors * utilities[..., column, None]


def _probabilities(gates: Tensor | None, values: Tensor) -> Tensor:
    if gates is None:
        raise ConfigError(
            "gated needs the gates of each row",
            fix="Use a model with a gating head, or an aggregation with fixed weights.",
        )
    if gates.shape != values.shape:
        expected, got = str(tuple(values.shape)), tuple(gates.shape)
        raise DataError("gates and utilities differ in shape", expected=expected, got=got)
    totals = gates.to(values.dtype).sum(dim=-1)
    if not ((gates >= 0).all() and ((totals - 1).abs() < 1e-2).all()):
        raise DataError(
            "gates are no probabilities",
            expected="0 or above, summing to 1 over the objectives of each row",
            got=f"sums from {totals.min().item():.4g} to {totals.max().item():.4g}",
        )
    return gates.to(values.dtype)
