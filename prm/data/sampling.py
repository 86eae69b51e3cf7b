"""Sampling: which records an epoch has, and in which order.

A sampler is a pure function of its seed and the epoch, so every rank draws the same records without
a word to the others, and a resumed run continues where it stopped.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from prm.arrays import Indices
from prm.errors import ConfigError


class Sampler(Protocol):
    """Says which records an epoch has."""

    def __len__(self) -> int:
        """Return the number of records of an epoch."""

    def order(self, epoch: int) -> array[int]:
        """Return the records of an epoch, in order: 8 bytes each, and items are plain integers."""


@dataclass(frozen=True)
class Shuffled:
    """Every record once per epoch, shuffled by (seed, epoch)."""

    num_records: int
    seed: int = 0

    def __len__(self) -> int:
        return self.num_records

    def order(self, epoch: int) -> array[int]:
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self))
        return array("q", order.tobytes())


class Mixed:
    """A fixed number of records of each source per epoch.

    Within a source all records are drawn before one is drawn again, across epochs.

    Args:
        sources: Name of the source of each record.
        counts: Source to the number of its records in an epoch.
        seed: Seed of the order.

    Example:
        >>> sampler = Mixed(["a", "a", "b"], {"a": 1, "b": 3})
        >>> len(sampler), sorted(sampler.order(0))[1:]
        (4, [2, 2, 2])
    """

    def __init__(self, sources: Sequence[str], counts: Mapping[str, int], seed: int = 0) -> None:
        members: dict[str, array[int]] = {name: array("q") for name in counts}
        for index, source in enumerate(sources):
            if source in members:
                members[source].append(index)
        self.members = {name: np.asarray(places) for name, places in members.items()}
        self.counts = dict(counts)
        self.seed = seed

    def __len__(self) -> int:
        return sum(self.counts.values())

    def order(self, epoch: int) -> array[int]:
        drawn = np.concatenate(
            [
                self._draw(index, self.members[name], self.counts[name], epoch)
                for index, name in enumerate(sorted(self.counts))
            ]
        )
        order = np.random.default_rng((self.seed, epoch)).permutation(len(drawn))
        return array("q", drawn[order].tobytes())

    def _draw(self, stream: int, members: Indices, count: int, epoch: int) -> Indices:
        """Return the records that this epoch takes from an endless run of permutations."""
        drawn = [members[:0]]
        start = epoch * count
        while start < (epoch + 1) * count:
            cycle, first = divmod(start, len(members))
            shuffle = np.random.default_rng((self.seed, stream, cycle)).permutation(len(members))
            chosen = shuffle[first : first + (epoch + 1) * count - start]
            drawn.append(members[chosen])
            start += len(chosen)
        return np.concatenate(drawn)


@dataclass(frozen=True)
class Sampling:
    """How much of an epoch each source of a mixture gets.

    Args:
        balance: `source`: sources count by their number of records. `objective`: every objective
            gets the same number of supervised records, whatever its sources hold.
        temperature: Flattens the mixture: a share p becomes proportional to `p^(1/temperature)`.
            1 leaves it, larger values move it towards equal shares.
        epoch_size: Records in an epoch; by default as many as there are.
    """

    balance: Literal["source", "objective"] = "source"
    temperature: float = 1.0
    epoch_size: int | None = None

    def __post_init__(self) -> None:
        for name, fits, expected in (
            ("balance", self.balance in ("source", "objective"), "'source' or 'objective'"),
            ("temperature", self.temperature > 0, "above 0"),
            ("epoch_size", self.epoch_size is None or self.epoch_size >= 1, "at least 1"),
        ):
            if not fits:
                got = getattr(self, name)
                raise ConfigError(f"sampling.{name} is wrong", expected=expected, got=got)

    def shares(
        self,
        sizes: Mapping[str, int],
        supervised: Mapping[str, Mapping[str, int]],
        weights: Mapping[str, float],
    ) -> dict[str, float]:
        """Return each source's share of an epoch; they sum to 1.

        Args:
            sizes: Source to its number of records.
            supervised: Source to objective to the number of records that supervise it.
            weights: Source to its sampling weight, where the user set one: its share before
                temperature is then `weight * size`.
        """
        base = {name: float(size) for name, size in sizes.items()}
        if self.balance == "objective":
            base = _objective_balanced(supervised)
        scaled = {
            name: (weights.get(name, 1.0) * value) ** (1 / self.temperature)
            for name, value in base.items()
        }
        total = sum(scaled.values())
        return {name: value / total for name, value in scaled.items()}


def _objective_balanced(supervised: Mapping[str, Mapping[str, int]]) -> dict[str, float]:
    """Return per source `sum_k n_sk / N_k`: each objective gives weight 1 to its records."""
    totals: Counter[str] = Counter()
    for counts in supervised.values():
        totals.update(counts)
    return {
        source: sum(count / totals[objective] for objective, count in counts.items() if count)
        for source, counts in supervised.items()
    }


def counts_of(shares: Mapping[str, float], size: int) -> dict[str, int]:
    """Return whole numbers near `share * size` that sum to `size` (largest remainders first).

    Example:
        >>> counts_of({"a": 0.5, "b": 0.25, "c": 0.25}, 6)
        {'a': 3, 'b': 2, 'c': 1}
    """
    counts = {name: int(share * size) for name, share in shares.items()}
    by_rest = sorted(shares, key=lambda name: (counts[name] - shares[name] * size, name))
    for name in by_rest[: size - sum(counts.values())]:
        counts[name] += 1
    return counts
