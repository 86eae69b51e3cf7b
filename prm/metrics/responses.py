"""The metrics of one objective as a torchmetrics state: exact over batches and over ranks."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from prm.errors import DataError
from prm.metrics.binary import (
    Ranking,
    brier_score,
    expected_calibration_error,
    weighted_mean,
)
from prm.metrics.correlation import pearson, spearman
from prm.metrics.pairs import pair_accuracy, pair_ece, pair_nll, sigmoid

Array = NDArray[np.float64]


class ResponseMetrics(Metric):
    """How well the scores of one objective agree with comparisons and with rated values.

    Nothing is averaged over batches: all pairs and rated responses are kept (in float32) and
    measured together, so the result does not depend on batch sizes, order or number of ranks.

    Args:
        in_label_units: Whether scores are in the units of the values, as squared error and
            likelihoods of the value train them; then `mse` is defined. If not, scores are taken as
            log-odds of a value of 1. `ece` and `brier` are defined for values of 0 and 1.
        num_bins: Bins of the calibration errors.

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

    score: list[Tensor]
    value: list[Tensor]
    margin: list[Tensor]
    outcome: list[Tensor]
    weight: list[Tensor]
    strength: list[Tensor]

    def __init__(self, *, in_label_units: bool = False, num_bins: int = 15) -> None:
        super().__init__()
        self.in_label_units = in_label_units
        self.num_bins = num_bins
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
        """Return each metric as a float32 scalar; NaN where the data do not decide it.

        `pair_accuracy` is strict, equal scores being wrong; `strength_spearman` is the rank
        correlation of the better response's margin with the strength of the preference.
        """
        values = self._pair_metrics() | self._value_metrics()
        return {
            name: torch.tensor(value, dtype=torch.float32, device=self.device)
            for name, value in values.items()
        }

    def _pair_metrics(self) -> dict[str, float]:
        columns = _known(self.margin, self.outcome, self.weight, optional=self.strength)
        margin, outcome, weight, strength = columns
        stated = ~np.isnan(strength) & (outcome != 0.5)
        sign = np.sign(outcome - 0.5)[stated]
        return {
            "pair_accuracy": pair_accuracy(margin, outcome, weight),
            "pair_accuracy_half": pair_accuracy(margin, outcome, weight, ties="half"),
            "pair_nll": pair_nll(margin, outcome, weight),
            "pair_ece": pair_ece(margin, outcome, weight, num_bins=self.num_bins),
            "strength_spearman": spearman(sign * margin[stated], strength[stated], weight[stated]),
        }

    def _value_metrics(self) -> dict[str, float]:
        score, value = _known(self.score, self.value)
        ones = np.ones(len(score))
        binary = bool(np.isin(value, (0, 1)).all())
        chance = np.clip(score, 0, 1) if self.in_label_units else sigmoid(score)
        of_binary = {
            "auroc": Ranking(score, value).auroc(ones),
            "ece": expected_calibration_error(chance, value, num_bins=self.num_bins),
            "brier": brier_score(chance, value),
        }
        undefined = set() if self.in_label_units else {"mse"}
        undefined |= set() if binary else set(of_binary)
        values = of_binary | {
            "pearson": pearson(score, value),
            "spearman": spearman(score, value),
            "mse": weighted_mean((score - value) ** 2, ones),
        }
        return {name: np.nan if name in undefined else x for name, x in values.items()}

    def _append(self, **columns: Tensor) -> None:
        for name, column in columns.items():
            getattr(self, name).append(column.detach().to(self.device, torch.float32))


def _check(what: str, **columns: Tensor) -> None:
    shapes = {name: tuple(column.shape) for name, column in columns.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 1 for shape in shapes.values()):
        raise DataError(f"tensors of {what} do not match", expected="one shape [n]", got=shapes)


def _known(*states: list[Tensor], optional: list[Tensor] | None = None) -> list[Array]:
    """Return the states as arrays without the units that are NaN in any but the optional one."""
    columns = [_joined(state) for state in states]
    known = ~np.isnan(columns).any(axis=0)
    columns += [] if optional is None else [_joined(optional)]
    return [column[known] for column in columns]


def _joined(state: list[Tensor] | Tensor) -> Array:
    if isinstance(state, list) and not state:
        return np.zeros(0)
    joined: Tensor = dim_zero_cat(state)
    return joined.cpu().double().numpy()
