"""Attention of new tokens to themselves and to tokens whose keys and values are already known.

New tokens come in runs without a fork. A run sees all of the runs above it, known or new, and
itself causally. On a CPU each run is gathered with what lies above it, and its queries attend in
blocks to the keys up to their end: copying keys costs a few percent of attending to them, and is
cheaper than merging partial results. Elsewhere one masked call serves all runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional

from prm.errors import ModelError
from prm.models.tree_attention import Kernel, empty_token_major


@dataclass(slots=True)
class CachedLayout:
    """Where runs of new tokens lie in a batch, and what each of them continues.

    Args:
        spans: First token of each new run, and one past its last token.
        known: Keys and values of known runs, each `[layer, 2, kv_head, token, dim]`.
        known_above: For each new run, the indices in `known` of what is above it, root first.
        new_above: For each new run, the indices of the new runs above it, root first.
        kernel: As for `TreeLayout`; `auto` and `segments` attend run by run on a CPU.
        block: Queries in one call on a CPU; keys after the last of them are skipped.

    Attributes:
        new: Keys and values of the new tokens, layer by layer, each `[2, kv_head, token, dim]`;
            filled in during a forward pass.
        windows: Sliding windows that the model asked for.
        attended: The attention layer of each call, in order.
    """

    spans: Sequence[tuple[int, int]]
    known: Sequence[Tensor]
    known_above: Sequence[Sequence[int]]
    new_above: Sequence[Sequence[int]]
    kernel: Kernel = "auto"
    block: int = 128
    new: list[Tensor] = field(default_factory=list)
    windows: set[int] = field(default_factory=set)
    attended: list[nn.Module] = field(default_factory=list)
    _masks: dict[int, Tensor] = field(default_factory=dict)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attend in one layer, `[1, head, token, dim]`; layers come in order, once each."""
        new = torch.stack((key[0], value[0]))
        if self.new and new.shape != self.new[0].shape:
            raise ModelError("layers have keys of different shapes", expected="equal shapes")
        known = [run[len(self.new)] for run in self.known]
        self.new.append(new)
        if query.device.type == "cpu" and self.kernel in ("auto", "segments"):
            return self._attend_run_by_run(query, known, new, scale)
        return self._attend_at_once(query, known, new, scale)

    def _attend_run_by_run(
        self, query: Tensor, known: Sequence[Tensor], new: Tensor, scale: float
    ) -> Tensor:
        output = empty_token_major(query)
        for index, (start, stop) in enumerate(self.spans):
            spans = [*(self.spans[above] for above in self.new_above[index]), (start, stop)]
            pieces = [known[above] for above in self.known_above[index]]
            pieces += [new[:, :, first:last] for first, last in spans]
            keys_values = torch.cat(pieces, dim=2) if len(pieces) > 1 else pieces[0]
            num_above = keys_values.shape[2] - (stop - start)
            for first in range(start, stop, self.block):
                rows = slice(first, min(first + self.block, stop))
                visible = keys_values[:, :, : num_above + rows.stop - start]
                output[:, :, rows] = self._attend(query[:, :, rows], visible, first, scale)
        return output

    def _attend(self, query: Tensor, keys_values: Tensor, first: int, scale: float) -> Tensor:
        """Attend from a block of queries to keys that end with their own.

        Query heads that share keys are laid out as further queries, so that no key is copied.
        """
        shape, (_, kv_heads, num_keys, dim) = query.shape, keys_values.shape
        groups = shape[1] // kv_heads
        if first not in self._masks:
            hidden = query.new_full((shape[2], num_keys), -torch.inf)
            mask = hidden.triu(num_keys - shape[2] + 1)
            self._masks[first] = mask.repeat(groups, 1)[None, None]
        output, _ = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query.reshape(1, kv_heads, groups * shape[2], dim),
            keys_values[:1],
            keys_values[1:],
            0.0,
            False,
            attn_mask=self._masks[first],
            scale=scale,
        )
        return output.reshape(shape)  # type: ignore[no-any-return]

    def _attend_at_once(
        self, query: Tensor, known: Sequence[Tensor], new: Tensor, scale: float
    ) -> Tensor:
        keys, values = torch.cat([*known, new], dim=2).repeat_interleave(
            query.shape[1] // new.shape[1], dim=1
        )
        if not self._masks:
            self._masks[0] = self._dense_mask([run.shape[2] for run in known]).to(query.device)
        return functional.scaled_dot_product_attention(
            query, keys[None], values[None], attn_mask=self._masks[0], scale=scale
        )

    def _dense_mask(self, sizes: Sequence[int]) -> Tensor:
        """Return which keys each new token sees, `[token, key]`, for known runs of these sizes."""
        sizes = [*sizes, *(stop - start for start, stop in self.spans)]
        ends = list(accumulate(sizes))
        keys = [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
        new = keys[len(self.known) :]
        mask = torch.zeros(self.spans[-1][1], ends[-1], dtype=torch.bool)
        for index, (start, stop) in enumerate(self.spans):
            above = [keys[run] for run in self.known_above[index]]
            for seen in above + [new[run] for run in self.new_above[index]]:
                mask[start:stop, seen] = True
            mask[start:stop, new[index]] = torch.ones(stop - start, stop - start).tril().bool()
        return mask
