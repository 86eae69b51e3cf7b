"""How a model can be run: found out once, on a small tree, in float32.

A tree is used only where it is known to be exact: every layer attends once through transformers'
attention interface, nothing else mixes tokens, no window is shorter than a path, and what is
computed over a packed tree is what is computed for each path alone, whatever lies beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import AttentionInterface, AttentionMaskInterface

from prm.errors import ModelError
from prm.models.float32 import HALF, in_float32
from prm.models.structure import (
    attends_both_ways,
    changes_with_length,
    picks_tokens,
    token_embeddings,
    why_not_attending,
    why_not_each_layer,
    windows,
)
from prm.models.tree_attention import TreeLayout, tree_attention
from prm.trees.packing import PackedTrees, pack
from prm.trees.tree import Segment, TokenTree

if TYPE_CHECKING:
    from prm.models.backbone import Backbone

PROBE_ATTENTION = "prm_tree_probe"
"""Attention over trees, with a mask function that notes which masks a model asks for."""

LEAK = 1e-5
"""Largest relative change of a state by what it must not see that is still rounding."""

HALF_LEAK = 6e-2
"""The same in half precision."""

PROMPT, BRANCH = 30, 18
"""Tokens of the probe's prompt and of its longest branches: more than a convolution spans, and not
where blocks of tokens end."""

LONG = 1024
"""Most tokens of the probe's long row, for encoders whose attention changes with the length."""


@dataclass(frozen=True, slots=True)
class Finding:
    """How a model can be run.

    Args:
        is_encoder: Whether tokens see later tokens.
        why_not_tree: Why it cannot attend over trees; `None` if it can.
        padding_leaks: Whether the padding of a row changes its states.
    """

    is_encoder: bool
    why_not_tree: str | None
    padding_leaks: bool


@torch.no_grad()
def probe(backbone: Backbone, device: torch.device) -> Finding:
    """Find out how a backbone's model can be run, in evaluation mode.

    Raises:
        ModelError: It cannot be run on token ids alone, gives other states for the same tokens, its
            tokens see no others, or its earlier states change with how far later tokens are.
    """
    with (
        _refusing_what_fails(backbone.model),
        in_float32(backbone.model),
        torch.autocast(device.type, enabled=False),
        torch.compiler.set_stance("force_eager"),
    ):
        return _Probe(backbone, device).finding()


@contextmanager
def _refusing_what_fails(model: nn.Module) -> Iterator[None]:
    """Make one line of whatever a stock model raises."""
    try:
        yield
    except (ModelError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        raise ModelError(
            f"{type(model).__name__} cannot be run on token ids alone",
            expected="a text model",
            got=f"{type(error).__name__}: {lines[0]}",
        ) from error


def unused_weights(backbone: Backbone) -> list[str]:
    """Return the names of weights that no read of a text depends on.

    Poolers that are not read, towers for images and sound, queries of entities: data-parallel
    training waits for their gradients in vain. They are found on the graph of a short forward pass.
    A model that picks tokens uses some weights for long texts only, so nothing is said of it.

    Raises:
        ModelError: It cannot be run on token ids alone.
    """
    model = backbone.model
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    if not trained or picks_tokens(model):
        return []
    ids = torch.tensor([_ordinary_ids(model)[:8]], device=model.device)
    with (
        _refusing_what_fails(model),
        torch.enable_grad(),
        torch.compiler.set_stance("force_eager"),
    ):
        used = _leaves(backbone.row_reads(ids, torch.ones_like(ids)).grad_fn)
    return [name for name, weight in trained.items() if id(weight) not in used]


def _leaves(node: Any) -> set[int]:
    """Return the ids of the tensors that a graph ends in."""
    seen, waiting, found = set(), [node], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        found |= {id(node.variable)} if hasattr(node, "variable") else set()
        waiting += [above for above, _ in node.next_functions]
    return found


@torch.no_grad()
def is_random_in_training(backbone: Backbone, device: torch.device) -> bool:
    """Whether a model in training mode gives other states than in evaluation mode."""
    with in_float32(backbone.model), torch.autocast(device.type, enabled=False):
        one = _Probe(backbone, device)
        was_training = backbone.model.training
        try:
            states = [one.rows([one.path(1)]) for backbone.model.training in _modes(backbone.model)]
        finally:
            backbone.model.train(was_training)
    return change(*states) > one.rounding


def _modes(model: nn.Module) -> Iterator[bool]:
    for training in (False, True):
        model.train(training)
        yield training


class _Probe:
    """Runs a small tree in several ways.

    The tree has a prompt with two branches, the second of them forked again, so that all three of
    its paths have the same number of tokens; a short tree lies beside it.
    """

    def __init__(self, backbone: Backbone, device: torch.device) -> None:
        self.backbone = backbone
        self.device = device
        self.name = type(backbone.model).__name__
        self.ids = _ordinary_ids(backbone.model)
        self.trees = self.pack(0)
        self.rounding = LEAK

    def pack(self, edit: int) -> PackedTrees:
        """Pack the trees; an edit gives the first branch and the short tree other tokens."""
        part, at = self.ids, 0

        def take(size: int, offset: int = 0) -> tuple[int, ...]:
            nonlocal at
            at += size
            return tuple(part[(at - size + offset + i) % len(part)] for i in range(size))

        forked = TokenTree(
            (
                Segment(take(PROMPT)),
                Segment(take(BRANCH, edit), 0),
                Segment(take(BRANCH - 5), 0),
                Segment(take(5), 2),
                Segment(take(5), 2),
            )
        )
        return pack([forked, TokenTree((Segment(take(13, edit)),))]).to(self.device)

    def path(self, index: int, edit: int = 0) -> Tensor:
        """Return the token ids of a path of the tree."""
        trees = self.pack(edit)
        return trees.input_ids[trees.paths()[index].to(self.device)]

    def rows(self, paths: list[Tensor]) -> Tensor:
        """Return the states `[path, token, hidden]` of right-padded rows that run together."""
        width = max(map(len, paths))
        rows = torch.zeros(len(paths), width, dtype=torch.int64, device=self.device)
        mask = torch.zeros_like(rows)
        for row, path in enumerate(paths):
            rows[row, : len(path)] = path
            mask[row, : len(path)] = 1
        states: Tensor = self.backbone.row_output(rows, mask).last_hidden_state
        if states.dtype in HALF:  # of sharded weights, which cannot be run in float32
            self.rounding = HALF_LEAK
        return states.float()

    def finding(self) -> Finding:
        """Run everything."""
        self.backbone.set_attention("sdpa")
        paths = [self.path(index) for index in range(4)]
        alone = self.rows([*paths[:3], self.path(0, edit=7)])
        short = self.rows([paths[3]])[0]
        if short.shape[-1] != self.backbone.hidden_size:
            raise ModelError(
                f"{self.name} gives states of another width than its configuration says",
                expected=f"hidden_size {self.backbone.hidden_size}",
                got=short.shape[-1],
            )
        self._refuse_randomness(paths[3])
        other_prompt = torch.cat([paths[1][:PROMPT].flip(0), paths[1][PROMPT:]])
        seen = change(alone[1, PROMPT:], self.rows([other_prompt])[0, PROMPT:])
        if seen == 0:
            raise ModelError(
                f"{self.name} lets no token see what stands before it",
                expected="a model whose attention runs on this device",
            )
        is_encoder = change(alone[0, :PROMPT], alone[3, :PROMPT]) > self.rounding
        if self.rounding > LEAK:
            is_encoder |= attends_both_ways(self.backbone.model)
        leaks = self._changes_beside(paths[3], paths[0][:PROMPT])
        if is_encoder:
            return Finding(True, None, leaks or self._changes_with_length(paths[3]))
        if picks_tokens(self.backbone.model):  # some index tokens by their positions
            return Finding(False, self._why_not_tree([*alone[:3], short], seen), True)
        self._refuse_far_positions(alone[0])
        return Finding(False, self._why_not_tree([*alone[:3], short], seen), leaks)

    def _changes_beside(self, row: Tensor, other: Tensor) -> bool:
        """Whether a row has other states when it is padded to the length of another."""
        alone, padded = self.rows([row])[0], self.rows([row, other])[0]
        return change(alone, padded[: len(row)]) > self.rounding

    def _changes_with_length(self, row: Tensor) -> bool:
        """Whether a row has other states beside a long one, where attention may depend on that."""
        if not changes_with_length(self.backbone.model):
            return False
        size = min(LONG, int(0.9 * self._longest()))
        long = torch.tensor(self.ids, device=self.device).repeat(size // len(self.ids) + 1)[:size]
        self._refuse_randomness(long)
        return self._changes_beside(row, long)

    def _refuse_randomness(self, row: Tensor) -> None:
        if change(self.rows([row]), self.rows([row])) > self.rounding:
            raise ModelError(
                f"{self.name} gives other numbers for the same tokens",
                expected="a model without randomness",
            )

    def _refuse_far_positions(self, alone: Tensor) -> None:
        """Refuse a model whose earlier states change with how far the last token is."""
        ids = self.path(0)[None]
        positions = torch.arange(ids.shape[1], device=self.device)[None]
        positions[0, -1] = self._longest() - 1
        try:
            output = self.backbone.run(input_ids=ids, position_ids=positions, use_cache=False)
        except TypeError:  # it takes no positions, so it counts
            return
        if change(alone[:-1], output.last_hidden_state[0, :-1]) > self.rounding:
            raise ModelError(
                f"{self.name} reads earlier tokens differently when later ones come",
                expected="positions that do not depend on the longest sequence",
                fix="Lower max_length, so that no sequence is that long",
            )

    def _longest(self) -> int:
        """Return the most tokens of a path."""
        config: Any = self.backbone.model.config.get_text_config()
        limit = getattr(config, "max_position_embeddings", None)
        longest = self.backbone.max_length
        if isinstance(limit, int) and limit > 0:
            longest = min(longest, limit)
        return max(PROMPT + BRANCH, longest)

    def _why_not_tree(self, alone: list[Tensor], seen: float) -> str | None:
        """Return why a tree cannot be trusted, if it cannot.

        Args:
            alone: States of each path by itself, `[token, hidden]`.
            seen: How much a prompt changes what follows it.
        """
        reason = why_not_attending(self.backbone.model)
        if reason is not None:
            return reason
        self.backbone.set_attention(PROBE_ATTENTION)
        try:
            with noted_masks() as masks, _IndexWatch(self.trees.num_tokens) as indices:
                layout, states = self._tree_states(0)
        except (ModelError, TypeError, NotImplementedError) as error:
            return str(error).splitlines()[0]
        reason = why_not_each_layer(self.backbone.model, layout.attended)
        if reason is not None:
            return reason
        if masks.others:
            return "it masks tokens in a way of its own"
        if indices.found:
            return "it counts tokens by their place in the batch"
        used = layout.windows | windows(self.backbone.model, masks.windows)
        return self._why_too_long(used) or self._why_not_exact(alone, states, seen)

    def _why_too_long(self, windows: set[int]) -> str | None:
        shortest, longest = min(windows, default=None), self.backbone.max_length
        if shortest is None or shortest >= longest:
            return None
        return f"its attention window of {shortest} is shorter than max_length {longest}"

    def _why_not_exact(self, alone: list[Tensor], states: Tensor, seen: float) -> str | None:
        """Compare states over the tree with those of its paths, and with those beside other tokens.

        A model that is not trained yet sees little of what a prompt says, and then less is allowed.
        """
        paths = self.trees.paths()
        pairs = [(row, states[path]) for row, path in zip(alone, paths, strict=True)]
        allowed = self.rounding if self.rounding > LEAK else min(1e-4, max(3e-6, seen / 100))
        if not max(change(one, other) for one, other in pairs) <= allowed:
            return "hidden states over a tree differ from those of its paths alone"
        kept = torch.cat([path[PROMPT:] for path in paths[1:3]] + [paths[1][:PROMPT]])
        _, edited = self._tree_states(7)
        if not change(states[kept], edited[kept]) <= min(allowed, self.rounding):
            return "its tokens see others than those above them"
        return None

    def _tree_states(self, edit: int) -> tuple[TreeLayout, Tensor]:
        trees = self.pack(edit)
        layout = TreeLayout(
            trees.starts,
            trees.stops,
            trees.subtree_ends,
            trees.longest_path,
            "dense" if self.device.type == "cuda" else self.backbone.kernel,
        )
        states = self.backbone.layout_states(trees.input_ids, trees.position_ids, layout)
        return layout, states.float()


def change(first: Tensor, second: Tensor) -> float:
    """Return the largest difference of two tensors, relative to the largest number in the first."""
    scale = first.float().abs().max().clamp(min=1e-6)
    return ((first.float() - second.float()).abs().max() / scale).item()


def _ordinary_ids(model: Any) -> list[int]:
    """Return ids from the middle of the vocabulary, each once, and none that has a special use."""
    size = len(token_embeddings(model))
    config = model.config.get_text_config()
    values = [value for name, value in vars(config).items() if "token" in name]
    special = {one for value in values for one in (value if isinstance(value, list) else [value])}
    first, last = size // 4, max(size // 4 + 2, size - size // 4)
    ids = [one for one in range(first, last) if one not in special]
    step = max(1, len(ids) // 128)
    return ids[::step]


@dataclass(slots=True)
class Masks:
    """Attention masks that a model asked for.

    Args:
        windows: Lengths of windows and chunks.
        others: Whether it asked for one that is neither causal nor one of these.
    """

    windows: set[int]
    others: bool = False


_noting: ContextVar[Masks | None] = ContextVar("_noting", default=None)


@contextmanager
def noted_masks() -> Iterator[Masks]:
    """Note the masks that models under `PROBE_ATTENTION` ask for."""
    masks = Masks(set())
    token = _noting.set(masks)
    try:
        yield masks
    finally:
        _noting.reset(token)


def note_mask(*_: Any, local_size: int | None = None, use_vmap: bool = False, **__: Any) -> None:
    """The function that transformers calls to make a mask; it notes what is asked, and makes none.

    Args:
        local_size: Length of a window or chunk.
        use_vmap: True where a model combines the usual masks with its own.
    """
    masks = _noting.get()
    if masks is not None:
        masks.windows |= set() if local_size is None else {int(local_size)}
        masks.others |= use_vmap


class _IndexWatch(TorchFunctionMode):
    """Notes whether a model counts the tokens of a batch, whose positions are given to it."""

    def __init__(self, num_tokens: int) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.found = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.arange:
            self.found |= result.numel() == self.num_tokens
        return result


AttentionInterface.register(PROBE_ATTENTION, tree_attention)
AttentionMaskInterface.register(PROBE_ATTENTION, note_mask)
