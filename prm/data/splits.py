"""Which units are trained on: splits by problem, and the shuffled-label control."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from prm.data.groups import problem_groups
from prm.records import Chain, Outcome, Rating, Record
from prm.trees.units import ResponseSet

AnyUnit = TypeVar("AnyUnit", bound=Record | ResponseSet)


def split_by_group(
    units: Sequence[AnyUnit], shares: dict[str, float], seed: int
) -> dict[str, list[AnyUnit]]:
    r"""Split units into named parts and `train`, keeping all that are about one problem in one.

    Units with one group are about one problem, and so are units with one problem's text, in
    whatever layout: `prm.data.groups`. Which part a unit is in depends on the units and the seed,
    not on their order.

    Args:
        units: Chains, response sets, or records about responses.
        shares: Part to its share of the problems.
        seed: Seed of the assignment.

    Returns:
        Part to units, in their order; `train` holds the rest.

    Example:
        >>> chains = [Chain(prompt, ["6"]) for prompt in ("2 + 3?", "2 × 3?", r"$2 \times 3$?")]
        >>> parts = split_by_group(chains, {"test": 0.5}, seed=0)
        >>> sorted(len(part) for part in parts.values())
        [1, 2]
    """
    records = [unit.records[0] if isinstance(unit, ResponseSet) else unit for unit in units]
    places = split_by_rank(problem_groups(records), shares, seed)
    return {part: [units[place] for place in chosen] for part, chosen in places.items()}


def split_by_rank(
    ranks: NDArray[np.int32], shares: dict[str, float], seed: int
) -> dict[str, NDArray[np.int64]]:
    """Split as `split_by_group`, by the number of each unit's problem, as of `problem_groups`.

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
    chains: list[Any] = []
    sets: list[Any] = []
    places = [chains if isinstance(unit, Chain) else sets for unit in units]
    for place, unit in zip(places, units, strict=True):
        place.append(unit)
    new_chains: Iterator[Any] = iter(shuffled_step_labels(chains, seed))
    new_sets: Iterator[Any] = iter(shuffled_response_labels(sets, seed))
    return [next(new_chains if place is chains else new_sets) for place in places]


def shuffled_step_labels(chains: Sequence[Chain], seed: int) -> list[Chain]:
    """Permute the labels of each objective over all labeled steps of all chains."""
    known = (item for chain in chains for item in chain.labels.items())
    pools = _shuffled_pools(known, random.Random(seed))
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
    records = (record for item in sets for record in item.records)
    known = ((name, [value]) for record in records for name, value in record.values.items())
    pools = _shuffled_pools(known, generator)
    return [
        ResponseSet.of([_shuffled(record, pools, generator) for record in item.records])
        for item in sets
    ]


def _shuffled_pools(
    labels: Iterable[tuple[str, Sequence[float | None]]], generator: random.Random
) -> dict[str, list[float]]:
    """Return all known labels of each objective, in another order."""
    pools: dict[str, list[float]] = {}
    for name, values in labels:
        pools.setdefault(name, []).extend(value for value in values if value is not None)
    for pool in pools.values():
        generator.shuffle(pool)
    return pools


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
