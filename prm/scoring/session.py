"""`ScoringSession`: scores of chains and responses that grow and branch, each token computed once.

Search scores a chain after every step, and many chains that share their beginnings; a server scores
the same prompts again and again. A session keeps the keys, values and hidden states of what it has
seen, as many as fit, and runs the model over new tokens only.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from prm.errors import ConfigError, ModelError
from prm.models.incremental import IncrementalBackbone
from prm.models.prefix_tree import PrefixTree
from prm.models.reward_model import ModelOutput
from prm.records import Chain, Rating
from prm.scoring.scorer import RewardScorer
from prm.scoring.stages import Score
from prm.trees.prompts import EncodingMemo
from prm.trees.tokenize import TreeBuilder
from prm.trees.tree import TokenTree

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SessionStats:
    """What a session has done so far.

    Args:
        requested: Tokens of everything that was scored, shared beginnings counted every time.
        computed: Tokens that the model ran over.
        evicted: Tokens that were dropped to stay within the limit.
        cached: Tokens that memory is held for now.
        num_bytes: Memory held now.
        num_resets: Times that changed weights made everything invalid.
    """

    requested: int
    computed: int
    evicted: int
    cached: int
    num_bytes: int
    num_resets: int

    @property
    def reused(self) -> int:
        """Tokens that were not computed again."""
        return self.requested - self.computed


class ScoringSession(RewardScorer):
    """A `RewardScorer` that remembers: the same scores, and only new tokens are computed.

    A token costs `layers * 2 * kv_heads * head_dim + hidden_size` numbers of the model's type. What
    was used least recently is dropped first, the ends of chains before their beginnings; one call
    may need more than the limit, and gives it back when it ends. Scores never depend on what is
    remembered. Models that cannot share prefixes (encoders, sliding windows, recurrent layers) are
    run in full every time.

    Weights that change between calls are noticed and make a session start anew, except for writes
    through `parameter.data` and adapters that are switched on or off: call `clear` after those.

    Calls from several threads are run one after the other.

    Args:
        scorer: What to score with; its aggregation, device and limits hold here too.
        max_cached_tokens: Tokens that are remembered between calls, at least 1.

    Raises:
        ConfigError: `max_cached_tokens` is below 1.

    Example:
        >>> from prm import RewardSpec
        >>> from prm.models.reward_model import RewardModel
        >>> from prm.models.sources import FromScratch
        >>> source = FromScratch({"model_type": "qwen2", "hidden_size": 16, "num_hidden_layers": 1,
        ...     "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 16}, 300)
        >>> tokenizer = source.tokenizer(["1 + 1 = 2"])
        >>> model = RewardModel(source.model(tokenizer), tokenizer, RewardSpec())
        >>> session = ScoringSession(RewardScorer(model))
        >>> steps = []
        >>> for step in ["1 + 1 = 2", "2 + 1 = 3", "So 3."]:
        ...     steps.append(step)
        ...     score = session.score(("1 + 1 + 1 = ?", steps))[0]
        >>> len(score.probabilities), session.stats.computed < session.stats.requested
        (3, True)
    """

    def __init__(self, scorer: RewardScorer, max_cached_tokens: int = 32768) -> None:
        super().__init__(scorer.model, max_tokens=scorer.max_tokens)
        if max_cached_tokens < 1:
            raise ConfigError(
                "a session needs room for tokens", expected="at least 1", got=max_cached_tokens
            )
        model = self.model.backbone
        self.spec = scorer.spec
        self.max_cached_tokens = max_cached_tokens
        self._tree = PrefixTree(max_cached_tokens)
        self._backbone = IncrementalBackbone(model, self._tree, self.max_tokens)
        self._encoder = EncodingMemo(max_cached_tokens)
        self._lock = threading.RLock()
        self._layers = [part for part in model.modules() if part._parameters]
        self._weights: tuple[tuple[int, int], ...] = ()
        self._is_incremental = True
        self._num_requested = self._num_resets = 0

    @cached_property
    def builder(self) -> TreeBuilder:
        """What turns chains and responses into token trees; a text is tokenized once."""
        return self.model.builder.with_encoder(self._encoder)

    @property
    def stats(self) -> SessionStats:
        """What was computed, reused and evicted so far, and what is held now."""
        with self._lock:
            return SessionStats(
                requested=self._num_requested,
                computed=self._tree.num_computed,
                evicted=self._tree.num_evicted,
                cached=self._tree.num_tokens,
                num_bytes=self._tree.num_bytes,
                num_resets=self._num_resets,
            )

    def clear(self) -> None:
        """Forget everything, and free its memory."""
        with self._lock:
            self._tree.clear()

    def _score_block(self, records: Sequence[Chain | Rating]) -> list[Score]:
        with self._lock:
            return super()._score_block(records)

    @torch.inference_mode()
    def outputs(self, trees: Sequence[TokenTree | None]) -> list[ModelOutput]:
        self.model.backbone.check(self.model.device)
        if self._is_incremental and self.model.backbone.mode != "tree":
            self._give_up("it does not attend over trees")
        if self._is_incremental:
            try:
                return self._incremental_outputs(trees)
            except ModelError as error:
                self._give_up(str(error))
        return super().outputs(trees)

    def _give_up(self, reason: str) -> None:
        self._is_incremental = False
        name = type(self.model.backbone.model).__name__
        logger.warning("a session with %s computes everything every time: %s", name, reason)

    def _incremental_outputs(self, trees: Sequence[TokenTree | None]) -> list[ModelOutput]:
        self._forget_other_weights()
        try:
            found = [part for block in self._blocks(trees) for part in self._run(block)]
        except BaseException:
            self.clear()
            raise
        outputs = iter(found)
        return [self._nothing if tree is None else next(outputs) for tree in trees]

    def _forget_other_weights(self) -> None:
        """Start anew if the backbone's weights are not those of the last call."""
        weights = tuple(
            (parameter.data_ptr(), 0 if parameter.is_inference() else parameter._version)
            for module in self._layers
            for parameter in module._parameters.values()
            if parameter is not None
        )
        if self._weights and weights != self._weights:
            self.clear()
            self._num_resets += 1
        self._weights = weights

    def _blocks(self, trees: Sequence[TokenTree | None]) -> Iterator[list[TokenTree]]:
        """Group trees that are in use together, within the limit where possible."""
        block: list[TokenTree] = []
        room = self.max_cached_tokens
        for tree in trees:
            if tree is None:
                continue
            if block and tree.num_tokens > room:
                yield block
                block, room = [], self.max_cached_tokens
            block.append(tree)
            room -= tree.num_tokens
        if block:
            yield block

    def _run(self, trees: Sequence[TokenTree]) -> list[ModelOutput]:
        """Return what the model gives at the reads of each tree, on the CPU."""
        found = [path for tree in trees for path in _paths_to_reads(tree)]
        paths, positions = zip(*found, strict=True)
        self._num_requested += sum(map(len, paths))
        states = self._backbone.states(paths, positions)
        reads = torch.cat([part[1:] for part in states])
        gate = self.model.gate
        gates = None if gate is None else gate(torch.cat([part[:-1] for part in states]))
        output = ModelOutput(self.model.heads(reads), None, gates)
        return output.at_reads([tree.num_reads for tree in trees])


def _paths_to_reads(tree: TokenTree) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield for each segment with reads the tokens of its path, and the positions that matter.

    The first position is the token before the segment, where a gate reads the prompt (at a root it
    means nothing); the others are the segment's reads.
    """
    for index, depth in enumerate(tree.depths()):
        segment = tree.segments[index]
        if segment.reads:
            path = [tree.segments[part].input_ids for part in tree.path(index)]
            input_ids = tuple(token for part in path for token in part)
            yield input_ids, (max(depth - 1, 0), *(depth + offset for offset in segment.reads))
