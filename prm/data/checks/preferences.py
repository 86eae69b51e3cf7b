"""What comparisons of the same prompt say together: contradictions and circles of preference."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prm.data.checks.keys import Columns, response_keys
from prm.data.checks.linter import Example, Finding, OutcomeCheck, Tally
from prm.records import Comparison

Integers = NDArray[np.int64]


def preferences(record: Comparison) -> Iterator[tuple[int, int, int]]:
    """Yield (first, second, sign) of every two different responses of a comparison.

    `first` and `second` are keys of prompt and response. The sign is 1 where the first is better,
    -1 where the second is, and 0 where they are tied.
    """
    ranked = zip(response_keys(record), record.ranks, strict=True)
    for (first, a), (second, b) in combinations(ranked, 2):
        if first != second:
            yield first, second, (a < b) - (a > b)


class PreferenceConsistency(OutcomeCheck):
    """Finds pairs that are preferred both ways, and circles (a over b, b over c, c over a).

    Only comparisons of one prompt for one objective are held against each other. Circles are looked
    for among majorities: a pair that is even has no winner.
    """

    def __init__(self) -> None:
        self._places: list[tuple[str, str]] = []
        self._pairs: dict[str, Columns] = defaultdict(lambda: Columns("qqbq"))

    def see_comparison(self, record: Comparison) -> None:
        """Collect the preferences of a comparison."""
        pairs = self._pairs[record.objective]
        for first, second, sign in preferences(record):
            for_low = sign if first < second else -sign
            pairs.add(min(first, second), max(first, second), for_low, len(self._places))
        self._places.append((record.origin, record.id))

    def findings(self) -> list[Finding]:
        """Return contradictions and circles."""
        both_ways = Tally("contradiction", "warning", "pairs of responses preferred both ways")
        circles = Tally("preference_cycle", "warning", "")
        num_triples = 0
        for objective, pairs in sorted(self._pairs.items()):
            graph = _Majority.of(pairs)
            for place, other in graph.contradictions():
                detail = f"{objective}: the other way round at {self._name(other)}"
                both_ways.add_example(Example(*self._places[place], detail))
            for rows in graph.circles():
                detail = f"{objective}: {len(rows)} responses in a circle, through "
                detail += ", ".join(map(self._name, rows))
                circles.add_example(Example(*self._places[rows[0]], detail))
            num_triples += graph.num_three_cycles()
        circles.message = f"groups of responses preferred in circles; {num_triples} circles of 3"
        return [*both_ways.findings(), *circles.findings()]

    def _name(self, place: int) -> str:
        origin, name = self._places[place]
        return name or origin


@dataclass(frozen=True)
class _Majority:
    """The pairs of one objective: rows of the table, and the majority of each distinct pair.

    Args:
        row_pair: Number of the pair that each row is about.
        row_sign: Which response the row prefers.
        row_place: Where the row was read.
        winner: Node number of the winner of each pair that has one.
        loser: Node number of its loser.
        place: Where a row that says so was read.
    """

    row_pair: Integers
    row_sign: Integers
    row_place: Integers
    winner: Integers
    loser: Integers
    place: Integers

    @classmethod
    def of(cls, pairs: Columns) -> _Majority:
        low, high, sign, place = pairs.arrays()
        key = low * 3 + high  # wraps around; two pairs that share a key are as rare as two texts
        _, first, pair = np.unique(key, return_index=True, return_inverse=True)
        net = np.sign(np.bincount(pair, sign, minlength=len(first))).astype(np.int64)
        _, nodes = np.unique(np.concatenate([low[first], high[first]]), return_inverse=True)
        a, b = nodes[: len(first)], nodes[len(first) :]
        decided = net != 0
        winner, loser = np.where(net > 0, a, b)[decided], np.where(net > 0, b, a)[decided]
        said = np.full(len(first), -1)
        agrees = sign == net[pair]
        said[pair[agrees][::-1]] = place[agrees][::-1]
        return cls(pair, sign, place, winner, loser, said[decided])

    def contradictions(self) -> Iterator[tuple[int, int]]:
        """Yield for each pair preferred both ways the place of a row, and of one against it."""
        num_pairs = int(self.row_pair.max(initial=-1)) + 1
        for_low = np.bincount(self.row_pair, self.row_sign > 0, minlength=num_pairs)
        for_high = np.bincount(self.row_pair, self.row_sign < 0, minlength=num_pairs)
        torn = (for_low > 0) & (for_high > 0)
        seen: dict[Any, tuple[int, int]] = {}
        rows = torn[self.row_pair] & (self.row_sign != 0)
        for pair, sign, place in zip(
            self.row_pair[rows], self.row_sign[rows], self.row_place[rows].tolist(), strict=True
        ):
            first_sign, first_place = seen.setdefault(pair, (sign, place))
            if first_sign == -sign:
                seen[pair] = (0, place)
                yield place, first_place

    def circles(self) -> Iterator[list[int]]:
        """Yield for each group of responses that reach each other the places of one circle."""
        from scipy.sparse.csgraph import connected_components

        _, component = connected_components(self._graph(), connection="strong")
        inside = np.flatnonzero(component[self.winner] == component[self.loser])
        edges: dict[int, dict[int, dict[int, int]]] = {}
        for winner, loser, place in zip(
            self.winner[inside], self.loser[inside], self.place[inside], strict=True
        ):
            group = edges.setdefault(int(component[winner]), {})
            group.setdefault(int(winner), {})[int(loser)] = int(place)
        for group in edges.values():
            yield _shortest_circle(group)

    def num_three_cycles(self) -> int:
        """Return the number of triples that are preferred in a circle."""
        beats = self._graph()
        return round(float((beats @ beats).multiply(beats.T).sum()) / 3)

    def _graph(self) -> Any:
        from scipy.sparse import csr_array

        size = int(max(self.winner.max(initial=-1), self.loser.max(initial=-1))) + 1
        ones = np.ones(len(self.winner))
        return csr_array((ones, (self.winner, self.loser)), shape=(size, size))


def _shortest_circle(edges: dict[int, dict[int, int]]) -> list[int]:
    """Return the labels of the edges of a shortest circle through the first node."""
    start = next(iter(edges))
    paths: dict[int, list[int]] = {start: []}
    queue = deque([start])
    while queue:
        node = queue.popleft()
        for following, label in edges.get(node, {}).items():
            if following == start:
                return [*paths[node], label]
            if following not in paths:
                paths[following] = [*paths[node], label]
                queue.append(following)
    raise AssertionError("every node of a strongly connected component is on a circle")
