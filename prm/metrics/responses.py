"""The metrics of one objective as a torchmetrics state: exact over batches and over ranks."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
import torchmetrics
from torch import Tensor

from prm.arrays import Array
from prm.errors import DataError
from prm.metrics.metric import Metric
from prm.metrics.pairs import PairUnits
from prm.metrics.steps import joined
from prm.metrics.values import ValueUnits


class ResponseMetrics(torchmetrics.Metric):
    """How well the scores of one objective agree with comparisons and with rated values.

    Nothing is averaged over batches: all pairs and rated responses are kept (in float32) and
    measured together, so the result does not depend on batch sizes, order or number of ranks.

    Args:
        in_label_units: Whether scores are in the units of the values, as squared error and
            likelihoods of the value train them; then `mse` is defined. If not, scores are taken as
            log-odds of a value of 1. `ece` and `brier` are defined for values of 0 and 1.

    Example:
        >>> metrics = ResponseMetrics()
        >>> none = torch.zeros(0)
        >>> metrics.update(none, none, torch.tensor([2.0, -1.0, 0.0]), torch.ones(3))
        >>> metrics.update(torch.tensor([1.5, -2.0]), torch.tensor([1.0, 0.0]), none, none)
        >>> result = metrics.compute()
        >>> round(result["pair_accuracy"].item(), 4), result["auroc"].item()
        (0.3333, 1.0)
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    metrics: ClassVar[tuple[Metric, ...]] = (*PairUnits.metrics, *ValueUnits.metrics)
    """What `compute` returns, in order."""

    score: list[Tensor]
    value: list[Tensor]
    margin: list[Tensor]
    outcome: list[Tensor]
    weight: list[Tensor]
    strength: list[Tensor]

    def __init__(self, *, in_label_units: bool = False) -> None:
        super().__init__()
        self.in_label_units = in_label_units
        # All states are float32: a rank without records joins the gathering with an empty tensor
        # of this type.
        for name in ("score", "value", "margin", "outcome", "weight", "strength"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(
        self,
        scores: Tensor,
        values: Tensor,
        margins: Tensor,
        outcomes: Tensor,
        strengths: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> None:
        """Add the rated responses and the pairs of one batch; either may be empty.

        Args:
            scores: Shape [read]: score of each rated response; NaN was not scored.
            values: Shape [read]: its label; NaN is not rated.
            margins: Shape [pair]: utility of the first response minus utility of the second; NaN
                was not scored.
            outcomes: Shape [pair]: 1 if the first response is better, 0 if the second is, 0.5 or
                NaN if neither, which leaves the pair out.
            strengths: Shape [pair]: how much better the better one is, 0 or more; NaN is unknown.
                Default unknown.
            weights: Shape [pair]: how much each pair counts; default 1. The pairs of a ranking
                share a weight of 1.

        Raises:
            DataError: The shapes differ.
        """
        strengths = torch.full_like(margins, torch.nan) if strengths is None else strengths
        weights = torch.ones_like(margins) if weights is None else weights
        _check("rated responses", scores=scores, values=values)
        pairs = {"margin": margins, "outcome": outcomes, "strength": strengths, "weight": weights}
        _check("pairs", **pairs)
        self._append(score=scores, value=values)
        self._append(**pairs)

    def compute(self) -> dict[str, Tensor]:
        """Return each metric as a float32 scalar; NaN where the data do not decide it."""
        values = self._pairs().values() | self._values().values()
        return {
            name: torch.tensor(value, dtype=torch.float32, device=self.device)
            for name, value in values.items()
        }

    def _pairs(self) -> PairUnits:
        margin, outcome, weight, strength = _known(
            self.margin, self.outcome, self.weight, optional=self.strength
        )
        better = margin * np.sign(outcome - 0.5)
        decided = outcome != 0.5
        return PairUnits(better[decided], weight[decided], strength[decided])

    def _values(self) -> ValueUnits:
        score, value = _known(self.score, self.value)
        log_odds = None if self.in_label_units else score
        return ValueUnits(score, value, log_odds)

    def _append(self, **columns: Tensor) -> None:
        for name, column in columns.items():
            getattr(self, name).append(column.detach().to(self.device, torch.float32))


def _check(what: str, **columns: Tensor) -> None:
    shapes = {name: tuple(column.shape) for name, column in columns.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 1 for shape in shapes.values()):
        raise DataError(f"tensors of {what} do not match", expected="one shape [n]", got=shapes)


def _known(*states: list[Tensor], optional: list[Tensor] | None = None) -> list[Array]:
    """Return the states as arrays without the units that are NaN in any but the optional one."""
    columns = [joined(state) for state in states]
    known = ~np.isnan(columns).any(axis=0)
    columns += [] if optional is None else [joined(optional)]
    return [column[known] for column in columns]
