r"""Step aggregation: the scores of a chain's steps become one score.

Every aggregation reads step *log-odds* (logits), because probabilities saturate: in float32 a
step with logit 20 and one with logit 40 both have probability 1. A missing step is NaN; it is left
out, and a chain without any scored step aggregates to NaN, never to 0.

Which one to use follows from what the labels mean: labels that say "this step is correct" go with
`min` or `product`; labels that estimate the chance to reach the right answer from here (Monte
Carlo rollouts) go with `last`.

Source: min, product (Lightman et al. 2023, arXiv 2305.20050; Wang et al. 2023, arXiv 2312.08935),
last (Zhang et al. 2025, arXiv 2501.07301, section 3.2.4), mean logit (arXiv 2503.19877).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from prm.aggregation.named import Named, build
from prm.aggregation.named import to_dict as to_dict
from prm.errors import ConfigError, DataError


class StepAggregation(Named):
    """Base of the step aggregations; subclasses say how in `reduce`.

    Attributes:
        unit: What the result is: a `probability` in [0, 1] or a `logit`.
    """

    unit: ClassVar[str] = "probability"

    def __call__(self, step_logits: Tensor) -> Tensor:
        """Aggregate over the last axis.

        Args:
            step_logits: Log-odds of the steps, shape `[..., step]`; NaN marks a missing step.

        Returns:
            Shape `[...]`, float32 or wider; NaN where no step is present.
        """
        logits = step_logits if step_logits.dtype == torch.float64 else step_logits.float()
        present = ~logits.isnan()
        if logits.shape[-1] == 0:
            return logits.new_full(logits.shape[:-1], math.nan)
        result = self.reduce(logits.masked_fill(~present, 0.0), present)
        return result.masked_fill(~present.any(dim=-1), math.nan)

    def reduce(self, logits: Tensor, present: Tensor) -> Tensor:
        """Aggregate finite `logits` `[..., step]` over the steps that are `present`."""
        raise NotImplementedError


class Min(StepAggregation):
    """The probability of the weakest step: `min_t p_t`.

    Example:
        >>> p = torch.tensor([0.9, 0.8, 0.3, 0.6])
        >>> round(Min()(p.logit()).item(), 4)
        0.3
    """

    name = "min"

    def reduce(self, logits: Tensor, present: Tensor) -> Tensor:
        return logits.masked_fill(~present, math.inf).amin(dim=-1).sigmoid()


class Product(StepAggregation):
    """The probability that all steps are correct if they are independent: `prod_t p_t`.

    Computed as `exp(sum_t log sigmoid(l_t))`. Longer chains score lower.
    """

    name = "product"

    def reduce(self, logits: Tensor, present: Tensor) -> Tensor:
        return functional.logsigmoid(logits).masked_fill(~present, 0.0).sum(dim=-1).exp()


class Mean(StepAggregation):
    """The mean step probability: `(1/T) sum_t p_t`. One bad step hardly shows in a long chain."""

    name = "mean"

    def reduce(self, logits: Tensor, present: Tensor) -> Tensor:
        return _mean(logits.sigmoid(), present)


class Last(StepAggregation):
    """The probability of the last scored step: `p_T`."""

    name = "last"

    def reduce(self, logits: Tensor, present: Tensor) -> Tensor:
        position = torch.arange(logits.shape[-1], device=logits.device)
        last = position.masked_fill(~present, 0).amax(dim=-1, keepdim=True)
        return logits.gather(-1, last).squeeze(-1).sigmoid()


class MeanLogit(StepAggregation):
    """The mean of the step log-odds: `(1/T) sum_t logit(p_t)`; a logit, not a probability.

    Raises:
        DataError: Log-odds are infinite, as those of probabilities that were rounded to 0 or 1 are:
            the mean would be infinite, or of both kinds undefined.
    """

    name = "mean_logit"
    unit = "logit"

    def reduce(self, logits: Tensor, present: Tensor) -> Tensor:
        if logits.isinf().any():
            raise DataError(
                "mean_logit has no value for steps with a probability of exactly 0 or 1",
                expected="finite log-odds",
                got="infinite ones",
                fix="Keep log-odds in place of probabilities, or aggregate with min or mean",
            )
        return _mean(logits, present)


class SoftMin(StepAggregation):
    """A smooth minimum of the probabilities: `-(1/beta) log((1/T) sum_t exp(-beta p_t))`.

    Args:
        beta: Sharpness, above 0. Towards 0 the result is the mean, towards infinity the minimum.
    """

    name = "softmin"

    def __init__(self, beta: float = 10.0) -> None:
        is_number = isinstance(beta, int | float) and not isinstance(beta, bool)
        if not is_number or not 0 < beta < math.inf:
            raise ConfigError("beta of softmin is wrong", expected="a number above 0", got=beta)
        self.beta = float(beta)

    def reduce(self, logits: Tensor, present: Tensor) -> Tensor:
        return softmin(logits.sigmoid(), present, self.beta).clamp(0, 1)  # rounding may leave it


def softmin(values: Tensor, present: Tensor, beta: float) -> Tensor:
    """Return `-(1/beta) log(mean exp(-beta v))` over the present values of the last axis.

    Example:
        >>> values = torch.tensor([0.9, 0.8, -0.7, 0.6], dtype=torch.float64)
        >>> round(softmin(values, torch.ones(4, dtype=torch.bool), beta=10.0).item(), 8)
        -0.56137083
    """
    total = (-beta * values).masked_fill(~present, -math.inf).logsumexp(dim=-1)
    return -(total - present.sum(dim=-1).clamp(min=1).to(values.dtype).log()) / beta


def _mean(values: Tensor, present: Tensor) -> Tensor:
    return values.masked_fill(~present, 0.0).sum(dim=-1) / present.sum(dim=-1).clamp(min=1)


STEP_AGGREGATIONS: dict[str, type[StepAggregation]] = {
    cls.name: cls for cls in (Min, Product, Mean, Last, MeanLogit, SoftMin)
}


def step_aggregation(name: str, **parameters: Any) -> StepAggregation:
    """Build a step aggregation by its short name.

    Raises:
        ConfigError: The name is unknown or does not take these parameters.

    Example:
        >>> step_aggregation("softmin", beta=5)
        SoftMin(beta=5.0)
    """
    return build(STEP_AGGREGATIONS, "step aggregation", name, parameters)


def named_aggregation(value: str | Mapping[str, Any]) -> StepAggregation:
    """Build a step aggregation from its short name, or from a name with parameters.

    Raises:
        ConfigError: There is no name, or as `step_aggregation`.

    Example:
        >>> named_aggregation("min"), named_aggregation({"name": "softmin", "beta": 5})
        (Min(), SoftMin(beta=5.0))
    """
    return step_aggregation(value) if isinstance(value, str) else from_dict(value)


def from_dict(data: Mapping[str, Any]) -> StepAggregation:
    """Rebuild what `to_dict` wrote."""
    parameters = dict(data)
    return step_aggregation(parameters.pop("name", "missing"), **parameters)
