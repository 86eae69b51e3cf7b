"""Validation and test metrics of a task: over all chains, and by source."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from prm.metrics.first_error import UNDECIDED
from prm.metrics.process import ProcessMetrics
from prm.records import Chain

ALL = "all"


class StepMeters(nn.Module):
    """One `ProcessMetrics` for all chains and, with several sources, one for each of them.

    Args:
        objective: Name of the objective that is measured.
        sources: Names of all sources, the same on every rank.
    """

    def __init__(self, objective: str, sources: Iterable[str]) -> None:
        super().__init__()
        self.objective = objective
        names = sorted(set(sources))
        self.index = {name: str(position) for position, name in enumerate(names)}
        keys = [ALL, *self.index.values()] if len(names) > 1 else [ALL]
        self.metrics = nn.ModuleDict({key: ProcessMetrics() for key in keys})

    def count(self, chain: Chain, steps: Tensor, probabilities: Tensor) -> None:
        """Add a chain; steps that were not read count as not scored, in place.

        Args:
            chain: The chain, with its labels.
            steps: Indices of the steps that were read, shape `[read]`.
            probabilities: Their probabilities, shape `[read]`.
        """
        scored = torch.full((len(chain.completions),), torch.nan)
        scored[steps] = probabilities
        known = chain.labels.get(self.objective, (None,) * len(chain.completions))
        labels = torch.tensor([torch.nan if label is None else label for label in known])
        first_error = chain.first_error(self.objective)
        coded = torch.tensor([UNDECIDED if first_error is None else first_error])
        for key in (ALL, self.index.get(chain.source, "")):
            if key in self.metrics:
                metric: Any = self.metrics[key]
                metric.update(scored, labels, torch.zeros_like(labels).long(), coded)

    def values(self) -> dict[str, Tensor]:
        """Return the metrics over all ranks: `name` over all chains, `source/name` by source."""
        names = {key: f"{source}/" for source, key in self.index.items()} | {ALL: ""}
        return {
            f"{names[key]}{name}": value
            for key, metric in self.metrics.items()
            for name, value in metric.compute().items()  # type: ignore[operator]
        }
