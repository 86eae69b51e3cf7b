"""Which chains are trained on: splits by problem, and the shuffled-label control."""

from __future__ import annotations

import random
from collections.abc import Sequence

from prm.records import Chain


def split_by_group(
    chains: Sequence[Chain], shares: dict[str, float], seed: int
) -> dict[str, list[Chain]]:
    """Split chains into named parts and `train`, keeping every problem in one part.

    Args:
        chains: The chains.
        shares: Part to its share of the problems.
        seed: Seed of the assignment.

    Returns:
        Part to chains, in their order; `train` holds the rest.
    """
    groups = sorted({chain.group for chain in chains})
    random.Random(seed).shuffle(groups)
    part_of: dict[str, str] = {}
    start = 0
    for part, share in shares.items():
        stop = start + (max(1, round(share * len(groups))) if share > 0 else 0)
        part_of |= dict.fromkeys(groups[start:stop], part)
        start = stop
    parts: dict[str, list[Chain]] = {part: [] for part in (*shares, "train")}
    for chain in chains:
        parts[part_of.get(chain.group, "train")].append(chain)
    return parts


def shuffled_labels(chains: Sequence[Chain], seed: int) -> list[Chain]:
    """Permute the labels of each objective over all labeled steps of all chains."""
    generator = random.Random(seed)
    pools: dict[str, list[float]] = {}
    for chain in chains:
        for name, values in chain.labels.items():
            pools.setdefault(name, []).extend(value for value in values if value is not None)
    for pool in pools.values():
        generator.shuffle(pool)
    return [
        chain.with_labels(
            {
                name: [None if value is None else pools[name].pop() for value in values]
                for name, values in chain.labels.items()
            }
        )
        for chain in chains
    ]
