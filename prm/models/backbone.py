"""`Backbone`: any stock transformers model, run over packed token trees.

A model that cannot attend over trees exactly (sliding windows shorter than a chain, soft caps,
sinks, recurrent layers, position biases) is found out by a probe, and then runs on unrolled paths:
slower, and just as exact. A bidirectional encoder always runs on unrolled paths, and can only be
read where a path ends.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import PreTrainedModel

from prm.errors import ModelError
from prm.models.cached_attention import CachedLayout
from prm.models.dropout import turn_off_dropout
from prm.models.float32 import is_sharded
from prm.models.probe import is_random_in_training, probe, unused_weights
from prm.models.rope import fix_rope
from prm.models.tree_attention import TREE_ATTENTION, Kernel, TreeLayout
from prm.trees.packing import PackedTrees

logger = logging.getLogger(__name__)


ReadAt = Literal["last", "pooler", "mean"]

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
        self.padding_leaks = False
        self._trains = False
        _attend_fully(model)
        turn_off_dropout(model)
        fix_rope(model, max_length)

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states.

        Raises:
            ModelError: The configuration does not name it.
        """
        config: Any = self.model.config.get_text_config()
        projected = getattr(config, "word_embed_proj_dim", None)  # of OPT
        width = projected or getattr(config, "hidden_size", None)
        if not isinstance(width, int):
            raise ModelError(f"the configuration of {type(self.model).__name__} has no hidden_size")
        return width

    def forward(self, trees: PackedTrees) -> tuple[Tensor, Tensor | None]:
        """Return the states of the reads, `[read, hidden]`, and of all tokens, `[token, hidden]`.

        An encoder has no state of a token by itself: a prompt reads differently before each
        response.
        """
        self.check(trees.input_ids.device)
        if self.mode == "encoder":
            return self._encoder_reads(trees), None
        if self.mode == "tree":
            layout = self._layout(trees)
            states = self.layout_states(trees.input_ids, trees.position_ids, layout)
        else:
            states = self._path_states(trees)
        return states[trees.reads], states

    def check(self, device: torch.device) -> None:
        """Find out, once, how the model can be run; see `mode`.

        Raises:
            ModelError: It cannot be run, is not what the spec reads, or, while it is trained, gives
                random numbers.
        """
        if self.mode == "unchecked":
            with evaluating(self.model):
                finding = probe(self, device)
            self._check_reading(finding.is_encoder)
            self.padding_leaks = finding.padding_leaks
            reason = finding.why_not_tree
            self.mode = "encoder" if finding.is_encoder else "unrolled" if reason else "tree"
            self.set_attention(TREE_ATTENTION if self.mode == "tree" else "sdpa")
            self._say(reason)
        if self.model.training and not self._trains:
            self._refuse_randomness(device)

    def _say(self, reason: str | None) -> None:
        name = type(self.model).__name__
        if reason is not None:
            logger.warning("%s runs on unrolled paths, without sharing prompts: %s", name, reason)
        if self.padding_leaks and self.mode != "tree":
            logger.warning("%s runs texts of equal length together: padding changes them", name)

    def _refuse_randomness(self, device: torch.device) -> None:
        name = self.model.config._attn_implementation
        self.set_attention("sdpa")
        is_random = is_random_in_training(self, device)
        self.set_attention(name)
        if is_random:
            raise ModelError(
                f"{type(self.model).__name__} gives random numbers in training mode",
                expected="a model without dropout or noise",
                fix="Take another backbone, or freeze this one",
            )
        self._trains = True

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
        output = self.run(
            input_ids=input_ids[None],
            position_ids=position_ids[None],
            attention_mask=None,
            use_cache=False,
            tree_layout=layout,
        )
        states: Tensor = output.last_hidden_state[0]
        return states

    def row_output(self, rows: Tensor, mask: Tensor) -> Any:
        """Return what the model gives for right-padded rows, `[row, position]`, and their mask."""
        return self.run(input_ids=rows, attention_mask=mask, use_cache=False)

    def row_reads(self, rows: Tensor, mask: Tensor) -> Tensor:
        """Return the state at the read of each right-padded row, `[row, hidden]`."""
        return self._pooled(self.row_output(rows, mask), mask)

    def unused_weights(self) -> list[str]:
        """Return the names of trained weights that no read depends on; see the probe.

        Raises:
            ModelError: The model cannot be run.
        """
        if self.read_at == "pooler" and not self._has_pooler:
            return []  # `check` says why it is refused
        with evaluating(self.model):
            return unused_weights(self)

    def run(self, **inputs: Any) -> Any:
        """Run the model.

        Raises:
            ModelError: It gives no hidden states.
        """
        output = self.model(**inputs)
        if getattr(output, "last_hidden_state", None) is None:
            raise ModelError(
                f"{type(self.model).__name__} gives no hidden states", expected="a text model"
            )
        return output

    def _layout(self, trees: PackedTrees) -> TreeLayout:
        return TreeLayout(
            trees.starts, trees.stops, trees.subtree_ends, trees.longest_path, self.kernel
        )

    def _run_paths(self, trees: PackedTrees) -> Iterator[tuple[list[Tensor], Tensor, Any]]:
        """Run every path as a right-padded row of its own under stock attention.

        Sharded weights come together in every pass, so all ranks run as many; one with fewer groups
        of paths runs its shortest path again, and nothing is taken from that.

        Yields:
            Paths, the mask of their rows, `[row, position]`, and what the model gives for them.
        """
        groups = by_length(trees.paths(), 0.0 if self.padding_leaks else WASTE)
        passes = len(groups)
        if is_sharded(self.model):
            passes = most_on_any_rank(passes, trees.input_ids.device)
        for paths in groups:
            rows, mask = _padded(trees.input_ids, paths)
            yield paths, mask, self.row_output(rows, mask)
        for _ in range(passes - len(groups)):
            rows, mask = _padded(trees.input_ids, groups[-1][-1:])
            yield [], mask, self.row_output(rows, mask)

    def _path_states(self, trees: PackedTrees) -> Tensor:
        """Return the states of all tokens, each run with its path alone."""
        states: list[Tensor] = []
        tokens: list[Tensor] = []
        for paths, mask, output in self._run_paths(trees):
            taken = len(paths)
            states.append(output.last_hidden_state[:taken][mask[:taken].bool()])
            tokens += paths
        place = _places(torch.cat(tokens), trees.num_tokens)
        return torch.cat(states)[place.to(trees.input_ids.device)]

    def _encoder_reads(self, trees: PackedTrees) -> Tensor:
        """Return one state per read, which must end a path."""
        states: list[Tensor] = []
        ends: list[int] = []
        for paths, mask, output in self._run_paths(trees):
            states.append(self._pooled(output, mask)[: len(paths)])
            ends += [int(path[-1]) for path in paths]
        rows = _places(torch.tensor(ends), trees.num_tokens)[trees.reads.cpu()]
        if (rows < 0).any():
            raise ModelError("an encoder can only be read at the end of a response")
        return torch.cat(states)[rows.to(trees.input_ids.device)]

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

    def set_attention(self, name: str) -> None:
        """Attend by the implementation of this name, or by `eager` where a model lacks it.

        A model that knows no other implementation than its own keeps that.
        """
        if not self.model._can_set_attn_implementation():
            return
        try:
            self.model.set_attn_implementation(name)
        except ValueError:
            self.model.set_attn_implementation("eager")

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
        if self.read_at == "pooler" and not self._has_pooler:
            raise ModelError(
                f"{name} has no pooler", expected="response_format.read_at 'mean' or 'last'"
            )

    @property
    def _has_pooler(self) -> bool:
        return getattr(self.model, "pooler", None) is not None


def _attend_fully(model: Any) -> None:
    """Make BigBird attend to all tokens, in place and in its configuration.

    It does so from its first short text on, for good; before that, long texts read otherwise.
    """
    if hasattr(model, "set_attention_type"):
        model.set_attention_type("original_full")
        model.config.attention_type = "original_full"


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and back into its own mode after."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def by_length(paths: Sequence[Tensor], waste: float = WASTE) -> list[list[Tensor]]:
    """Group paths of similar length, so that at most `waste` of a group's rows is padding.

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
        if not groups or used + len(path) < (1 - waste) * width * (len(groups[-1]) + 1):
            groups.append([])
            used = 0
        groups[-1].append(path)
        used += len(path)
    return groups


def most_on_any_rank(count: int, device: torch.device) -> int:
    """Return the largest count of all ranks; every rank must call it."""
    if not dist.is_initialized():
        return count
    most = torch.tensor(count, device=device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return int(most)


def _places(tokens: Tensor, num_tokens: int) -> Tensor:
    """Return where each token of a batch is in `tokens`, -1 if nowhere."""
    place = torch.full((num_tokens,), -1)
    place[tokens] = torch.arange(len(tokens))
    return place


def _padded(input_ids: Tensor, paths: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the paths as right-padded rows, and their mask, both `[path, position]`."""
    width, device = max(map(len, paths)), input_ids.device
    rows = torch.zeros(len(paths), width, dtype=torch.int64, device=device)
    mask = torch.zeros_like(rows)
    for row, path in enumerate(paths):
        rows[row, : len(path)] = input_ids[path.to(device)]
        mask[row, : len(path)] = 1
    return rows, mask
