"""`PrefixTree`: what a model computed for token sequences that share beginnings.

A radix tree: each run holds tokens without a fork, with their keys and values in every layer and
their last hidden states. Sequences share the runs of what they have in common, token by token. Runs
that were used least recently are evicted first, and always before the runs above them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor


class Run:
    """Tokens without a fork, and what the model computed for them.

    Args:
        tokens: Token ids.
        parent: The run above; `None` for the root, which holds no token.

    Attributes:
        children: First token to run below.
        keys_values: `[layer, 2, kv_head, token, dim]`; `None` before they are computed.
        states: Last hidden states, `[token, hidden]`; `None` before they are computed.
    """

    __slots__ = ("_keys_values", "_states", "children", "depth", "parent", "tokens", "used")

    def __init__(self, tokens: tuple[int, ...], parent: Run | None) -> None:
        self.tokens = tokens
        self.parent = parent
        self.depth: int = 0 if parent is None else parent.depth + len(parent.tokens)
        self.children: dict[int, Run] = {}
        self.used = 0
        self._keys_values: Tensor | None = None
        self._states: Tensor | None = None

    @property
    def is_new(self) -> bool:
        """Whether nothing was computed yet."""
        return self._states is None

    @property
    def keys_values(self) -> Tensor:
        """Keys and values, `[layer, 2, kv_head, token, dim]`."""
        assert self._keys_values is not None
        return self._keys_values[..., : len(self.tokens), :]

    @property
    def states(self) -> Tensor:
        """Last hidden states, `[token, hidden]`."""
        assert self._states is not None
        return self._states[: len(self.tokens)]

    @property
    def capacity(self) -> int:
        """Tokens that memory is held for."""
        return 0 if self._states is None else len(self._states)

    @property
    def num_bytes(self) -> int:
        """Memory held."""
        tensors = (self._keys_values, self._states)
        return sum(tensor.untyped_storage().nbytes() for tensor in tensors if tensor is not None)

    def above(self) -> list[Run]:
        """Return the runs on the path to this one, from the first token on."""
        runs: list[Run] = []
        run = self.parent
        while run is not None and run.parent is not None:
            runs.append(run)
            run = run.parent
        return runs[::-1]

    def fill(self, keys_values: Tensor, states: Tensor) -> None:
        """Keep what was computed for the tokens, in tensors that hold nothing else alive."""
        self._keys_values, self._states = keys_values, states

    def grow(self, capacity: int) -> None:
        """Make room for `capacity` tokens."""
        keys_values, states = self.keys_values, self.states
        *outer, _, dim = keys_values.shape
        self._keys_values = keys_values.new_empty(*outer, capacity, dim)
        self._states = states.new_empty(capacity, states.shape[1])
        self._keys_values[..., : len(states), :] = keys_values
        self._states[: len(states)] = states

    def append(self, run: Run) -> None:
        """Add the tokens of the only run below, for which there is room."""
        assert self._keys_values is not None
        assert self._states is not None
        start, stop = len(self.tokens), len(self.tokens) + len(run.tokens)
        self._keys_values[..., start:stop, :] = run.keys_values
        self._states[start:stop] = run.states
        self.tokens += run.tokens
        self.children = run.children
        for child in self.children.values():
            child.parent = self

    def cut(self, size: int) -> Run:
        """Return the first `size` tokens as a run of its own, above what is left of this one."""
        assert self.parent is not None
        head = Run(self.tokens[:size], self.parent)
        if not self.is_new:
            keys_values, states = self.keys_values, self.states
            head.fill(keys_values[..., :size, :].clone(), states[:size].clone())
            self.fill(keys_values[..., size:, :].clone(), states[size:].clone())
        self.parent.children[head.tokens[0]] = head
        self.parent, self.tokens, self.depth = head, self.tokens[size:], self.depth + size
        head.children[self.tokens[0]] = self
        return head


class PrefixTree:
    """Runs of token sequences, at most `max_tokens` tokens of them between uses.

    A use is `routes`, then `fill` of each run that `is_new`, then `settle`. What a use needs is not
    evicted before it is settled.

    Args:
        max_tokens: Tokens whose keys, values and states are kept.

    Example:
        >>> tree = PrefixTree(max_tokens=100)
        >>> routes = tree.routes([(1, 2, 3), (1, 2, 4), (1, 2)])
        >>> [[run.tokens for run in route] for route in routes]
        [[(1, 2), (3,)], [(1, 2), (4,)], [(1, 2)]]
    """

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.num_computed = 0
        self.num_evicted = 0
        self._clock = 0
        self.clear()

    def clear(self) -> None:
        """Forget everything; counts go on."""
        self.num_tokens = 0
        self._root = Run((), None)
        self._oldest_first: OrderedDict[Run, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._oldest_first)

    @property
    def num_bytes(self) -> int:
        """Memory that all runs hold."""
        return sum(run.num_bytes for run in self._oldest_first)

    def routes(self, paths: Sequence[tuple[int, ...]]) -> list[list[Run]]:
        """Return for each token sequence the runs that hold it, from the first token on.

        The last run may go on after the sequence ends.
        """
        self._clock += 1
        for path in paths:
            self._add(path)
        return [self._walk(path)[0] for path in paths]

    def make_room(self, num_tokens: int) -> None:
        """Evict what is not in use, as far as needed for `num_tokens` more tokens."""
        self._evict(self.max_tokens - num_tokens, before=self._clock)

    def fill(self, run: Run, keys_values: Tensor, states: Tensor) -> None:
        """Keep what was computed for a run."""
        run.fill(keys_values, states)
        self.num_computed += len(run.tokens)
        self.num_tokens += run.capacity

    def settle(self, filled: Sequence[Run]) -> None:
        """Join runs that were filled with those they continue, and evict down to `max_tokens`."""
        for run in filled:
            parent = run.parent
            assert parent is not None
            if parent is not self._root and len(parent.children) == 1:
                self._join(parent, run)
        self._evict(self.max_tokens, before=self._clock + 1)

    def _walk(self, path: tuple[int, ...]) -> tuple[list[Run], int]:
        """Return the runs that a sequence goes through, and how many of its tokens they hold."""
        route: list[Run] = []
        run, position = self._root, 0
        while position < len(path) and (child := run.children.get(path[position])) is not None:
            route.append(child)
            position += _num_shared(child.tokens, path[position : position + len(child.tokens)])
            if position < child.depth + len(child.tokens):
                break
            run = child
        return route, position

    def _add(self, path: tuple[int, ...]) -> None:
        route, position = self._walk(path)
        if position < len(path):
            last = route[-1] if route else self._root
            if position < last.depth + len(last.tokens):
                held, below = last.capacity, last
                last = route[-1] = below.cut(position - below.depth)
                self.num_tokens += last.capacity + below.capacity - held
            run = Run(path[position:], last)
            last.children[run.tokens[0]] = run
            route.append(run)
        for run in reversed(route):
            run.used = self._clock
            self._oldest_first[run] = None
            self._oldest_first.move_to_end(run)

    def _join(self, parent: Run, run: Run) -> None:
        """Move a run to the end of the only one it continues; leave spare room for more."""
        held = parent.capacity + run.capacity
        needed = len(parent.tokens) + len(run.tokens)
        if needed > parent.capacity:
            free = max(0, self.max_tokens - self.num_tokens)
            parent.grow(needed + min(needed // 2, free))
        parent.append(run)
        del self._oldest_first[run]
        self.num_tokens += parent.capacity - held

    def _evict(self, max_tokens: int, before: int) -> None:
        """Drop the oldest runs last used before `before` until at most `max_tokens` are held."""
        while self.num_tokens > max_tokens and self._oldest_first:
            run = next(iter(self._oldest_first))
            if run.used >= before:
                return
            assert run.parent is not None
            assert not run.children
            del run.parent.children[run.tokens[0]], self._oldest_first[run]
            self.num_tokens -= run.capacity
            self.num_evicted += run.capacity


def _num_shared(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    """Return how many tokens two sequences share at their beginnings."""
    if first == second:
        return len(first)
    pairs = enumerate(zip(first, second, strict=False))
    limit = min(len(first), len(second))
    return next((index for index, (a, b) in pairs if a != b), limit)
