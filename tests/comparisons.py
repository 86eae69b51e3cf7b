"""Targets of preference losses from rankings written as lists of ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from prm.losses.preference import PreferenceTargets


def targets_of(
    *rankings: Sequence[int],
    strength: Sequence[float] | None = None,
    share: Sequence[float] | None = None,
    label: Sequence[float] | None = None,
) -> PreferenceTargets:
    """Return targets in which every member is a read of its own; what is not given is NaN."""
    unknown = [math.nan] * len(rankings)
    comparison = [i for i, ranks in enumerate(rankings) for _ in ranks]
    return PreferenceTargets(
        read=torch.arange(len(comparison)),
        comparison=torch.tensor(comparison, dtype=torch.int64),
        rank=torch.tensor([rank for ranks in rankings for rank in ranks], dtype=torch.int64),
        strength=torch.tensor(unknown if strength is None else strength),
        share=torch.tensor(unknown if share is None else share),
        label=torch.tensor([math.nan] * len(comparison) if label is None else label),
    )
