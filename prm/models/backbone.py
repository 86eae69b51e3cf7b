"""`Backbone`: any stock transformers decoder, run over packed token trees.

A model that cannot attend over trees exactly (sliding windows shorter than a chain, soft caps,
sinks, recurrent layers, position biases) is detected by comparing a small tree with its paths run
alone, and then runs on unrolled paths: slower, and just as exact.
"""

from __future__ import annotations

import logging
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from prm.data.packing import PackedTrees, pack
from prm.data.tree import Segment, TokenTree
from prm.errors import ModelError
from prm.models.tree_attention import TREE_ATTENTION, Kernel, TreeLayout

logger = logging.getLogger(__name__)


class Backbone(nn.Module):
    """A decoder without head that reads packed trees.

    Args:
        model: A stock transformers model.
        max_length: Longest path that will be run; decides whether a sliding window matters.
        kernel: Attention kernel; `auto` picks by device.

    Raises:
        ModelError: The model lets tokens see later tokens (a bidirectional encoder).
    """

    def __init__(self, model: PreTrainedModel, max_length: int, kernel: Kernel = "auto") -> None:
        super().__init__()
        if model.config.is_encoder_decoder:
            raise ModelError(
                f"{type(model).__name__} is not a decoder", expected="a causal decoder"
            )
        self.model = model
        self.max_length = max_length
        self.kernel = kernel
        self.mode: Literal["unchecked", "tree", "unrolled"] = "unchecked"
        _turn_off_dropout(model)

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states."""
        return int(self.model.config.get_text_config().hidden_size)

    def forward(self, trees: PackedTrees) -> Tensor:
        """Return the hidden state of every token, shape `[token, hidden]`."""
        if self.mode == "unchecked":
            self._choose_mode(trees.input_ids.device)
        return self._tree_states(trees) if self.mode == "tree" else self._path_states(trees)

    def _tree_states(self, trees: PackedTrees, layout: TreeLayout | None = None) -> Tensor:
        layout = layout or TreeLayout(
            trees.starts, trees.stops, trees.subtree_ends, trees.longest_path, self.kernel
        )
        output = self.model(
            input_ids=trees.input_ids[None],
            position_ids=trees.position_ids[None],
            attention_mask=None,
            use_cache=False,
            tree_layout=layout,
        )
        states: Tensor = output.last_hidden_state[0]
        return states

    def _path_states(self, trees: PackedTrees) -> Tensor:
        """Run every path as a right-padded row of its own under stock attention."""
        paths = trees.paths()
        width = max(len(path) for path in paths)
        device = trees.input_ids.device
        rows = torch.zeros(len(paths), width, dtype=torch.int64, device=device)
        mask = torch.zeros(len(paths), width, dtype=torch.int64, device=device)
        for row, path in enumerate(paths):
            rows[row, : len(path)] = trees.input_ids[path.to(device)]
            mask[row, : len(path)] = 1
        output = self.model(input_ids=rows, attention_mask=mask, use_cache=False)
        tokens = torch.cat(paths)
        place = torch.empty(trees.num_tokens, dtype=torch.int64)
        place[tokens] = torch.arange(len(tokens))
        states: Tensor = output.last_hidden_state[mask.bool()]
        return states[place.to(device)]

    @torch.no_grad()
    def _choose_mode(self, device: torch.device) -> None:
        """Compare a small tree with its paths, and a path with an edited copy of itself."""
        training = self.model.training
        self.model.eval()
        try:
            with torch.autocast(device.type, enabled=False):
                self._set_attention("sdpa")
                alone = self._path_states(_probe_trees(device))
                self._refuse_bidirectional(alone, device)
                reason = self._why_not_tree(alone, device)
        finally:
            self.model.train(training)
        if reason is None:
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

    def _refuse_bidirectional(self, alone: Tensor, device: torch.device) -> None:
        edited = self._path_states(_probe_trees(device, last=9))
        if not _close(alone[:2], edited[:2]):
            raise ModelError(
                f"{type(self.model).__name__} lets tokens see later tokens",
                expected="a causal decoder",
                fix="A process model on an encoder would leak later steps into earlier scores",
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
