"""Planning: which records go into which micro-batch of which rank.

The user sets the optimizer batch in records and the memory in tokens. A plan is a pure function of
the records' lengths, the seed and the epoch, so every rank computes the same plan without a word
to the others, and a resumed run continues where it stopped.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prm.data.sampling import Sampler, Shuffled
from prm.errors import ConfigError, DataError

Lengths = Sequence[int] | NDArray[np.int32]
"""Tokens of every record, by index."""


@dataclass(frozen=True, slots=True)
class MicroBatchPlan:
    """Records that one rank computes in one forward pass.

    Args:
        records: Indices of the records.
        filler: The records stand in for an empty micro-batch: they are computed, so that all ranks
            take the same number of passes, and count for nothing.
    """

    records: tuple[int, ...]
    filler: bool = False


def plan_micro_batches(
    records: Sequence[int], lengths: Lengths, max_tokens: int, num_ranks: int = 1
) -> list[MicroBatchPlan]:
    """Split records into micro-batches of at most `max_tokens`, evenly filled.

    Args:
        records: Indices of the records of one optimizer batch, at least one.
        lengths: Tokens of every record, by index.
        max_tokens: Token budget of a micro-batch.
        num_ranks: The number of micro-batches is a multiple of it.

    Returns:
        The plans; micro-batch i belongs to rank `i % num_ranks`.

    Raises:
        DataError: A record alone is over the budget.

    Example:
        >>> [plan.records for plan in plan_micro_batches([0, 1, 2], [60, 30, 30], 64)]
        [(0,), (1, 2)]
    """
    sizes = {record: int(lengths[record]) for record in records}
    longest = max(records, key=sizes.__getitem__)
    if sizes[longest] > max_tokens:
        raise DataError(
            f"record {longest} does not fit a micro-batch",
            expected=f"at most {max_tokens} tokens (max_tokens)",
            got=f"{sizes[longest]} tokens",
            fix="Raise max_tokens to at least the model's max_length",
        )
    total = sum(sizes[record] for record in records)
    num_bins = -(-total // (max_tokens * num_ranks)) * num_ranks
    while (bins := _fill(records, sizes, max_tokens, num_bins)) is None:
        num_bins += num_ranks
    shortest = min(records, key=sizes.__getitem__)
    return [
        MicroBatchPlan(tuple(content)) if content else MicroBatchPlan((shortest,), filler=True)
        for content in bins
    ]


def _fill(
    records: Sequence[int], sizes: Mapping[int, int], max_tokens: int, num_bins: int
) -> list[list[int]] | None:
    """Put the longest record left into the emptiest bin; `None` if a bin overflows."""
    bins: list[list[int]] = [[] for _ in range(num_bins)]
    heap = [(0, index) for index in range(num_bins)]
    for record in sorted(records, key=lambda record: (-sizes[record], record)):
        load, index = heapq.heappop(heap)
        if load + sizes[record] > max_tokens:
            return None
        bins[index].append(record)
        heapq.heappush(heap, (load + sizes[record], index))
    return bins


class TrainingPlan:
    """The optimizer batches of every epoch.

    Args:
        lengths: Tokens of every record.
        batch_size: Records in an optimizer batch, over all ranks.
        max_tokens: Token budget of a micro-batch.
        num_ranks: Ranks that share a batch.
        sampler: Which records an epoch has, and in which order.

    Raises:
        ConfigError: There is no full batch to train on.
    """

    def __init__(
        self,
        lengths: Lengths,
        batch_size: int,
        max_tokens: int,
        num_ranks: int = 1,
        sampler: Sampler | None = None,
    ) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.max_tokens = max_tokens
        self.num_ranks = num_ranks
        self.sampler = sampler or Shuffled(len(lengths))
        self.num_steps = -(-len(self.sampler) // batch_size)
        if self.num_steps == 0:
            raise ConfigError(
                "too few training records for one optimizer batch",
                expected=f"{batch_size} (batch_size)",
                got=len(self.sampler),
            )

    def records(self, epoch: int, step: int) -> list[int]:
        """Return the records of one optimizer batch."""
        order = self._order(epoch)
        return list(order[step * self.batch_size : (step + 1) * self.batch_size])

    def step(self, epoch: int, step: int) -> list[MicroBatchPlan]:
        """Return the micro-batches of one optimizer batch, of all ranks."""
        return plan_micro_batches(
            self.records(epoch, step), self.lengths, self.max_tokens, self.num_ranks
        )

    def _order(self, epoch: int) -> array[int]:
        if getattr(self, "_shuffled", (None, None))[0] != epoch:
            self._shuffled = (epoch, self.sampler.order(epoch))
        return self._shuffled[1]


def plan_evaluation(lengths: Lengths, max_tokens: int, num_ranks: int = 1) -> list[MicroBatchPlan]:
    """Plan one pass over all records, each counted once; micro-batch i belongs to rank i % ranks.

    Records of similar length go together, so that a pass can be reported on evenly.
    """
    sizes = np.asarray(lengths, np.int64)
    order = np.argsort(-sizes, kind="stable")
    plans: list[MicroBatchPlan] = []
    current: list[int] = []
    used = 0
    for record, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
        if current and used + size > max_tokens:
            plans.append(MicroBatchPlan(tuple(current)))
            current, used = [], 0
        current.append(record)
        used += size
    if current:
        plans.append(MicroBatchPlan(tuple(current)))
    missing = -len(plans) % num_ranks
    return plans + [MicroBatchPlan(tuple(order[-1:].tolist()), filler=True)] * missing
