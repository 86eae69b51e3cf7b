"""The process metrics as a torchmetrics state: exact over batches of any size and over ranks."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
import torchmetrics
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from prm.arrays import Array
from prm.errors import DataError
from prm.metrics.binary import StepUnits, strata_of
from prm.metrics.first_error import (
    DEFAULT_THRESHOLD,
    UNDECIDED,
    ChainUnits,
    lowest_is_last,
    predict_first_error,
)
from prm.metrics.metric import Metric


class StepMetrics(torchmetrics.Metric):
    """Step and first-error metrics of process rewards, over everything seen since the last reset.

    Nothing is averaged over batches: all labeled steps and decided chains are kept (in float32) and
    measured together, so the result does not depend on batch sizes, order or number of ranks.

    Args:
        threshold: A step is judged wrong strictly below it.

    Example:
        >>> metrics = StepMetrics()
        >>> metrics.update(
        ...     torch.tensor([0.9, 0.2, 0.8, 0.7]),
        ...     labels=torch.tensor([1.0, 0.0, 1.0, 1.0]),
        ...     chain_index=torch.tensor([0, 0, 1, 1]),
        ...     first_error=torch.tensor([1, -1]),
        ... )
        >>> result = metrics.compute()
        >>> result["step_auroc"].item(), result["processbench_f1"].item()
        (1.0, 1.0)
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    metrics: ClassVar[tuple[Metric, ...]] = (*StepUnits.metrics, *ChainUnits.metrics)
    """What `compute` returns, in order."""

    probability: list[Tensor]
    label: list[Tensor]
    predicted: list[Tensor]
    true: list[Tensor]
    lowest_is_last: list[Tensor]
    position: list[Tensor]
    source: list[Tensor]

    def __init__(self, threshold: float = DEFAULT_THRESHOLD) -> None:
        super().__init__()
        self.threshold = threshold
        # All states are float32, indices too (exact below 2**24): a rank without records joins
        # the gathering with an empty tensor of this type.
        chains, steps = ("predicted", "true", "lowest_is_last"), ("position", "source")
        for name in ("probability", "label", *steps, *chains):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(
        self,
        probabilities: Tensor,
        labels: Tensor,
        chain_index: Tensor,
        first_error: Tensor,
        complete: Tensor | None = None,
        sources: Tensor | None = None,
    ) -> None:
        """Add the steps and chains of one batch.

        Args:
            probabilities: Shape [step]: probability of being correct, every step of a chain in
                order; NaN is a step that was not scored (left out, it would shift the indices).
            labels: Shape [step]: labels in [0, 1]; NaN is an unlabeled step.
            chain_index: Shape [step]: the chain of this batch that each step belongs to.
            first_error: Shape [chain]: 0-based first wrong step, -1 for a clean chain, -2 if the
                labels do not decide it.
            complete: Shape [chain], bool: whether the chain was read to its end; default yes. One
                that was not, and in which no step is flagged, has no prediction: it counts as
                wrong whatever the truth.
            sources: Shape [chain]: number of the source of each chain; by default all are of one.

        Raises:
            DataError: The shapes differ, or a chain index has no chain.
        """
        whole = torch.ones(len(first_error), dtype=torch.bool) if complete is None else complete
        _check(probabilities, labels, chain_index, first_error, whole)
        probability = probabilities.detach().to(self.device, torch.float32)
        label = labels.detach().to(self.device, torch.float32)
        known = ~(label.isnan() | probability.isnan())
        self.probability.append(probability[known])
        self.label.append(label[known])
        source = torch.zeros(len(first_error)) if sources is None else sources
        for state, values in (
            (self.position, _positions(chain_index, len(first_error))),
            (self.source, source.to(chain_index.device)[chain_index]),
        ):
            state.append(values.to(self.device, torch.float32)[known])
        self._append_chains(probability, chain_index, first_error, whole)

    def _append_chains(
        self, probability: Tensor, chain_index: Tensor, first_error: Tensor, complete: Tensor
    ) -> None:
        decided = first_error.cpu() != UNDECIDED
        chains = [
            chain.numpy()
            for chain, kept in zip(
                _chains(probability.cpu(), chain_index.cpu(), len(decided)), decided, strict=True
            )
            if kept
        ]
        predicted = [
            predict_first_error(chain, self.threshold, complete=whole)
            for chain, whole in zip(chains, complete.cpu()[decided].tolist(), strict=True)
        ]
        lowest = [lowest_is_last(chain) for chain in chains]
        self.true.append(first_error.cpu()[decided].to(self.device, torch.float32))
        self.predicted.append(torch.tensor(predicted, dtype=torch.float32, device=self.device))
        self.lowest_is_last.append(torch.tensor(lowest, dtype=torch.float32, device=self.device))

    def compute(self) -> dict[str, Tensor]:
        """Return each metric as a float32 scalar; NaN where the data do not decide it."""
        strata = strata_of(joined(self.source), joined(self.position))
        steps = StepUnits(joined(self.probability), joined(self.label), strata=strata)
        chains = ChainUnits(joined(self.predicted), joined(self.true), joined(self.lowest_is_last))
        return {
            name: torch.tensor(value, dtype=torch.float32, device=self.device)
            for name, value in (steps.values() | chains.values()).items()
        }


def _positions(chain_index: Tensor, num_chains: int) -> Tensor:
    """Return the index of each step in its chain, shape [step]."""
    order = torch.argsort(chain_index, stable=True)
    sizes = torch.bincount(chain_index, minlength=num_chains)
    starts = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    positions = torch.empty_like(order)
    positions[order] = torch.arange(len(order), device=order.device) - starts
    return positions


def _chains(probabilities: Tensor, chain_index: Tensor, num_chains: int) -> tuple[Tensor, ...]:
    """Return the probabilities of each chain, in order."""
    order = torch.argsort(chain_index, stable=True)
    sizes = torch.bincount(chain_index, minlength=num_chains).tolist()
    return torch.split(probabilities[order], sizes)


def _check(
    probabilities: Tensor,
    labels: Tensor,
    chain_index: Tensor,
    first_error: Tensor,
    complete: Tensor,
) -> None:
    if not probabilities.shape == labels.shape == chain_index.shape or probabilities.ndim != 1:
        raise DataError(
            "step tensors do not match",
            expected="probabilities, labels and chain_index of one shape [step]",
            got=[tuple(t.shape) for t in (probabilities, labels, chain_index)],
        )
    if complete.shape != first_error.shape:
        raise DataError(
            "chain tensors do not match",
            expected="first_error and complete of one shape [chain]",
            got=[tuple(first_error.shape), tuple(complete.shape)],
        )
    num_chains = len(first_error)
    if chain_index.numel() and not 0 <= chain_index.min() <= chain_index.max() < num_chains:
        raise DataError(
            "chain_index points past first_error",
            expected=f"indices in [0, {num_chains})",
            got=[int(chain_index.min()), int(chain_index.max())],
        )


def joined(state: list[Tensor] | Tensor) -> Array:
    """Return what was added to a state on all ranks, float64."""
    if isinstance(state, list) and not state:
        return np.zeros(0)
    whole: Tensor = dim_zero_cat(state)
    return whole.cpu().double().numpy()
