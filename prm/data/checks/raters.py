"""What raters say about the same pair or response: their agreement, and ratings far apart."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prm.data.checks.keys import Columns, response_keys
from prm.data.checks.linter import Example, Finding, OutcomeCheck, Severity, Tally
from prm.data.checks.preferences import preferences
from prm.data.formats.base import GRADES, VERDICTS
from prm.fields import is_number
from prm.metrics.agreement import Level, krippendorff_alpha
from prm.records import Comparison, Outcome, Rating

_LOW_AGREEMENT = 0.2
_MOSTLY_UNANIMOUS = 0.8
"""From this share up raters agree; alpha can be low all the same, where few opinions differ."""
_MAX_RATERS = 100

Unit = tuple[NDArray[np.float64], NDArray[np.int64]]
"""The opinions about one pair or response, and the places they were read at."""


class Raters(OutcomeCheck):
    """Measures agreement where a pair or a response was judged more than once.

    Opinions are the verdicts or votes of a comparison, the grades behind a mean rating, and
    comparisons or ratings that come again in other rows; copies of a row count as opinions too. A
    pair's opinions are -1, 0 (tied) and 1.

    Args:
        tolerance: Largest difference between two ratings of one response that is no conflict, as a
            share of the objective's range, in [0, 1].
    """

    def __init__(self, tolerance: float) -> None:
        self._tolerance = tolerance
        self._places: list[tuple[str, str]] = []
        self._pairs: dict[str, Columns] = defaultdict(_opinions)
        self._ratings: dict[str, Columns] = defaultdict(_opinions)

    def see_comparison(self, record: Comparison) -> None:
        """Collect the opinions of a comparison."""
        place = self._place(record)
        for unit, opinion in _pair_opinions(record):
            self._pairs[record.objective].add(unit, opinion, place)

    def see_rating(self, record: Rating) -> None:
        """Collect the opinions of a rating."""
        place = self._place(record)
        (unit,) = response_keys(record)
        for objective, value in record.values.items():
            if value is not None:
                for opinion in _grades(record, objective) or [value]:
                    self._ratings[objective].add(unit, opinion, place)

    def _place(self, record: Outcome) -> int:
        self._places.append((record.origin, record.id))
        return len(self._places) - 1

    def findings(self) -> list[Finding]:
        """Return ratings that conflict, and a table of agreement."""
        conflicts = Tally("rating_conflict", "warning", "")
        conflicts.message = f"responses rated more than {self._tolerance:.0%} of the range apart"
        table = []
        for objective, opinions in sorted(self._pairs.items()):
            table += _agreement(objective, "comparisons", _repeated(opinions))
        for objective, opinions in sorted(self._ratings.items()):
            units = _repeated(opinions)
            table += _agreement(objective, "ratings", units)
            limit = self._tolerance * float(np.ptp(opinions.arrays()[1]))
            for example in self._apart(objective, units, limit):
                conflicts.add_example(example)
        return [*conflicts.findings(), *_agreement_findings(table)]

    def _apart(self, objective: str, units: list[Unit], limit: float) -> Iterator[Example]:
        for values, places in units:
            if np.ptp(values) > limit:
                low, high = values.argmin(), values.argmax()
                origin, name = self._places[places[low]]
                other = " ".join(filter(None, self._places[places[high]]))
                detail = f"{objective}: {values[low]:g} here, {values[high]:g} at {other}"
                yield Example(origin, name, detail)


def _grades(record: Rating, objective: str) -> list[float]:
    """Return what each rater gave a response; nothing if that is not known."""
    grades = record.metadata.get(GRADES)
    listed = grades.get(objective) if isinstance(grades, Mapping) else None
    return [grade for grade in listed if is_number(grade)] if isinstance(listed, list) else []


def _opinions() -> Columns:
    """Return columns for the unit, the value and the place of each opinion about an objective."""
    return Columns("qdq")


def _repeated(opinions: Columns) -> list[Unit]:
    """Return the units with two or more opinions, in order of appearance."""
    units, values, places = opinions.arrays()
    _, first, inverse, counts = np.unique(
        units, return_index=True, return_inverse=True, return_counts=True
    )
    rows = np.flatnonzero(counts[inverse] > 1)
    if not len(rows):
        return []
    rows = rows[np.argsort(first[inverse[rows]], kind="stable")]
    starts = np.flatnonzero(np.diff(inverse[rows], prepend=-1))[1:]
    parts = (np.split(values[rows], starts), np.split(places[rows], starts))
    return list(zip(*parts, strict=True))


def _pair_opinions(record: Comparison) -> Iterator[tuple[int, int]]:
    """Yield (pair, opinion) for each rater's verdict, or for each pair where raters are not known.

    The response with the lower key counts as the first, so that chance agreement does not depend
    on the order in which a source writes pairs. A comparison is one opinion about a pair of texts,
    however often it has them. Where it says of three or more only which are right, it is none about
    two that are right or two that are wrong.
    """
    opinions = verdicts(record)
    if opinions is None:
        yield from _ranked_opinions(record)
        return
    for first, second, _ in preferences(record):
        pair, flip = _pair_of(first, second)
        for opinion in opinions:
            yield pair, flip * opinion


def _ranked_opinions(record: Comparison) -> Iterator[tuple[int, int]]:
    found: dict[int, set[int]] = defaultdict(set)
    only_right_or_wrong = len(record.ranks) > 2 and len(set(record.ranks)) <= 2
    for first, second, sign in preferences(record):
        if sign or not only_right_or_wrong:
            pair, flip = _pair_of(first, second)
            found[pair].add(flip * sign)
    yield from ((pair, next(iter(signs))) for pair, signs in found.items() if len(signs) == 1)


def _pair_of(first: int, second: int) -> tuple[int, int]:
    """Return the key of a pair in either order, and -1 if it is the other way round."""
    return hash((min(first, second), max(first, second))), 1 if first < second else -1


def verdicts(record: Comparison) -> list[int] | None:
    """Return what each rater of a pair said: 1 for the first response, -1 for the second, 0 tied.

    Metadata `verdicts` say so exactly: 1 for the better response (of a tie, the first), -1 for the
    other. Votes alone cannot tell two ties from one vote for each, and are read as the latter;
    fractions other than halves, and more votes than raters would cast, are no verdicts. `None` if
    nothing is known about raters.

    Example:
        >>> verdicts(Comparison("?", ["a", "b"], objective="safety", votes=(2.5, 0.5)))
        [1, 1, 0]
    """
    exact = record.metadata.get(VERDICTS)
    if isinstance(exact, list):
        flip = 1 if record.ranks[0] == 0 else -1
        return [flip * verdict for verdict in exact if verdict in (-1, 0, 1)]
    if record.votes is None:
        return None
    first, second = record.votes
    if (2 * first) % 1 or (first + second) % 1 or first + second > _MAX_RATERS:
        return []
    return [1] * int(first) + [0] * int(2 * (first % 1)) + [-1] * int(second)


def _agreement(objective: str, kind: str, units: list[Unit]) -> list[dict[str, Any]]:
    """Return the row of an objective; none if nothing was judged twice."""
    if not units:
        return []
    values = [unit.tolist() for unit, _ in units]
    row: dict[str, Any] = {
        "objective": objective,
        "kind": kind,
        "units": len(units),
        "opinions": sum(map(len, values)),
        "share_unanimous": sum(len(set(unit)) == 1 for unit in values) / len(units),
    }
    levels: tuple[Level, ...] = ("nominal", "ordinal")
    for level in levels:
        alpha = krippendorff_alpha(values, level)
        row[f"alpha_{level}"] = None if math.isnan(alpha) else alpha
    return [row]


def _agreement_findings(table: list[dict[str, Any]]) -> list[Finding]:
    if not table:
        return []
    low = [
        row["objective"]
        for row in table
        if row["alpha_ordinal"] is not None
        and row["alpha_ordinal"] < _LOW_AGREEMENT
        and row["share_unanimous"] < _MOSTLY_UNANIMOUS
    ]
    message = "pairs and responses that were judged more than once"
    if low:
        message += f"; raters hardly agree on {', '.join(map(repr, low))}"
    count = sum(row["units"] for row in table)
    severity: Severity = "warning" if low else "info"
    return [Finding("rater_agreement", severity, message, count, table=tuple(table))]
