"""Response sets: a prompt with its distinct responses, and what records say about them.

The records that come from one row of a source, and neighboring records that share a response, are
about the same few responses. They are kept together, so that the prompt and each response are
computed once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from prm.records import Chain, Outcome, Prompt, Record


@dataclass(frozen=True, slots=True)
class ResponseSet:
    """A prompt, its distinct responses, and the records about them.

    Args:
        records: Records with the same prompt, at least one.
        responses: Their distinct responses, in order of appearance.
        places: For each record, the index in `responses` of each of its responses.
    """

    records: tuple[Outcome, ...]
    responses: tuple[str, ...]
    places: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, records: Sequence[Outcome]) -> ResponseSet:
        """Build the set of some records with the same prompt.

        Example:
            >>> from prm.records import Comparison, Rating
            >>> pair = Comparison("2 + 2?", ["4", "5"], objective="factuality")
            >>> found = ResponseSet.of([pair, Rating("2 + 2?", "5", {"safety": 1})])
            >>> found.responses, found.places
            (('4', '5'), ((0, 1), (1,)))
        """
        index: dict[str, int] = {}
        for record in records:
            for response in record.responses:
                index.setdefault(response, len(index))
        places = tuple(tuple(index[text] for text in record.responses) for record in records)
        return cls(tuple(records), tuple(index), places)

    @property
    def prompt(self) -> Prompt:
        """The prompt of all records."""
        return self.records[0].prompt

    @property
    def texts(self) -> tuple[str, ...]:
        """What follows the prompt: the responses."""
        return self.responses

    @property
    def source(self) -> str:
        """The source of all records."""
        return self.records[0].source

    @property
    def group(self) -> str:
        """The group of all records."""
        return self.records[0].group


Unit = Chain | ResponseSet
"""What is tokenized, split, batched and counted."""


def unit_of(records: Sequence[Any]) -> Unit:
    """Return the unit of records that belong together: one chain, or what is said of one prompt."""
    return records[0] if isinstance(records[0], Chain) else ResponseSet.of(records)


def units_of(records: Iterable[Record]) -> Iterator[Unit]:
    """Return the units that records form: each chain, and the response set of each row."""
    for is_chain, members in groupby(records, key=lambda record: isinstance(record, Chain)):
        if is_chain:
            yield from members  # type: ignore[misc]
        else:
            yield from response_sets(members)  # type: ignore[arg-type]


def response_sets(records: Iterable[Outcome]) -> Iterator[ResponseSet]:
    """Group neighboring records with the same prompt that come from one row or share a response.

    Example:
        >>> from prm.records import Comparison, Rating
        >>> rows = [Rating("a?", "b", origin="f:1"), Rating("a?", "c", origin="f:1")]
        >>> pairs = [Comparison("a?", [*pair], objective="safety") for pair in ("de", "df", "gh")]
        >>> [found.responses for found in response_sets([*rows, *pairs])]
        [('b', 'c'), ('d', 'e', 'f'), ('g', 'h')]
    """
    members: list[Outcome] = []
    for record in records:
        if members and not _belongs(record, members):
            yield ResponseSet.of(members)
            members = []
        members.append(record)
    if members:
        yield ResponseSet.of(members)


def _belongs(record: Outcome, members: Sequence[Outcome]) -> bool:
    """Whether a record is about the same prompt and responses; none is rated twice in a set."""
    last = members[-1]
    if (record.source, record.group, record.prompt) != (last.source, last.group, last.prompt):
        return False
    if record.origin and record.origin == last.origin:
        return True
    responses = {response for member in members for response in member.responses}
    return not (responses.isdisjoint(record.responses) or _rated(record) & _rated(*members))


def _rated(*records: Outcome) -> set[tuple[str, str]]:
    """Return which responses are rated for which objectives."""
    return {
        (record.responses[0], name)
        for record in records
        for name, value in record.values.items()
        if value is not None
    }
