"""Chains to token trees: with `tokenize_responses`, the only place where text becomes token ids.

Training, scoring, export and serving all call `TreeBuilder`, so the same text gives the same ids
everywhere. Prompt and steps are tokenized apart and joined as ids; read positions are known by
construction and never searched for.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from transformers import PreTrainedTokenizerBase

from prm.records import Chain
from prm.spec import RewardSpec
from prm.trees.identity import check_identity, marker_ids
from prm.trees.prompts import DroppedRecord, Encoder, PromptEncoder, encode, place
from prm.trees.tree import Segment, TokenTree

BLOCK = 512
"""Chains that are tokenized in one call."""


@dataclass(frozen=True, slots=True)
class TokenizedChain:
    """A chain as the model reads it.

    Args:
        tree: Prompt segment and one branch with the steps.
        steps: For each read, the index of its step in the chain. Empty steps have no read.
        num_truncated: Non-empty steps that were dropped from the end.
        num_prompt_cut: Prompt tokens that were cut from the left.
    """

    tree: TokenTree
    steps: tuple[int, ...]
    num_truncated: int = 0
    num_prompt_cut: int = 0


class TreeBuilder:
    """Builds token trees as a spec says.

    Args:
        tokenizer: The model's tokenizer; it must hold the spec's step marker as one token.
        spec: The reward spec.

    Raises:
        SpecError: The tokenizer lacks what the spec needs, or is not the one it was trained with.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, spec: RewardSpec) -> None:
        self.tokenizer = tokenizer
        self.spec = spec
        self._marker = marker_ids(tokenizer, spec)
        self._prompts = PromptEncoder(tokenizer, spec)
        self._encode: Encoder = encode
        if spec.tokenizer is not None:
            check_identity(tokenizer, spec)

    def with_encoder(self, encoder: Encoder) -> TreeBuilder:
        """Return the same builder with another way to tokenize texts."""
        other = copy.copy(self)
        other._encode, other._prompts = encoder, self._prompts.with_encoder(encoder)
        return other

    def build(self, chain: Chain) -> TokenizedChain:
        """Tokenize one chain.

        Raises:
            DroppedRecord: It does not fit and the spec says to drop it, its prompt holds a special
                token of a chat template, or its prompt or steps render to nothing.
            DataError: It does not fit and the spec says to stop.
        """
        result = next(self.build_all([chain]))
        if isinstance(result, DroppedRecord):
            raise result
        return result

    def build_all(self, chains: Iterable[Chain]) -> Iterator[TokenizedChain | DroppedRecord]:
        """Tokenize chains block by block; a chain that is left out yields its `DroppedRecord`."""
        iterator = iter(chains)
        while block := list(islice(iterator, BLOCK)):
            yield from self._build_block(block)

    def _build_block(self, chains: Sequence[Chain]) -> Iterator[TokenizedChain | DroppedRecord]:
        prompts = self._prompts.ids(chains)
        suffix = self.spec.step_format.suffix
        texts = [
            step + suffix if step.strip() else "" for chain in chains for step in chain.completions
        ]
        steps = iter(self._encode(self.tokenizer, texts, False))
        for chain, prompt in zip(chains, prompts, strict=True):
            groups = [
                (index, (*ids, *self._marker))
                for index, (step, ids) in enumerate(
                    zip(chain.completions, islice(steps, len(chain.completions)), strict=True)
                )
                if step.strip() and (ids or self._marker)
            ]
            if isinstance(prompt, DroppedRecord):
                yield prompt
                continue
            try:
                yield self._fit(chain, prompt, groups)
            except DroppedRecord as dropped:
                yield dropped

    def _fit(
        self, chain: Chain, prompt: Sequence[int], groups: list[tuple[int, tuple[int, ...]]]
    ) -> TokenizedChain:
        if not prompt or not groups:
            part = "prompt" if not prompt else "steps"
            raise DroppedRecord(f"{part} render to no token", where=place(chain))
        prompt, num_cut = self._prompts.fit(chain, prompt, len(groups[0][1]))
        kept, total = 0, len(prompt)
        while kept < len(groups) and total + len(groups[kept][1]) <= self.spec.max_length:
            total += len(groups[kept][1])
            kept += 1
        if kept < len(groups) and self.spec.on_too_long != "truncate":
            self._prompts.refuse(chain, len(prompt) + sum(len(ids) for _, ids in groups))
        ids: list[int] = []
        reads = []
        for _, group in groups[:kept]:
            ids.extend(group)
            reads.append(len(ids) - 1)
        tree = TokenTree((Segment(tuple(prompt)), Segment(tuple(ids), 0, tuple(reads))))
        return TokenizedChain(
            tree, tuple(index for index, _ in groups[:kept]), len(groups) - kept, num_cut
        )
