"""Labels of the reads of items: step labels, ratings, and comparisons between responses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor

from prm.arrays import OnDevice
from prm.data.items import LabeledChain, LabeledItem, LabeledResponses, by_kind
from prm.losses.preference import PreferenceTargets
from prm.records import Comparison, Rating


@dataclass(slots=True)
class StepLabels(OnDevice):
    """Labels of the reads of some chains.

    Args:
        labels: Probability in [0, 1], NaN where unlabeled, shape `[read, objective]`, float32.
        chain: Index of the chain among these chains, shape `[read]`.
        step: Index of the step in its chain, shape `[read]`.
        num_tokens: Tokens of the step, marker included, shape `[read]`.
    """

    labels: Tensor
    chain: Tensor
    step: Tensor
    num_tokens: Tensor


@dataclass(slots=True)
class ResponseLabels(OnDevice):
    """Labels of the reads of some response sets.

    Args:
        values: Ratings, NaN where missing, shape `[read, objective]`, float32.
        preferences: Comparisons, one entry per objective.
        preferred: Whether no comparison ranks a response below another, shape `[read]`, bool.
        num_tokens: Tokens of the response, shape `[read]`.
    """

    values: Tensor
    preferences: tuple[PreferenceTargets, ...]
    preferred: Tensor
    num_tokens: Tensor

    def first(self, count: int) -> ResponseLabels:
        """Return the labels of the first reads; all comparisons must be between them."""
        return replace(
            self,
            values=self.values[:count],
            preferred=self.preferred[:count],
            num_tokens=self.num_tokens[:count],
        )


@dataclass(slots=True)
class Labels(OnDevice):
    """Labels of the reads of chains and of response sets; either may have no reads.

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


@dataclass(frozen=True)
class Labeler:
    """Collects the labels of items, in the order of their reads.

    Args:
        step_names: The step objectives, one column each.
        response_names: The response objectives, one column each.
    """

    step_names: Sequence[str]
    response_names: Sequence[str]

    def __call__(self, items: Sequence[LabeledItem], filler: bool = False) -> Labels:
        """Return the labels of the reads of some items; those of a filler are all missing."""
        chains, sets = by_kind(enumerate(items))
        owners = [index for index, item in enumerate(items) for _ in range(item.tree.num_reads)]
        is_step = torch.tensor([owner in chains for owner in owners], dtype=torch.bool)
        steps = step_labels(list(chains.values()), self.step_names)
        if filler:
            steps.labels.fill_(math.nan)
        return Labels(
            steps,
            response_labels(list(sets.values()), self.response_names, filler),
            is_step.nonzero().squeeze(-1),
            (~is_step).nonzero().squeeze(-1),
        )


def step_labels(chains: Sequence[LabeledChain], objectives: Sequence[str]) -> StepLabels:
    """Return the labels of the reads of `chains`, one column per objective name."""
    reads = [(index, step) for index, item in enumerate(chains) for step in item.tokens.steps]
    rows = []
    for index, step in reads:
        columns = [chains[index].chain.labels.get(name) for name in objectives]
        values = [None if column is None else column[step] for column in columns]
        rows.append([math.nan if value is None else value for value in values])
    places = torch.tensor(reads, dtype=torch.int64).reshape(len(reads), 2)
    return StepLabels(
        labels=torch.tensor(rows, dtype=torch.float32).reshape(len(rows), len(objectives)),
        chain=places[:, 0],
        step=places[:, 1],
        num_tokens=_read_sizes(chains),
    )


def response_labels(
    sets: Sequence[LabeledResponses], objectives: Sequence[str], filler: bool = False
) -> ResponseLabels:
    """Return the labels of the reads of `sets`, one column and entry per objective name."""
    num_tokens = _read_sizes(sets)
    values = torch.full((len(num_tokens), len(objectives)), math.nan)
    preferred = torch.ones(len(num_tokens), dtype=torch.bool)
    lists = {name: _Comparisons() for name in objectives}
    offset = 0
    for item in () if filler else sets:
        for index in item.kept:
            record = item.responses.records[index]
            reads = [offset + branch for branch in item.branches(index)]
            if isinstance(record, Rating):
                values[reads[0]] = _merged(values[reads[0]], record, objectives)
            elif record.objective in lists:
                lists[record.objective].add(record, reads)
                below = [r for r, rank in zip(reads, record.ranks, strict=True) if rank > 0]
                preferred[below] = False
        offset += item.tree.num_reads
    preferences = (found.targets(values[:, i]) for i, found in enumerate(lists.values()))
    return ResponseLabels(values, tuple(preferences), preferred, num_tokens)


def _merged(old: Tensor, record: Rating, objectives: Sequence[str]) -> Tensor:
    known = [record.values.get(name) for name in objectives]
    new = torch.tensor([math.nan if value is None else value for value in known])
    return torch.where(new.isnan(), old, new)


@dataclass(slots=True)
class _Comparisons:
    """Collects the comparisons of one objective."""

    read: list[int] = field(default_factory=list)
    comparison: list[int] = field(default_factory=list)
    rank: list[int] = field(default_factory=list)
    strength: list[float] = field(default_factory=list)
    share: list[float] = field(default_factory=list)

    def add(self, record: Comparison, reads: Sequence[int]) -> None:
        """Add a comparison, its members best first."""
        order = sorted(range(len(reads)), key=lambda member: record.ranks[member])
        self.read.extend(reads[member] for member in order)
        self.rank.extend(record.ranks[member] for member in order)
        self.comparison.extend([len(self.strength)] * len(order))
        self.strength.append(math.nan if record.strength is None else record.strength)
        votes = None if record.votes is None else [record.votes[member] for member in order]
        self.share.append(math.nan if votes is None else votes[0] / sum(votes))

    def targets(self, values: Tensor) -> PreferenceTargets:
        """Return the comparisons as tensors, with the ratings of their members."""
        read = torch.tensor(self.read, dtype=torch.int64)
        return PreferenceTargets(
            read=read,
            comparison=torch.tensor(self.comparison, dtype=torch.int64),
            rank=torch.tensor(self.rank, dtype=torch.int64),
            strength=torch.tensor(self.strength, dtype=torch.float32),
            share=torch.tensor(self.share, dtype=torch.float32),
            label=values[read],
        )


def _read_sizes(items: Sequence[LabeledItem]) -> Tensor:
    """Return how many tokens end in each read of some items, shape `[read]`."""
    segments = (segment for item in items for segment in item.tree.segments)
    sizes = [last - before for one in segments for before, last in pairwise([-1, *one.reads])]
    return torch.tensor(sizes, dtype=torch.int64)
