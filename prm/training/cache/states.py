"""`StateCache`: what a frozen backbone gives at reads, computed once and then read from disk.

Heads see nothing of a tree but the hidden states at its reads, and those of a frozen backbone
never change. They are stored under a digest of the weights (a folder per backbone) and of the
tokens up to each read, in which tokenizer, template, formats and data all show. Labels, losses and
objectives do not: a new one on the same texts finds everything there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from prm.data.items import LabeledItem
from prm.errors import ConfigError, OutputError
from prm.models.backbone import Backbone, evaluating
from prm.models.incremental import passes
from prm.models.reward_model import RewardModel
from prm.training.cache.store import StateStore, segment_keys
from prm.trees.packing import Pack, pack
from prm.trees.tree import Segment, TokenTree

WRITE_BYTES = 256 * 2**20
"""Bytes of states that are written at once."""

SILENT = frozenset(
    {"_name_or_path", "architectures", "dtype", "id2label", "label2id", "problem_type"}
    | {"torch_dtype", "transformers_version", "use_cache", "output_hidden_states"}
)
"""Fields of a transformers configuration that no state depends on (weights tell their own type)."""


class StateCache:
    """Hidden states of the frozen backbone of a run.

    Args:
        folder: Folder of all caches; each backbone has one in it.
        model: The model, with the weights that it is trained with.
        trainer: Says precision and ranks.
        max_tokens: Tokens in one pass.
        write_every: Seconds of computing between writes, which is the most that an interruption
            costs.

    Raises:
        DataError: The folder has another format version, or is damaged.
        ConfigError: The weights cannot be read, because DeepSpeed split them.
    """

    def __init__(
        self,
        folder: Path,
        model: RewardModel,
        trainer: L.Trainer,
        max_tokens: int,
        write_every: float = 60.0,
    ) -> None:
        self.model = model
        self.trainer = trainer
        self.max_tokens = max_tokens
        self.write_every = write_every
        about = identity(model.backbone, str(trainer.precision))
        self.store = StateStore(folder / str(about["key"])[:32], about)
        self._open_written()

    def packer(self, items: Sequence[LabeledItem]) -> Pack:
        """Compute the states of these items that are not there yet, and return what reads all.

        All ranks must ask for the same items; each computes its share of them.

        Raises:
            OutputError: The states do not fit on the disk.
        """
        missing = self._missing(items)
        if missing:
            self._announce(missing, len(items))
            self._compute(missing, items)
            self._open_written()
        return self.store.pack

    def _missing(self, items: Sequence[LabeledItem]) -> list[_Missing]:
        """Return what is not stored, once each, with the same prompts beside each other."""
        seen: set[bytes] = set()
        found = []
        for index, item in enumerate(items):
            keys = {
                key: segment
                for segment, key in segment_keys(item.tree)
                if key not in self.store and key not in seen
            }
            seen.update(keys)
            if keys:
                segments = tuple(keys.values())
                part = part_of(item.tree, segments)
                prompt = hash(item.tree.segments[0].input_ids)
                found.append(_Missing(prompt, index, segments, part.num_tokens, part.num_reads))
        return sorted(found)

    def _announce(self, missing: Sequence[_Missing], num_items: int) -> None:
        """Say how much is computed, and refuse what does not fit on the disk."""
        num_reads = sum(one.num_reads for one in missing)
        width, kind = self.model.backbone.hidden_size, self.model.backbone.model.dtype
        size = num_reads * width * kind.itemsize
        rank_zero_info(
            f"state cache {self.store.folder}: {len(missing)} of {num_items} are computed: "
            f"{num_reads} reads x {width} x {kind.itemsize} bytes = {size / 2**20:,.1f} MiB"
        )
        free = shutil.disk_usage(self.store.folder).free
        if size > free:
            raise OutputError(
                "the states do not fit on the disk",
                expected=f"{size / 2**20:,.0f} MiB",
                got=f"{free / 2**20:,.0f} MiB free",
                where=str(self.store.folder),
                fix="Set model.state_cache to a folder on another disk",
            )

    def _compute(self, missing: Sequence[_Missing], items: Sequence[LabeledItem]) -> None:
        """Compute this rank's share; all ranks take the same number of passes."""
        batches = list(passes(missing, lambda one: one.num_tokens, self.max_tokens))
        rank, num_ranks = self.trainer.global_rank, self.trainer.world_size
        fillers = batches[-1:] * (-len(batches) % num_ranks)
        pending: dict[bytes, Tensor] = {}
        started = time.monotonic()
        with evaluating(self.model), self._progress_bar(missing) as advance:
            for index, batch in list(enumerate([*batches, *fillers]))[rank::num_ranks]:
                states = self._states([part_of(items[m.index].tree, m.segments) for m in batch])
                pending |= states if index < len(batches) else {}
                advance(num_ranks * sum(m.num_tokens for m in batch))
                size = sum(block.nbytes for block in pending.values())
                if time.monotonic() - started > self.write_every or size > WRITE_BYTES:
                    self.store.add(pending)
                    pending, started = {}, time.monotonic()
        if pending:
            self.store.add(pending)
        self.trainer.strategy.barrier()

    def _states(self, trees: Sequence[TokenTree]) -> dict[bytes, Tensor]:
        """Return the states of each segment with reads by key, from one pass."""
        with torch.no_grad(), self.trainer.precision_plugin.forward_context():
            reads = self.model(pack(trees).to(self.model.device)).reads
        keys, sizes = [], []
        for tree in trees:
            for index, key in segment_keys(tree):
                keys.append(key)
                sizes.append(len(tree.segments[index].reads))
        return dict(zip(keys, reads.cpu().split(sizes), strict=True))

    def _open_written(self) -> None:
        """Open the same shards on every rank, whatever other runs are writing."""
        self.store.open(self.trainer.strategy.broadcast(self.store.names()))

    @contextmanager
    def _progress_bar(self, missing: Sequence[_Missing]) -> Iterator[Callable[[float], None]]:
        """Show a bar on rank 0, unless the trainer shows none; give what moves it."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        hidden = self.trainer.progress_bar_callback is None or self.trainer.global_rank > 0
        columns = TextColumn("hidden states"), BarColumn(), TimeRemainingColumn()
        with Progress(*columns, console=Console(stderr=True), disable=hidden) as progress:
            task = progress.add_task("", total=sum(one.num_tokens for one in missing))
            yield partial(progress.advance, task)


@dataclass(frozen=True, slots=True, order=True)
class _Missing:
    """The segments of an item whose states are to be computed.

    Args:
        prompt: Hash of the prompt's tokens.
        index: Index of the item.
        segments: The segments.
        num_tokens: Tokens of these segments and of those above them.
        num_reads: Reads in these segments.
    """

    prompt: int
    index: int
    segments: tuple[int, ...]
    num_tokens: int
    num_reads: int


def identity(backbone: Backbone, precision: str) -> dict[str, Any]:
    """Return what decides the states that a backbone gives, with a `key` made of all of it.

    Args:
        backbone: The backbone; its weights may be sharded, then every rank must call this.
        precision: The trainer's precision; a mixed one changes states, others show in the weights.
    """
    config = {k: v for k, v in backbone.model.config.to_dict().items() if k not in SILENT}
    about = {
        "config": config,
        "weights": weights_digest(backbone.model),
        "read_at": backbone.read_at,
        "precision": precision if precision.endswith("mixed") else "of the weights",
    }
    text = json.dumps(about, sort_keys=True, default=str)
    return {"key": hashlib.sha256(text.encode()).hexdigest(), **about}


def weights_digest(model: torch.nn.Module) -> str:
    """Return the SHA-256 of the names, types, shapes and bytes of a model's weights.

    Raises:
        ConfigError: DeepSpeed's ZeRO stage 3 left only a part of them here.

    Example:
        >>> weights_digest(torch.nn.ReLU())[:8]
        'e3b0c442'
    """
    if any(hasattr(weight, "ds_shape") for weight in model.parameters()):
        raise ConfigError(
            "state_cache cannot read weights that DeepSpeed split over the ranks",
            fix="Use FSDP2 (configs/overlay/fsdp2.yaml), or DeepSpeed with ZeRO stage 2",
        )
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        whole = value.full_tensor() if hasattr(value, "full_tensor") else value
        digest.update(f"{name} {whole.dtype} {tuple(whole.shape)};".encode())
        digest.update(whole.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def part_of(tree: TokenTree, segments: Sequence[int]) -> TokenTree:
    """Return some segments of a tree and those above them, which are not read.

    Example:
        >>> tree = TokenTree((Segment((7,)), Segment((1,), 0, (0,)), Segment((2,), 0, (0,))))
        >>> part_of(tree, [2]).segments[1]
        Segment(input_ids=(2,), parent=0, reads=(0,))
    """
    kept = sorted({index for segment in segments for index in tree.path(segment)})
    place = {index: new for new, index in enumerate(kept)} | {-1: -1}
    return TokenTree(
        tuple(
            Segment(one.input_ids, place[one.parent], one.reads if index in segments else ())
            for index, one in ((index, tree.segments[index]) for index in kept)
        )
    )
