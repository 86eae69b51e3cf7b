"""Items: units of records beside what the model reads of them, and what plans need to know.

A `Reading` gives the units of some sources; `labeled` makes their items.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from prm.data.checks.overlap import Decontamination, without_overlap
from prm.data.checks.problems import ProblemIndex
from prm.data.sources.source import Source
from prm.records import Chain, Comparison, Outcome, Record
from prm.trees.prompts import DroppedRecord
from prm.trees.tokenize import TokenizedChain, TokenizedResponses, Tokens, TreeBuilder
from prm.trees.tree import TokenTree
from prm.trees.units import ResponseSet, Unit, units_of


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


@dataclass(frozen=True, slots=True)
class LabeledResponses:
    """A response set beside what the model reads of it.

    Args:
        responses: The responses and the records about them.
        tokens: What the model reads.
        kept: Indices of the records whose responses all fit and are still distinct.
    """

    responses: ResponseSet
    tokens: TokenizedResponses
    kept: tuple[int, ...]

    @property
    def tree(self) -> TokenTree:
        """What the model reads."""
        return self.tokens.tree

    @property
    def records(self) -> tuple[Outcome, ...]:
        """The records that can be used."""
        return tuple(self.responses.records[index] for index in self.kept)

    @property
    def source(self) -> str:
        """Where the records come from."""
        return self.responses.source

    @property
    def supervised(self) -> frozenset[str]:
        """The objectives that a usable record has a label of."""
        return frozenset(name for record in self.records for name in record.objectives)

    @property
    def labels(self) -> object:
        """Everything about the labels that training depends on."""
        return [
            (_decision(record) if isinstance(record, Comparison) else record.values)
            for record in self.records
        ]

    @property
    def num_truncated(self) -> int:
        """Responses that were cut off."""
        return sum(self.tokens.truncated)

    @property
    def num_unusable(self) -> int:
        """Records whose responses do not fit, or read the same."""
        return len(self.responses.records) - len(self.kept)

    def branches(self, index: int) -> list[int]:
        """Return the branch of each response of a kept record."""
        return self.tokens.present(self.responses.places[index])


def _decision(record: Comparison) -> tuple[object, ...]:
    return record.objective, record.ranks, record.strength, record.votes


LabeledItem = LabeledChain | LabeledResponses
"""A tokenized unit with its labels."""


def labeled(builder: TreeBuilder, units: Sequence[Unit]) -> Iterator[LabeledItem | DroppedRecord]:
    """Yield each unit's item, or the reason why it is left out.

    Raises:
        DataError: A record does not fit and the spec says to stop.
    """
    for unit, tokens in zip(units, builder.build_all(units), strict=True):
        yield tokens if isinstance(tokens, DroppedRecord) else item_of(unit, tokens)


def by_kind(
    items: Iterable[tuple[int, LabeledItem]],
) -> tuple[dict[int, LabeledChain], dict[int, LabeledResponses]]:
    """Divide numbered items into chains and response sets, each by its number, in order."""
    chains: dict[int, LabeledChain] = {}
    sets: dict[int, LabeledResponses] = {}
    for index, item in items:
        if isinstance(item, LabeledChain):
            chains[index] = item
        else:
            sets[index] = item
    return chains, sets


def item_of(unit: Unit, tokens: Tokens) -> LabeledItem:
    """Join a unit with its tokens; records that no longer make sense are left out of a set."""
    if isinstance(unit, Chain):
        return LabeledChain(unit, cast(TokenizedChain, tokens))
    read = cast(TokenizedResponses, tokens)
    distinct = (len(read.texts(places)) == len(places) for places in unit.places)
    return LabeledResponses(unit, read, tuple(index for index, kept in enumerate(distinct) if kept))


class Fact(NamedTuple):
    """What a mixture counts of an item; few items differ in it."""

    source: str
    supervised: frozenset[str]
    is_chain: bool

    @classmethod
    def of(cls, item: LabeledItem) -> Fact:
        """Return the fact of an item."""
        return cls(item.source, item.supervised, isinstance(item, LabeledChain))


@dataclass(frozen=True)
class Facts:
    """What plans, mixtures and reports need to know of every item, as columns.

    Args:
        num_tokens: Tokens of its tree, shape `[item]`, int32.
        num_truncated: Steps or responses of it that were cut off, shape `[item]`, int32.
        num_unusable: Records of it that cannot be used, shape `[item]`, int32.
        kinds: Index in `known` of its fact, shape `[item]`, int32.
        digests: Digest of tokens and labels, shape `[item, 16]`, uint8.
        known: The different facts.
    """

    num_tokens: NDArray[np.int32]
    num_truncated: NDArray[np.int32]
    num_unusable: NDArray[np.int32]
    kinds: NDArray[np.int32]
    digests: NDArray[np.uint8]
    known: tuple[Fact, ...]

    @classmethod
    def of(cls, items: Sequence[LabeledItem]) -> Facts:
        """Collect the facts of items."""
        known: dict[Fact, int] = {}
        kinds = [known.setdefault(Fact.of(item), len(known)) for item in items]
        digests = b"".join(digest_of(item) for item in items)
        return cls(
            np.array([item.tree.num_tokens for item in items], np.int32),
            np.array([item.num_truncated for item in items], np.int32),
            np.array([item.num_unusable for item in items], np.int32),
            np.array(kinds, np.int32),
            np.frombuffer(digests, np.uint8).reshape(len(items), DIGEST),
            tuple(known),
        )

    def __len__(self) -> int:
        return len(self.num_tokens)

    def __iter__(self) -> Iterator[Fact]:
        return (self.known[kind] for kind in self.kinds)

    def take(self, rows: NDArray[np.intp]) -> Facts:
        """Return the facts of some items, in the order of `rows`."""
        columns = [field.name for field in fields(self) if field.name != "known"]
        return replace(self, **{name: getattr(self, name)[rows] for name in columns})

    def supervise(self, objectives: frozenset[str]) -> NDArray[np.bool_]:
        """Return which items have a label of one of some objectives, shape `[item]`."""
        chosen = [index for index, fact in enumerate(self.known) if fact.supervised & objectives]
        return np.isin(self.kinds, chosen)

    def sources(self, *, chains: bool) -> set[str]:
        """Return the names of the sources of chains, or of those of responses."""
        found = (self.known[kind] for kind in np.unique(self.kinds))
        return {fact.source for fact in found if fact.is_chain == chains}


DIGEST = 16
"""Bytes of an item's digest."""


def digest_of(item: LabeledItem) -> bytes:
    """Return a digest of everything about an item that training depends on."""
    return hashlib.sha256(repr((item.tree, item.labels)).encode()).digest()[:DIGEST]


@dataclass(frozen=True)
class Reading:
    """The units of some sources, read anew at every iteration.

    Args:
        sources: The sources.
        without: Sources whose problems are left out.
        say: Takes a line about what was left out.
    """

    sources: Sequence[Source]
    without: Sequence[Source]
    say: Callable[[str], None]

    def __iter__(self) -> Iterator[Unit]:
        return units_of(self._decontaminated() if self.without else _records(self.sources))

    def identity(self) -> list[Any]:
        """Return what decides the units, as JSON values."""
        return [[source.identity() for source in part] for part in (self.sources, self.without)]

    def _decontaminated(self) -> Iterator[Record]:
        index, removed = ProblemIndex.of(_records(self.without)), Decontamination()
        yield from without_overlap(_records(self.sources), index, removed)
        num_read = removed.num_kept + removed.num_removed
        self.say(f"decontamination took out {removed.num_removed} of {num_read} records")


def _records(sources: Sequence[Source]) -> Iterator[Any]:
    for source in sources:
        yield from source


class Records(Iterable[Record]):
    """The records of units, in order; they can be iterated repeatedly."""

    def __init__(self, units: Sequence[Unit]) -> None:
        self.units = units

    def __iter__(self) -> Iterator[Record]:
        return (record for unit in self.units for record in unit.records)
