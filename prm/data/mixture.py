"""Mixtures: what each source holds, supervises, and contributes to an epoch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from prm.data.items import Fact, LabeledItem
from prm.data.sampling import Mixed, Sampler, Sampling, Shuffled, counts_of


@dataclass(frozen=True, slots=True)
class Mixture:
    """How the training items of several sources are mixed.

    Args:
        sources: Source of each item.
        sizes: Source to its number of items.
        supervised: Source to objective to the number of items that supervise it.
        counts: Source to the number of its items in an epoch.
    """

    sources: Sequence[str]
    sizes: Mapping[str, int]
    supervised: Mapping[str, Mapping[str, int]]
    counts: Mapping[str, int]

    @classmethod
    def of(
        cls,
        items: Iterable[Fact | LabeledItem],
        objectives: frozenset[str],
        sampling: Sampling,
        weights: Mapping[str, float],
    ) -> Mixture:
        """Count what items supervise and divide an epoch among their sources.

        Args:
            items: The training items, or their facts.
            objectives: Names of the objectives that are trained.
            sampling: How an epoch is divided.
            weights: Source to its sampling weight, where there is one.
        """
        sources = []
        kinds: Counter[tuple[str, frozenset[str]]] = Counter()
        for item in items:
            sources.append(item.source)
            kinds[item.source, item.supervised] += 1
        sizes = dict.fromkeys(sorted(set(sources)), 0)
        supervised: dict[str, Counter[str]] = {name: Counter() for name in sizes}
        for (source, names), count in kinds.items():
            sizes[source] += count
            supervised[source].update(dict.fromkeys(names & objectives, count))
        shares = sampling.shares(sizes, supervised, weights)
        counts = counts_of(shares, sampling.epoch_size or len(sources))
        return cls(sources, sizes, supervised, counts)

    def sampler(self, seed: int) -> Sampler:
        """Return what draws the items of an epoch: all of them once, if that is the mixture."""
        if self.counts == self.sizes:
            return Shuffled(len(self.sources), seed)
        return Mixed(self.sources, self.counts, seed)

    def table(self) -> str:
        """Return the mixture as a table."""
        objectives = sorted({name for row in self.supervised.values() for name in row})
        header = ["source", "size", *objectives, "in an epoch", "share"]
        total = sum(self.counts.values())
        rows = [
            [
                name,
                f"{size:,}",
                *(f"{self.supervised[name].get(objective, 0):,}" for objective in objectives),
                f"{self.counts[name]:,}",
                f"{self.counts[name] / total:.1%}",
            ]
            for name, size in self.sizes.items()
        ]
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
            for row in (header, *rows)
        ]
        return "\n".join(["Training mixture (how many supervise each objective):", *lines])
