"""What the columns of a model's heads say about steps and responses, by its spec alone."""

from __future__ import annotations

import torch
from torch import Tensor

from prm.losses.readouts import score, spread
from prm.losses.steps import log_odds
from prm.spec import RewardSpec


def step_logits(columns: Tensor, spec: RewardSpec) -> Tensor:
    """Return log-odds per step objective, shape `[read, objective]`, from `[read, column]`."""
    return _stack(
        [
            log_odds(columns[:, spec.columns[objective.name]], objective.readout)
            for objective in spec.step_heads
        ],
        columns,
    )


def response_scores(columns: Tensor, spec: RewardSpec) -> Tensor:
    """Return scores per response objective, shape `[read, objective]`, from `[read, column]`."""
    return _stack(
        [
            score(columns[:, spec.columns[objective.name]], objective.readout)
            for objective in spec.response_heads
        ],
        columns,
    )


def response_spreads(columns: Tensor, spec: RewardSpec) -> Tensor:
    """Return the spread of each score, `[read, objective]`; NaN where the head has none."""
    found = []
    for objective in spec.response_heads:
        own = columns[:, spec.columns[objective.name]]
        width = spread(own, objective.readout)
        found.append(torch.full_like(own[:, 0], torch.nan) if width is None else width)
    return _stack(found, columns)


def _stack(values: list[Tensor], columns: Tensor) -> Tensor:
    return torch.stack(values, dim=-1) if values else columns.new_zeros(len(columns), 0)
