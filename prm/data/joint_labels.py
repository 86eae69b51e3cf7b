"""Labels of chains and responses that are packed together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prm.data.response_labels import LabeledResponses, ResponseLabeler, ResponseLabels
from prm.data.step_labels import LabeledChain, StepLabeler, StepLabels


@dataclass(slots=True)
class JointLabels:
    """Labels of the reads of chains and of response sets.

    Args:
        steps: Labels of the chains' reads.
        responses: Labels of the responses' reads.
        step_reads: Which reads are those of chains, shape `[chain read]`.
        response_reads: Which reads are those of responses, shape `[response read]`.
    """

    steps: StepLabels
    responses: ResponseLabels
    step_reads: Tensor
    response_reads: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> JointLabels:
        """Return the labels on `device`."""
        return JointLabels(
            self.steps.to(device, non_blocking),
            self.responses.to(device, non_blocking),
            self.step_reads.to(device, non_blocking=non_blocking),
            self.response_reads.to(device, non_blocking=non_blocking),
        )


class JointLabeler:
    """Collects the labels of chains and of response sets."""

    def __init__(self, step_objectives: Sequence[str], response_heads: Sequence[str]) -> None:
        self.steps = StepLabeler(step_objectives)
        self.responses = ResponseLabeler(response_heads)

    def __call__(
        self, items: Sequence[LabeledChain | LabeledResponses], filler: bool = False
    ) -> JointLabels:
        """Return the labels of the reads of some items; those of a filler count for nothing."""
        chains = [item for item in items if isinstance(item, LabeledChain)]
        sets = [item for item in items if isinstance(item, LabeledResponses)]
        is_step = torch.tensor(
            [isinstance(item, LabeledChain) for item in items for _ in range(item.tree.num_reads)],
            dtype=torch.bool,
        )
        return JointLabels(
            self.steps(chains, filler),
            self.responses(sets, filler),
            is_step.nonzero().squeeze(-1),
            (~is_step).nonzero().squeeze(-1),
        )


AnyLabels = StepLabels | ResponseLabels | JointLabels


def step_part(labels: AnyLabels) -> tuple[StepLabels, Tensor | slice]:
    """Return the labels of steps, and which reads they belong to."""
    if isinstance(labels, JointLabels):
        return labels.steps, labels.step_reads
    assert isinstance(labels, StepLabels)
    return labels, slice(None)


def response_part(labels: AnyLabels) -> tuple[ResponseLabels, Tensor | slice]:
    """Return the labels of responses, and which reads they belong to."""
    if isinstance(labels, JointLabels):
        return labels.responses, labels.response_reads
    assert isinstance(labels, ResponseLabels)
    return labels, slice(None)
