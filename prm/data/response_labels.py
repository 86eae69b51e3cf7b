"""Labels of tokenized responses: ratings of single reads, and comparisons between reads."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from prm.data.step_labels import read_sizes
from prm.losses.preference import PreferenceTargets
from prm.records import Comparison, Outcome, Rating
from prm.trees.tokenize_responses import TokenizedResponses
from prm.trees.tree import TokenTree
from prm.trees.units import ResponseSet


@dataclass(frozen=True, slots=True)
class LabeledResponses:
    """A response set beside what the model reads of it.

    Args:
        responses: The responses and the records about them.
        tokens: What the model reads.
        kept: Indices of the records whose responses all fit and are still distinct.
    """

    responses: ResponseSet
    tokens: TokenizedResponses
    kept: tuple[int, ...]

    @property
    def tree(self) -> TokenTree:
        """What the model reads."""
        return self.tokens.tree

    @property
    def records(self) -> tuple[Outcome, ...]:
        """The records that can be used."""
        return tuple(self.responses.records[index] for index in self.kept)

    @property
    def source(self) -> str:
        """Where the records come from."""
        return self.responses.source

    @property
    def supervised(self) -> frozenset[str]:
        """The objectives that a usable record has a label of."""
        return frozenset(name for record in self.records for name in record.objectives)

    @property
    def labels(self) -> object:
        """Everything about the labels that training depends on."""
        return [
            (record.values if isinstance(record, Rating) else _decision(record))
            for record in self.records
        ]

    @property
    def num_truncated(self) -> int:
        """Responses that were cut off."""
        return sum(self.tokens.truncated)

    @property
    def num_unusable(self) -> int:
        """Records whose responses do not fit, or read the same."""
        return len(self.responses.records) - len(self.kept)

    def branches(self, index: int) -> list[int]:
        """Return the branch of each response of a kept record."""
        places = self.responses.places[index]
        return [branch for place in places if (branch := self.tokens.branches[place]) is not None]


def _decision(record: Comparison) -> tuple[object, ...]:
    return record.objective, record.ranks, record.strength, record.votes


def label(responses: ResponseSet, tokens: TokenizedResponses) -> LabeledResponses:
    """Join a response set with its tokens; records that no longer make sense are left out."""
    kept = tuple(
        index for index, places in enumerate(responses.places) if _distinct(places, tokens)
    )
    return LabeledResponses(responses, tokens, kept)


def _distinct(places: Sequence[int], tokens: TokenizedResponses) -> bool:
    """Whether all responses of a record fit, and no two of them read the same."""
    branches = [tokens.branches[place] for place in places]
    texts = [
        tokens.tree.segments[branch + 1].input_ids for branch in branches if branch is not None
    ]
    return len(set(texts)) == len(places)


@dataclass(slots=True)
class ResponseLabels:
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

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ResponseLabels:
        """Return the labels on `device`."""
        return ResponseLabels(
            self.values.to(device, non_blocking=non_blocking),
            tuple(item.to(device, non_blocking) for item in self.preferences),
            self.preferred.to(device, non_blocking=non_blocking),
            self.num_tokens.to(device, non_blocking=non_blocking),
        )


class ResponseLabeler:
    """Collects the labels of response sets, for some objectives by name."""

    def __init__(self, objectives: Sequence[str]) -> None:
        self.objectives = tuple(objectives)

    def __call__(self, items: Sequence[LabeledResponses], filler: bool = False) -> ResponseLabels:
        """Return the labels of the reads of some response sets; a filler has none."""
        num_tokens = torch.tensor(
            [size for item in items for size in read_sizes(item.tree)], dtype=torch.int64
        )
        values = torch.full((len(num_tokens), len(self.objectives)), math.nan)
        preferred = torch.ones(len(num_tokens), dtype=torch.bool)
        lists = [_Comparisons() for _ in self.objectives]
        for offset, item in _with_offsets(() if filler else items):
            for index in item.kept:
                record = item.responses.records[index]
                reads = [offset + branch for branch in item.branches(index)]
                if isinstance(record, Rating):
                    values[reads[0]] = self._merged(values[reads[0]], record)
                elif record.objective in self.objectives:
                    lists[self.objectives.index(record.objective)].add(record, reads)
                    below = [r for r, rank in zip(reads, record.ranks, strict=True) if rank > 0]
                    preferred[below] = False
        preferences = tuple(found.targets(values[:, column]) for column, found in enumerate(lists))
        return ResponseLabels(values, preferences, preferred, num_tokens)

    def _merged(self, old: Tensor, record: Rating) -> Tensor:
        known = [record.values.get(name) for name in self.objectives]
        new = torch.tensor([math.nan if value is None else value for value in known])
        return torch.where(new.isnan(), old, new)


def _with_offsets(items: Sequence[LabeledResponses]) -> Iterator[tuple[int, LabeledResponses]]:
    """Yield items with the number of reads before them."""
    offset = 0
    for item in items:
        yield offset, item
        offset += item.tree.num_reads


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
