"""What the columns of a model's heads say about steps and responses, by its spec alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from prm.losses.readouts import score, spread
from prm.losses.steps import log_odds
from prm.spec import ResponseHead, RewardSpec, StepHead


def step_logits(columns: Tensor, spec: RewardSpec) -> Tensor:
    """Return log-odds per step objective, shape `[read, objective]`, from `[read, column]`."""
    return _read(columns, spec, spec.step_heads, lambda own, head: log_odds(own, head.readout))


def response_scores(columns: Tensor, spec: RewardSpec) -> Tensor:
    """Return scores per response objective, shape `[read, objective]`, from `[read, column]`."""
    return _read(columns, spec, spec.response_heads, lambda own, head: score(own, head.readout))


def response_spreads(columns: Tensor, spec: RewardSpec) -> Tensor:
    """Return the spread of each score, `[read, objective]`; NaN where the head has none."""
    return _read(columns, spec, spec.response_heads, _spread)


def _spread(columns: Tensor, head: ResponseHead) -> Tensor:
    width = spread(columns, head.readout, head.levels)
    return torch.full_like(columns[:, 0], torch.nan) if width is None else width


def _read(
    columns: Tensor,
    spec: RewardSpec,
    heads: Sequence[StepHead | ResponseHead],
    read: Callable[[Tensor, Any], Tensor],
) -> Tensor:
    """Read the columns of each head as it says."""
    values = [read(columns[:, spec.columns[head.name]], head) for head in heads]
    return torch.stack(values, dim=-1) if values else columns.new_zeros(len(columns), 0)
