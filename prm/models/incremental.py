"""`IncrementalBackbone`: hidden states of token sequences that grow and branch, each token once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

import torch
from torch import Tensor

from prm.models.backbone import Backbone
from prm.models.cached_attention import CachedLayout
from prm.models.prefix_tree import PrefixTree, Run
from prm.models.tree_attention import Kernel

T = TypeVar("T")


@dataclass(slots=True)
class IncrementalBackbone:
    """Runs only the tokens of sequences that it has not seen, and remembers all of them.

    Args:
        backbone: A backbone in `tree` mode.
        tree: What is remembered.
        max_tokens: Tokens in one forward pass; a run of more gets a pass of its own.
        block: See `CachedLayout`.
    """

    backbone: Backbone
    tree: PrefixTree
    max_tokens: int
    block: int = 128

    @torch.inference_mode()
    def states(
        self, paths: Sequence[tuple[int, ...]], positions: Sequence[Sequence[int]]
    ) -> list[Tensor]:
        """Return the last hidden states at some positions of each token sequence.

        Args:
            paths: Token sequences, each with at least one token.
            positions: For each sequence, indices of its tokens, ascending.

        Returns:
            For each sequence, states of shape `[position, hidden]`.

        Raises:
            ModelError: The model's layers differ so that their keys cannot be kept together.
        """
        routes = self.tree.routes(paths)
        new = list(dict.fromkeys(run for route in routes for run in route if run.is_new))
        self.tree.make_room(sum(len(run.tokens) for run in new))
        for runs in passes(new, lambda run: len(run.tokens), self.max_tokens):
            self._compute(runs)
        states = [_at(route, where) for route, where in zip(routes, positions, strict=True)]
        self.tree.settle(new)
        return states

    def _compute(self, runs: Sequence[Run]) -> None:
        """Run the model over new runs, whose ancestors are known or before them."""
        device = self.backbone.model.device
        layout = _layout(runs, self.backbone.kernel, self.block)
        input_ids = [token for run in runs for token in run.tokens]
        positions = [run.depth + offset for run in runs for offset in range(len(run.tokens))]
        states = self.backbone.layout_states(
            torch.tensor(input_ids, device=device), torch.tensor(positions, device=device), layout
        )
        for run, (start, stop) in zip(runs, layout.spans, strict=True):
            keys_values = torch.stack([layer[:, :, start:stop] for layer in layout.new])
            self.tree.fill(run, keys_values, states[start:stop].clone())


def passes(
    items: Sequence[T], num_tokens: Callable[[T], int], max_tokens: int
) -> Iterator[list[T]]:
    """Split items into forward passes of at most `max_tokens` tokens, in order.

    An item of more tokens gets a pass of its own.
    """
    chosen: list[T] = []
    room = max_tokens
    for item in items:
        if chosen and num_tokens(item) > room:
            yield chosen
            chosen, room = [], max_tokens
        chosen.append(item)
        room -= num_tokens(item)
    if chosen:
        yield chosen


def _at(route: Sequence[Run], positions: Sequence[int]) -> Tensor:
    """Return the states at some positions of the sequence that a route holds."""
    parts = []
    for run in route:
        end = run.depth + len(run.tokens)
        offsets = [index - run.depth for index in positions if run.depth <= index < end]
        if offsets:
            parts.append(run.states[offsets])
    return torch.cat(parts) if len(parts) != 1 else parts[0]


def _layout(runs: Sequence[Run], kernel: Kernel, block: int) -> CachedLayout:
    """Lay out new runs one after the other, below whatever they continue."""
    ends = list(accumulate(len(run.tokens) for run in runs))
    place = {run: index for index, run in enumerate(runs)}
    known: dict[Run, int] = {}
    known_above, new_above = [], []
    for run in runs:
        above = list(run.above())
        new_above.append([place[other] for other in above if other in place])
        known_above.append(
            [known.setdefault(other, len(known)) for other in above if other not in place]
        )
    return CachedLayout(
        spans=list(zip([0, *ends], ends, strict=False)),
        known=[run.keys_values for run in known],
        known_above=known_above,
        new_above=new_above,
        kernel=kernel,
        block=block,
    )
