"""Attention over token trees, registered with transformers as the implementation `prm_tree`.

A packed batch holds segments in depth-first order, so the tokens of a segment's descendants follow
it without a gap. Writing `end[k]` for the end of the subtree that the segment of token k roots,
token q sees token k exactly when

    k <= q < end[k]

That one line is the dense mask, the flex-attention mask, and the reason that the CPU needs no mask
at all: every segment is one causal call on itself, and one unmasked call of all its descendants
against it. The partial results are merged by their log-sum-exp, forward and backward, as ring
attention does (Liu et al. 2023, arXiv 2310.01889).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from prm.errors import ModelError

TREE_ATTENTION = "prm_tree"

Kernel = Literal["auto", "segments", "dense", "flex"]

BLOCK = 128
"""Tokens in a block of flex attention."""


@dataclass(slots=True)
class TreeLayout:
    """Where segments lie in a packed batch of `num_tokens` tokens.

    Args:
        starts: First token of each segment, in depth-first order.
        stops: One past the last token of each segment.
        subtree_ends: One past the last token of each segment's descendants.
        longest_path: Tokens on the longest path from a root to a leaf.
        kernel: Which implementation attends; `auto` picks by device.
        windows: Sliding windows that the model asked for; filled in during a forward pass.
        attended: The attention layer of each call, in order; filled in likewise.
    """

    starts: Sequence[int]
    stops: Sequence[int]
    subtree_ends: Sequence[int]
    longest_path: int
    kernel: Kernel = "auto"
    windows: set[int] = field(default_factory=set)
    attended: list[nn.Module] = field(default_factory=list)
    _visible_until: Tensor | None = None
    _block_mask: Any = None

    @property
    def num_tokens(self) -> int:
        """Tokens in the batch."""
        return self.stops[-1] if self.stops else 0

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attend in one layer, `[1, head, token, dim]`; keys and values may have fewer heads."""
        kernel = choose_kernel(self, query)
        groups = query.shape[1] // key.shape[1]
        if groups > 1 and kernel != "flex":
            key, value = (item.repeat_interleave(groups, dim=1) for item in (key, value))
        return _KERNELS[kernel](query, key, value, self, scale)

    def visible_until(self, device: torch.device) -> Tensor:
        """Return `end[k]` for each token k, shape `[token]`, int64."""
        if self._visible_until is None or self._visible_until.device != device:
            lengths = torch.tensor([b - a for a, b in zip(self.starts, self.stops, strict=True)])
            ends = torch.tensor(list(self.subtree_ends))
            self._visible_until = ends.repeat_interleave(lengths).to(device)
        return self._visible_until

    def block_mask(self, device: torch.device) -> Any:
        """Return the flex-attention block mask, built once per batch without a token-by-token mask.

        A block of queries and one of keys are skipped when no query can see a key, and need no
        mask when every query sees every key; the bounds of both come from the segments.
        """
        if self._block_mask is None:
            from torch.nn.attention.flex_attention import BlockMask

            end = self.visible_until(device)

            def visible(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
                return (key <= query) & (query < end[key])

            some, all_ = _block_bounds(end)
            self._block_mask = BlockMask.from_kv_blocks(
                *_block_lists(some & ~all_),
                *_block_lists(all_),
                BLOCK_SIZE=BLOCK,
                mask_mod=visible,
                seq_lengths=(self.num_tokens, self.num_tokens),
            )
        return self._block_mask


def _block_bounds(end: Tensor) -> tuple[Tensor, Tensor]:
    """Return which blocks may see some of a block of keys, and which all of it, `[query, key]`."""
    size = len(end)
    padding = -size % BLOCK
    first = torch.arange(0, size, BLOCK, device=end.device)
    last = first + BLOCK - 1
    ends = functional.pad(end, (0, padding)).view(-1, BLOCK)
    longest, shortest = ends.amax(dim=1), ends.amin(dim=1)
    some = (first[None, :] <= last[:, None]) & (first[:, None] < longest[None, :])
    whole = last < size
    all_ = (last[None, :] <= first[:, None]) & (last[:, None] < shortest[None, :])
    return some, all_ & whole[:, None] & whole[None, :]


def _block_lists(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many blocks each row chooses, and which, the chosen ones first."""
    order = chosen.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    counts = chosen.sum(dim=-1)
    return counts.to(torch.int32)[None, None], order.to(torch.int32)[None, None]


def dense_mask(layout: TreeLayout, device: torch.device) -> Tensor:
    """Return the tree's attention mask, shape `[token, token]`, bool, True where q sees k."""
    token = torch.arange(layout.num_tokens, device=device)
    query, key = token[:, None], token[None, :]
    return (key <= query) & (query < layout.visible_until(device)[None, :])


def dense_attention(
    query: Tensor, key: Tensor, value: Tensor, layout: TreeLayout, scale: float
) -> Tensor:
    """Attend under the dense mask, as the reference; all shapes `[1, h, token, d]`."""
    return functional.scaled_dot_product_attention(
        query, key, value, attn_mask=dense_mask(layout, query.device), scale=scale
    )


def flex_attention(
    query: Tensor, key: Tensor, value: Tensor, layout: TreeLayout, scale: float
) -> Tensor:
    """Flex attention with the tree's block mask; compiled on CUDA, where it is meant to run.

    Keys and values may have fewer heads than queries.
    """
    attend = _flex(compiled=query.is_cuda)
    output: Tensor = attend(
        query,
        key,
        value,
        block_mask=layout.block_mask(query.device),
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output


@functools.cache
def _flex(compiled: bool) -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention as attend

    chosen: Any = torch.compile(attend, dynamic=True) if compiled else attend
    return chosen  # type: ignore[no-any-return]


def segment_attention(
    query: Tensor, key: Tensor, value: Tensor, layout: TreeLayout, scale: float
) -> Tensor:
    """Maskless CPU attention, segment by segment; all shapes `[1, h, token, d]`."""
    output: Tensor = _SegmentAttention.apply(  # type: ignore[no-untyped-call]
        query, key, value, layout, scale
    )
    return output


class _SegmentAttention(torch.autograd.Function):
    """Flash calls per segment; keeps one output and one log-sum-exp per token."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: TreeLayout, scale: float
    ) -> Tensor:
        output = empty_token_major(query)
        lse = query.new_empty(
            query.shape[:-1], dtype=torch.promote_types(query.dtype, torch.float32)
        )
        for own, below in reversed(_pieces(layout)):
            keys, values = key[:, :, own], value[:, :, own]
            output[:, :, own], lse[:, :, own] = _flash(query[:, :, own], keys, values, True, scale)
            if below.start < below.stop:
                part = _flash(query[:, :, below], keys, values, False, scale)
                _merge(output[:, :, below], lse[:, :, below], *part)
        ctx.save_for_backward(query, key, value, output, lse)
        ctx.layout, ctx.scale = layout, scale
        return output

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        *saved, lse = ctx.saved_tensors  # once: checkpointing refuses a second time
        # In bfloat16 the backward kernel takes two to three times as long as in float32.
        query, key, value, output, grad_output = (
            tensor.to(lse.dtype) for tensor in (*saved, grad_outputs[0])
        )
        grads = tuple(torch.zeros_like(tensor) for tensor in (query, key, value))
        for own, below in _pieces(ctx.layout):
            for rows, causal in ((own, True), (below, False)):
                if rows.start == rows.stop:
                    continue
                parts = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                    grad_output[:, :, rows],
                    query[:, :, rows],
                    key[:, :, own],
                    value[:, :, own],
                    output[:, :, rows],
                    lse[:, :, rows],
                    0.0,
                    causal,
                    scale=ctx.scale,
                )
                for grad, part, span in zip(grads, parts, (rows, own, own), strict=True):
                    grad[:, :, span] += part
        return *(grad.to(grad_outputs[0].dtype) for grad in grads), None, None


def _pieces(layout: TreeLayout) -> list[tuple[slice, slice]]:
    """Return for each segment its own tokens and those of its descendants."""
    bounds = zip(layout.starts, layout.stops, layout.subtree_ends, strict=True)
    return [(slice(start, stop), slice(stop, end)) for start, stop, end in bounds]


def empty_token_major(query: Tensor) -> Tensor:
    """Return an empty `[1, h, token, d]` that lies in memory as `[1, token, h, d]`."""
    batch, heads, tokens, dim = query.shape
    return query.new_empty(batch, tokens, heads, dim).transpose(1, 2)


def _flash(
    query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    output, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, causal, scale=scale
    )
    return output, lse


def _merge(output: Tensor, lse: Tensor, part: Tensor, part_lse: Tensor) -> None:
    """Fold attention over further keys into `output` and `lse`, in place."""
    total = torch.logaddexp(lse, part_lse)
    kept = (lse - total).exp().unsqueeze(-1)
    added = (part_lse - total).exp().unsqueeze(-1)
    output.copy_(output * kept + part * added)
    lse.copy_(total)


_KERNELS: dict[str, Callable[[Tensor, Tensor, Tensor, TreeLayout, float], Tensor]] = {
    "segments": segment_attention,
    "dense": dense_attention,
    "flex": flex_attention,
}


def choose_kernel(layout: TreeLayout, query: Tensor) -> str:
    """Return the kernel for queries: segments on CPU, flex on CUDA, the dense mask elsewhere.

    The dense mask also serves what flex attention does not: float64, and heads narrower than 16.
    """
    if layout.kernel != "auto":
        return layout.kernel
    if query.device.type == "cuda":
        fits = query.dtype != torch.float64 and query.shape[-1] >= 16
        return "flex" if fits else "dense"
    return "segments" if query.device.type == "cpu" else "dense"


_CHANGES_SCORES = {
    "softcap": "soft caps (softcap)",
    "s_aux": "attention sinks (s_aux)",
    "position_bias": "position_bias",
    "head_mask": "head_mask",
    "alibi": "alibi",
    "cache": "cache",
}
"""Options of models that attention over trees does not compute, and what they are called."""


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    tree_layout: TreeLayout | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """The function that transformers calls in place of its own attention.

    Args:
        module: The attention layer.
        query: Shape `[1, head, token, dim]`.
        key: Shape `[1, kv_head, token, dim]`.
        value: Shape `[1, kv_head, token, value_dim]`.
        attention_mask: Must be `None`; the tree is the mask.
        scaling: Factor of the scores; `dim ** -0.5` if not given.
        dropout: Must be 0: a shared prompt would share its dropout mask.
        tree_layout: The batch's layout, passed to the model as a keyword argument.
        sliding_window: Window of this layer; fine while no path is longer.
        options: Whatever else a model passes; what would change the scores is refused.

    Returns:
        Output of shape `[1, token, head, value_dim]`, and no weights.

    Raises:
        ModelError: The model needs something that attention over trees does not compute.
    """
    is_causal = options.get("is_causal"), getattr(module, "is_causal", True)
    checks = {what: options.get(name) is None for name, what in _CHANGES_SCORES.items()} | {
        "no tree layout reached the attention layer": tree_layout is not None,
        "an attention mask": attention_mask is None,
        "attention dropout (set attention_dropout to 0)": not dropout,
        "attention that is not causal": not any(one is False for one in is_causal),
    }
    problems = ", ".join(problem for problem, holds in checks.items() if not holds)
    if tree_layout is None or problems:
        raise ModelError(f"{type(module).__name__} cannot attend over trees: {problems}")
    if sliding_window is not None:
        tree_layout.windows.add(sliding_window)
    tree_layout.attended.append(module)
    query, key = query.to(value.dtype), key.to(value.dtype)
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    width = value.shape[-1]
    query, key, value = _equally_wide(query, key, value)
    output = tree_layout.attend(query, key, value, scale)
    return output[..., :width].transpose(1, 2), None


def _equally_wide(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Pad with zeros, which change no score: in latent attention, keys are wider than values."""
    widest = max(tensor.shape[-1] for tensor in tensors)
    missing = [widest - tensor.shape[-1] for tensor in tensors]
    return tuple(
        functional.pad(tensor, (0, size)) if size else tensor
        for tensor, size in zip(tensors, missing, strict=True)
    )


AttentionInterface.register(TREE_ATTENTION, tree_attention)
