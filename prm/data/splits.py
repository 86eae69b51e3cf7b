"""Which units are trained on: splits by group, and the shuffled-label control."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from prm.records import Chain, Outcome, Rating
from prm.trees.units import ResponseSet


class _Grouped(Protocol):
    @property
    def group(self) -> str: ...


AnyUnit = TypeVar("AnyUnit", bound=_Grouped)


def split_by_group(
    units: Sequence[AnyUnit], shares: dict[str, float], seed: int
) -> dict[str, list[AnyUnit]]:
    """Split units into named parts and `train`, keeping every group (problem) in one part.

    Args:
        units: Chains or response sets.
        shares: Part to its share of the groups.
        seed: Seed of the assignment.

    Returns:
        Part to units, in their order; `train` holds the rest.
    """
    groups = sorted({unit.group for unit in units})
    rank_of = {group: rank for rank, group in enumerate(groups)}
    ranks = np.array([rank_of[unit.group] for unit in units], np.int32)
    places = split_by_rank(ranks, shares, seed)
    return {part: [units[place] for place in chosen] for part, chosen in places.items()}


def split_by_rank(
    ranks: NDArray[np.int32], shares: dict[str, float], seed: int
) -> dict[str, NDArray[np.int64]]:
    """Split as `split_by_group`, by the rank of each unit's group among the sorted groups.

    Returns:
        Part to the places of its units, ascending; `train` holds the rest.
    """
    groups = list(range(int(ranks.max(initial=-1)) + 1))
    random.Random(seed).shuffle(groups)
    part_of = np.full(len(groups), len(shares))
    start = 0
    for index, share in enumerate(shares.values()):
        stop = start + (max(1, round(share * len(groups))) if share > 0 else 0)
        part_of[groups[start:stop]] = index
        start = stop
    parts = part_of[ranks]
    return {name: np.flatnonzero(parts == i) for i, name in enumerate((*shares, "train"))}


def shuffled(units: Sequence[Chain | ResponseSet], seed: int) -> list[Chain | ResponseSet]:
    """Permute the labels of units: those of chains among chains, those of responses among them."""
    places = [index for index, unit in enumerate(units) if isinstance(unit, Chain)]
    others = sorted({*range(len(units))} - {*places})
    chains: list[Any] = [units[index] for index in places]
    sets: list[Any] = [units[index] for index in others]
    found: dict[int, Chain | ResponseSet] = {}
    found |= dict(zip(places, shuffled_step_labels(chains, seed), strict=True))
    found |= dict(zip(others, shuffled_response_labels(sets, seed), strict=True))
    return [found[index] for index in range(len(units))]


def shuffled_step_labels(chains: Sequence[Chain], seed: int) -> list[Chain]:
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


def shuffled_response_labels(sets: Sequence[ResponseSet], seed: int) -> list[ResponseSet]:
    """Permute ratings over all rated responses of an objective, and ranks within comparisons."""
    generator = random.Random(seed)
    pools: dict[str, list[float]] = {}
    for record in (record for item in sets for record in item.records):
        for name, value in record.values.items():
            pools.setdefault(name, []).extend([] if value is None else [value])
    for pool in pools.values():
        generator.shuffle(pool)
    return [
        ResponseSet.of([_shuffled(record, pools, generator) for record in item.records])
        for item in sets
    ]


def _shuffled(record: Outcome, pools: dict[str, list[float]], generator: random.Random) -> Outcome:
    if isinstance(record, Rating):
        values = {
            name: None if value is None else pools[name].pop()
            for name, value in record.values.items()
        }
        return record.with_values(values)
    order = list(range(len(record.responses)))
    generator.shuffle(order)
    return record.reordered(order)
