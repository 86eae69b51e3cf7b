"""Step labels of tokenized chains, in the order of their reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prm.records import Chain
from prm.trees.tokenize import TokenizedChain
from prm.trees.tree import TokenTree


@dataclass(frozen=True)
class LabeledChain:
    """A chain beside what the model reads of it."""

    chain: Chain
    tokens: TokenizedChain

    @property
    def tree(self) -> TokenTree:
        """What the model reads."""
        return self.tokens.tree

    @property
    def records(self) -> tuple[Chain]:
        """The chain, as a unit of one record."""
        return (self.chain,)

    @property
    def source(self) -> str:
        """Where the chain comes from."""
        return self.chain.source

    @property
    def supervised(self) -> frozenset[str]:
        """The objectives that a read step has a label of."""
        return frozenset(
            name
            for name, labels in self.chain.labels.items()
            if any(labels[step] is not None for step in self.tokens.steps)
        )

    @property
    def labels(self) -> object:
        """Everything about the labels that training depends on."""
        return self.chain.labels

    @property
    def num_truncated(self) -> int:
        """Steps that were cut off."""
        return self.tokens.num_truncated

    num_unusable = 0
    """Records that cannot be used; a chain that cannot is dropped as a whole."""


@dataclass(slots=True)
class StepLabels:
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

    def to(self, device: torch.device | str, non_blocking: bool = False) -> StepLabels:
        """Return the labels on `device`."""
        names = ("labels", "chain", "step", "num_tokens")
        return StepLabels(
            **{name: getattr(self, name).to(device, non_blocking=non_blocking) for name in names}
        )


class StepLabeler:
    """Collects the labels of chains, one column per objective name."""

    def __init__(self, objectives: Sequence[str]) -> None:
        self.objectives = tuple(objectives)

    def __call__(self, items: Sequence[LabeledChain], filler: bool = False) -> StepLabels:
        """Return the labels of the reads of some chains; those of a filler are all missing."""
        labels = step_labels(items, self.objectives)
        if filler:
            labels.labels.fill_(math.nan)
        return labels


def step_labels(chains: Sequence[LabeledChain], objectives: Sequence[str]) -> StepLabels:
    """Return the labels of the reads of `chains`, one column per objective name."""
    rows: list[list[float]] = []
    owners: list[int] = []
    steps: list[int] = []
    sizes: list[int] = []
    for index, item in enumerate(chains):
        columns = [item.chain.labels.get(name) for name in objectives]
        for step in item.tokens.steps:
            values = [None if column is None else column[step] for column in columns]
            rows.append([math.nan if value is None else value for value in values])
        owners.extend([index] * len(item.tokens.steps))
        steps.extend(item.tokens.steps)
        sizes.extend(read_sizes(item.tree))
    return StepLabels(
        labels=torch.tensor(rows, dtype=torch.float32).reshape(len(rows), len(objectives)),
        chain=torch.tensor(owners, dtype=torch.int64),
        step=torch.tensor(steps, dtype=torch.int64),
        num_tokens=torch.tensor(sizes, dtype=torch.int64),
    )


def read_sizes(tree: TokenTree) -> list[int]:
    """Return how many tokens end in each read of a tree."""
    sizes = []
    for segment in tree.segments:
        first = 0
        for read in segment.reads:
            sizes.append(read + 1 - first)
            first = read + 1
    return sizes
