"""`Backbone`: any stock transformers model, run over packed token trees.

A model that cannot attend over trees exactly (sliding windows shorter than a chain, soft caps,
sinks, recurrent layers, position biases) is detected by comparing a small tree with its paths run
alone, and then runs on unrolled paths: slower, and just as exact. A bidirectional encoder always
runs on unrolled paths, and can only be read where a path ends.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from prm.errors import ModelError
from prm.models.cached_attention import CachedLayout
from prm.models.tree_attention import TREE_ATTENTION, Kernel, TreeLayout
from prm.trees.packing import PackedTrees, pack
from prm.trees.tree import Segment, TokenTree

logger = logging.getLogger(__name__)


ReadAt = Literal["last", "pooler", "mean"]

LEAK = 1e-5
"""Largest relative change of an earlier state that is still rounding."""

WASTE = 0.2
"""Largest share of padding in the rows of unrolled paths that run together."""


class Backbone(nn.Module):
    """A stock model without head that reads packed trees.

    Args:
        model: A stock transformers model.
        max_length: Longest path that will be run; decides whether a sliding window matters.
        kernel: Attention kernel; `auto` picks by device.
        read_at: What an encoder gives at a read; a decoder is read at the `last` token.
        encoders: Whether the model may be a bidirectional encoder, read where paths end.

    Raises:
        ModelError: The model is an encoder where it may not be one, or `read_at` does not fit it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        max_length: int,
        kernel: Kernel = "auto",
        read_at: ReadAt = "last",
        encoders: bool = False,
    ) -> None:
        super().__init__()
        if model.config.is_encoder_decoder:
            raise ModelError(
                f"{type(model).__name__} is an encoder-decoder", expected="a causal decoder"
            )
        self.model = model
        self.max_length = max_length
        self.kernel = kernel
        self.read_at = read_at
        self.encoders = encoders
        self.mode: Literal["unchecked", "tree", "unrolled", "encoder"] = "unchecked"
        _turn_off_dropout(model)

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states."""
        return int(self.model.config.get_text_config().hidden_size)

    def forward(self, trees: PackedTrees) -> tuple[Tensor, Tensor | None]:
        """Return the states of the reads, `[read, hidden]`, and of all tokens, `[token, hidden]`.

        An encoder has no state of a token by itself: a prompt reads differently before each
        response.
        """
        self.check(trees.input_ids.device)
        if self.mode == "encoder":
            return self._encoder_reads(trees), None
        states = self._tree_states(trees) if self.mode == "tree" else self._path_states(trees)
        return states[trees.reads], states

    def check(self, device: torch.device) -> None:
        """Find out, once, how the model can be run; see `mode`."""
        if self.mode == "unchecked":
            self._choose_mode(device)

    def layout_states(
        self, input_ids: Tensor, position_ids: Tensor, layout: TreeLayout | CachedLayout
    ) -> Tensor:
        """Return the states of tokens that attend as a layout says; only in `tree` mode.

        Args:
            input_ids: Token ids, shape `[token]`.
            position_ids: Tokens above each token on its path, shape `[token]`.
            layout: What each token sees.

        Returns:
            Last hidden states, shape `[token, hidden]`.
        """
        output = self.model(
            input_ids=input_ids[None],
            position_ids=position_ids[None],
            attention_mask=None,
            use_cache=False,
            tree_layout=layout,
        )
        states: Tensor = output.last_hidden_state[0]
        return states

    def _tree_states(self, trees: PackedTrees, layout: TreeLayout | None = None) -> Tensor:
        layout = layout or TreeLayout(
            trees.starts, trees.stops, trees.subtree_ends, trees.longest_path, self.kernel
        )
        return self.layout_states(trees.input_ids, trees.position_ids, layout)

    def _path_states(self, trees: PackedTrees) -> Tensor:
        """Run every path as a right-padded row of its own under stock attention."""
        device = trees.input_ids.device
        paths = by_length(trees.paths())
        parts = []
        for group in paths:
            rows, mask = _padded(trees.input_ids, group)
            output = self.model(input_ids=rows, attention_mask=mask, use_cache=False)
            parts.append(output.last_hidden_state[mask.bool()])
        tokens = torch.cat([path for group in paths for path in group])
        place = torch.empty(trees.num_tokens, dtype=torch.int64)
        place[tokens] = torch.arange(len(tokens))
        return torch.cat(parts)[place.to(device)]

    def _encoder_reads(self, trees: PackedTrees) -> Tensor:
        """Run every path as a row, and return one state per read, which must end a path."""
        device = trees.input_ids.device
        paths = by_length(trees.paths())
        parts = []
        for group in paths:
            rows, mask = _padded(trees.input_ids, group)
            parts.append(self._pooled(self.model(input_ids=rows, attention_mask=mask), mask))
        ends = torch.tensor([int(path[-1]) for group in paths for path in group])
        place = torch.full((trees.num_tokens,), -1)
        place[ends] = torch.arange(len(ends))
        rows_of_reads = place[trees.reads.cpu()]
        if (rows_of_reads < 0).any():
            raise ModelError("an encoder can only be read at the end of a response")
        return torch.cat(parts)[rows_of_reads.to(device)]

    def _pooled(self, output: Any, mask: Tensor) -> Tensor:
        states: Tensor = output.last_hidden_state
        if self.read_at == "pooler":
            pooled: Tensor = output.pooler_output
            return pooled
        if self.read_at == "mean":
            weights = mask.unsqueeze(-1).to(states.dtype)
            return (states * weights).sum(dim=1) / weights.sum(dim=1)
        last = mask.sum(dim=1) - 1
        return states[torch.arange(len(last), device=last.device), last]

    @torch.no_grad()
    def _choose_mode(self, device: torch.device) -> None:
        """Compare a small tree with its paths, and a path with an edited copy of itself."""
        training = self.model.training
        self.model.eval()
        try:
            with torch.autocast(device.type, enabled=False):
                self._set_attention("sdpa")
                alone = self._path_states(_probe_trees(device))
                is_encoder = self._is_bidirectional(alone, device)
                self._check_reading(is_encoder)
                reason = None if is_encoder else self._why_not_tree(alone, device)
        finally:
            self.model.train(training)
        if is_encoder:
            self.mode = "encoder"
            self._set_attention("sdpa")
        elif reason is None:
            self.mode = "tree"
            self._set_attention(TREE_ATTENTION)
        else:
            self.mode = "unrolled"
            self._set_attention("sdpa")
            logger.warning(
                "%s runs on unrolled paths, without sharing prompts: %s",
                type(self.model).__name__,
                reason,
            )

    def _set_attention(self, name: str) -> None:
        try:
            self.model.set_attn_implementation(name)
        except ValueError:
            self.model.set_attn_implementation("eager")

    def _is_bidirectional(self, alone: Tensor, device: torch.device) -> bool:
        """Whether an edited token changes the states before it, which in a decoder it cannot."""
        edited = self._path_states(_probe_trees(device, last=9))
        scale = alone[:2].float().abs().max().clamp(min=1e-6)
        return bool((alone[:2].float() - edited[:2].float()).abs().max() > LEAK * scale)

    def _check_reading(self, is_encoder: bool) -> None:
        name = type(self.model).__name__
        if is_encoder and not self.encoders:
            raise ModelError(
                f"{name} lets tokens see later tokens",
                expected="a causal decoder",
                fix="A process model on an encoder would leak later steps into earlier scores",
            )
        if not is_encoder and self.read_at != "last":
            raise ModelError(
                f"{name} is a decoder, whose first token sees nothing of the response",
                expected="response_format.read_at 'last'",
                got=self.read_at,
            )
        if self.read_at == "pooler" and getattr(self.model, "pooler", None) is None:
            raise ModelError(
                f"{name} has no pooler", expected="response_format.read_at 'mean' or 'last'"
            )

    def _why_not_tree(self, alone: Tensor, device: torch.device) -> str | None:
        trees = _probe_trees(device)
        layout = TreeLayout(
            trees.starts, trees.stops, trees.subtree_ends, trees.longest_path, self.kernel
        )
        self._set_attention(TREE_ATTENTION)
        try:
            states = self._tree_states(trees, layout)
        except (ModelError, TypeError, NotImplementedError) as error:
            return str(error).splitlines()[0]
        if not _close(alone, states):
            return "hidden states over a tree differ from those of its paths alone"
        window = min(layout.windows | _config_windows(self.model), default=None)
        if window is not None and window < self.max_length:
            return f"its attention window of {window} is shorter than max_length {self.max_length}"
        return None


def by_length(paths: Sequence[Tensor]) -> list[list[Tensor]]:
    """Group paths of similar length, so that at most `WASTE` of a group's rows is padding.

    Example:
        >>> lengths = [[len(path) for path in group] for group in by_length(
        ...     [torch.arange(size) for size in (9, 2, 10)])]
        >>> lengths
        [[10, 9], [2]]
    """
    groups: list[list[Tensor]] = []
    used = 0
    for path in sorted(paths, key=len, reverse=True):
        width = len(groups[-1][0]) if groups else 0
        if not groups or used + len(path) < (1 - WASTE) * width * (len(groups[-1]) + 1):
            groups.append([])
            used = 0
        groups[-1].append(path)
        used += len(path)
    return groups


def _padded(input_ids: Tensor, paths: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the paths as right-padded rows, and their mask, both `[path, position]`."""
    width, device = max(map(len, paths)), input_ids.device
    rows = torch.zeros(len(paths), width, dtype=torch.int64, device=device)
    mask = torch.zeros_like(rows)
    for row, path in enumerate(paths):
        rows[row, : len(path)] = input_ids[path.to(device)]
        mask[row, : len(path)] = 1
    return rows, mask


def _turn_off_dropout(model: nn.Module) -> None:
    """Turn dropout off: branches share their prompt, and with it would share its dropout."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            setattr(module, "attention_dropout", 0.0)  # noqa: B010


def _probe_trees(device: torch.device, last: int = 3) -> PackedTrees:
    """A prompt with two branches, one of them forked again, beside a tree of its own."""
    forked = TokenTree(
        (
            Segment((5, 6)),
            Segment((7, 8, 4), 0),
            Segment((6, last), 0),
            Segment((5,), 1),
            Segment((8, 5), 1),
        )
    )
    return pack([forked, TokenTree((Segment((4, 7, 5)),))]).to(device)


def _close(first: Tensor, second: Tensor) -> bool:
    tolerance = {torch.float32: 1e-3, torch.float64: 1e-6}.get(first.dtype, 6e-2)
    scale = first.float().abs().max().clamp(min=1e-6)
    return bool((first.float() - second.float()).abs().max() <= tolerance * scale)


def _config_windows(model: PreTrainedModel) -> set[int]:
    """Return attention windows that a configuration keeps out of the attention call."""
    chunk = getattr(model.config.get_text_config(), "attention_chunk_size", None)
    return {int(chunk)} if chunk else set()
