"""The work of requests: inputs that become token trees piece by piece, and results on their way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from prm.models.reward_model import ModelOutput
from prm.serve.errors import TooLargeError
from prm.serve.options import ServeOptions
from prm.trees.tree import TokenTree

BLOCK = 32
"""Inputs of a request that are tokenized together."""


@dataclass(frozen=True, slots=True)
class Tree:
    """Some inputs of a request as one token tree.

    Args:
        tokens: The token tree; `None` if there is nothing to compute.
        places: Index of each input among those that were tokenized together.
        item: What `Work.finish` wants to know about them.
    """

    tokens: TokenTree | None
    places: tuple[int, ...]
    item: Any

    @property
    def longest(self) -> int:
        """Tokens of the longest input."""
        if self.tokens is None:
            return 0
        sizes = (len(segment.input_ids) for segment in self.tokens.segments)
        return max(map(sum, zip(self.tokens.depths(), sizes, strict=True)))


class Work(Protocol):
    """How the inputs of a request become token trees, and outputs of the model their results."""

    def tokenize(self, inputs: Sequence[Any]) -> list[Tree]:
        """Return trees that together hold each input once."""
        ...

    def finish(self, item: Any, output: ModelOutput) -> list[Any]:
        """Return the results of the inputs of a tree."""
        ...


@dataclass(slots=True, eq=False)
class Unit:
    """A tree of a request, ready for the model; its inputs begin at `first` of the request's."""

    job: Job
    first: int
    tree: Tree

    @property
    def tokens(self) -> TokenTree | None:
        """The token tree."""
        return self.tree.tokens

    def results(self, output: ModelOutput) -> list[tuple[int, Any]]:
        """Return the results of the inputs, each with its index in the request."""
        found = self.job.work.finish(self.tree.item, output)
        places = [self.first + place for place in self.tree.places]
        return list(zip(places, found, strict=True))


Part = list[tuple[int, Any]] | BaseException
"""Results with the index of their input, or why there will be none."""


@dataclass(slots=True, eq=False)
class Job:
    """The inputs of one request, and where their results go.

    The event loop sets `abandoned` and reads `parts`; the rest belongs to the model's thread.
    """

    work: Work
    inputs: Sequence[Any]
    loop: asyncio.AbstractEventLoop
    parts: asyncio.Queue[Part] = field(default_factory=asyncio.Queue)
    abandoned: bool = False
    ready: deque[Unit] = field(default_factory=deque)
    num_tokenized: int = 0
    num_tokens: int = 0

    def next_unit(self, options: ServeOptions) -> Unit | None:
        """Return the next unit without taking it; `None` if there is no more.

        Raises:
            TooLargeError: The request has too many tokens.
            DataError: An input cannot be tokenized.
        """
        if not self.ready and self.num_tokenized < len(self.inputs):
            self._tokenize(options)
        return self.ready[0] if self.ready else None

    def _tokenize(self, options: ServeOptions) -> None:
        first = self.num_tokenized
        inputs = self.inputs[first : first + BLOCK]
        for tree in self.work.tokenize(inputs):
            self._count(tree, first + tree.places[0], options)
            self.ready.append(Unit(self, first, tree))
        self.num_tokenized += len(inputs)

    def _count(self, tree: Tree, index: int, options: ServeOptions) -> None:
        self.num_tokens += 0 if tree.tokens is None else tree.tokens.num_tokens
        if tree.longest > options.max_record_tokens:
            limit = options.max_record_tokens
            raise _too_many("record", tree.longest, limit, f"records.{index}")
        if self.num_tokens > options.max_request_tokens:
            raise _too_many("request", self.num_tokens, options.max_request_tokens, None)

    def fail(self, error: Exception) -> None:
        """Give up, and tell the event loop why."""
        self.abandoned = True
        self.deliver(error)

    def deliver(self, part: Part) -> None:
        """Hand results, or an error, to the event loop, if it still runs."""
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.parts.put_nowait, part)


def _too_many(what: str, size: int, limit: int, where: str | None) -> TooLargeError:
    return TooLargeError(
        f"the {what} has too many tokens", expected=f"at most {limit:,}", got=size, where=where
    )
