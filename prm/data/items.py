"""Items: units of records beside what the model reads of them, and the numbers that plans need."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from prm.data.response_labels import LabeledResponses, label
from prm.data.step_labels import LabeledChain
from prm.records import Chain
from prm.spec import RewardSpec
from prm.trees.prompts import DroppedRecord
from prm.trees.tokenize import BLOCK, TreeBuilder
from prm.trees.tokenize_responses import ResponseTreeBuilder
from prm.trees.units import ResponseSet

Unit = Chain | ResponseSet
"""What is split, batched and counted."""

LabeledItem = LabeledChain | LabeledResponses
"""A tokenized unit."""


class UnitTokenizer:
    """Makes items of units, in the order of the units.

    Args:
        tokenizer: The model's tokenizer.
        spec: The model's spec.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, spec: RewardSpec) -> None:
        self.tokenizer = tokenizer
        self.spec = spec

    def items(self, units: Sequence[Unit]) -> Iterator[LabeledItem | DroppedRecord]:
        """Yield each unit's item, or the reason why it is left out.

        Raises:
            DataError: A record does not fit and the spec says to stop.
        """
        iterator = iter(units)
        while block := list(islice(iterator, BLOCK)):
            yield from self._block(block)

    def _block(self, units: Sequence[Unit]) -> Iterator[LabeledItem | DroppedRecord]:
        chains = [unit for unit in units if isinstance(unit, Chain)]
        sets = [unit for unit in units if isinstance(unit, ResponseSet)]
        of_chains = self._chains.build_all(chains) if chains else iter(())
        of_sets = self._responses.build_all(sets) if sets else iter(())
        for unit in units:
            if isinstance(unit, Chain):
                steps = next(of_chains)
                yield steps if isinstance(steps, DroppedRecord) else LabeledChain(unit, steps)
            else:
                tokens = next(of_sets)
                yield tokens if isinstance(tokens, DroppedRecord) else label(unit, tokens)

    @cached_property
    def _chains(self) -> TreeBuilder:
        return TreeBuilder(self.tokenizer, self.spec)

    @cached_property
    def _responses(self) -> ResponseTreeBuilder:
        return ResponseTreeBuilder(self.tokenizer, self.spec)


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
