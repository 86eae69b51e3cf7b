"""Records to token trees: the only place where text becomes token ids.

Training, scoring, export and serving all call `TreeBuilder`, so the same text gives the same ids
everywhere. Prompt and steps, or prompt and responses, are tokenized apart and joined as ids; read
positions are known by construction and never searched for.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import overload

from transformers import PreTrainedTokenizerBase

from prm.errors import SpecError
from prm.records import Chain
from prm.spec import RewardSpec
from prm.trees.chat import AnswerFrame, fix_template, thinks
from prm.trees.identity import check_identity, marker_ids
from prm.trees.prompts import DroppedRecord, Encoder, PromptEncoder, encode, place
from prm.trees.tree import Segment, TokenTree
from prm.trees.units import ResponseSet, Unit

BLOCK = 512
"""Units that are tokenized in one call."""


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

    reasons = ()
    """A chain is left out as a whole."""


@dataclass(frozen=True, slots=True)
class TokenizedResponses:
    """A response set as the model reads it.

    Args:
        tree: Prompt segment and one branch per response that fits, with one read each.
        branches: For each response, the index of its branch; `None` if it was left out.
        truncated: For each response, whether its end was cut off.
        reasons: Why responses were left out.
        num_prompt_cut: Prompt tokens that were cut from the left.
    """

    tree: TokenTree
    branches: tuple[int | None, ...]
    truncated: tuple[bool, ...]
    reasons: tuple[str, ...] = ()
    num_prompt_cut: int = 0

    def present(self, places: Sequence[int]) -> list[int]:
        """Return the branches of those of some responses that are read."""
        return [branch for place in places if (branch := self.branches[place]) is not None]

    def texts(self, places: Sequence[int]) -> set[tuple[int, ...]]:
        """Return the different token ids of those of some responses that are read."""
        return {self.tree.segments[branch + 1].input_ids for branch in self.present(places)}

    @property
    def num_truncated(self) -> int:
        """Responses that were cut off."""
        return sum(self.truncated)


Tokens = TokenizedChain | TokenizedResponses
"""A unit as the model reads it."""


class TreeBuilder:
    """Builds token trees of chains and of response sets, as a spec says.

    Args:
        tokenizer: The model's tokenizer; it must hold the spec's step marker as one token.
        spec: The reward spec.

    Raises:
        SpecError: The tokenizer lacks what the spec needs, or is not the one it was trained with.

    Example:
        >>> from prm.models.sources import FromScratch
        >>> from prm.spec import StepFormat
        >>> tokenizer = FromScratch({"model_type": "llama"}, 300).tokenizer(["1 + 1 = 2"])
        >>> builder = TreeBuilder(tokenizer, RewardSpec(step_format=StepFormat(marker=None)))
        >>> tokens = builder.build(Chain("1 + 1 + 1 = ?", ["1 + 1 = 2", "2 + 1 = 3"]))
        >>> tokens.steps, tokens.tree.num_reads
        ((0, 1), 2)
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, spec: RewardSpec) -> None:
        self.tokenizer = tokenizer
        self.spec = spec = fix_template(tokenizer, spec)
        self._marker = marker_ids(tokenizer, spec)
        self._prompts = PromptEncoder(tokenizer, spec)
        self._thought = tuple(encode(tokenizer, [self._prompts.thought], True)[0])
        self._encode: Encoder = encode
        if spec.response_heads:
            _ = self._around_responses  # what the tokenizer lacks is said at once
        if spec.tokenizer is not None:
            check_identity(tokenizer, spec)

    def with_encoder(self, encoder: Encoder) -> TreeBuilder:
        """Return the same builder with another way to tokenize texts."""
        other = copy.copy(self)
        other._encode = encoder
        return other

    @overload
    def build(self, unit: Chain) -> TokenizedChain: ...
    @overload
    def build(self, unit: ResponseSet) -> TokenizedResponses: ...
    @overload
    def build(self, unit: Unit) -> Tokens: ...
    def build(self, unit: Unit) -> Tokens:
        """Tokenize one chain or response set.

        Raises:
            DroppedRecord: It does not fit and the spec says to drop it, its prompt holds a special
                token of a chat template, or its prompt, steps or responses render to nothing.
            DataError: It does not fit and the spec says to stop.
        """
        result = next(self.build_all([unit]))
        if isinstance(result, DroppedRecord):
            raise result
        return result

    @overload
    def build_all(self, units: Iterable[Chain]) -> Iterator[TokenizedChain | DroppedRecord]: ...
    @overload
    def build_all(
        self, units: Iterable[ResponseSet]
    ) -> Iterator[TokenizedResponses | DroppedRecord]: ...
    @overload
    def build_all(self, units: Iterable[Unit]) -> Iterator[Tokens | DroppedRecord]: ...
    def build_all(self, units: Iterable[Unit]) -> Iterator[Tokens | DroppedRecord]:
        """Tokenize units block by block; one that is left out yields its `DroppedRecord`."""
        iterator = iter(units)
        while block := list(islice(iterator, BLOCK)):
            yield from self._build_block(block)

    def _build_block(self, units: Sequence[Unit]) -> Iterator[Tokens | DroppedRecord]:
        prompts = self._prompts.ids([unit.records[0] for unit in units], self._encode)
        texts = [self._texts(unit) for unit in units]
        encoded = iter(self._encode(self.tokenizer, [text for own in texts for text in own], False))
        for unit, prompt, own in zip(units, prompts, texts, strict=True):
            ids = list(islice(encoded, len(own)))
            try:
                yield prompt if isinstance(prompt, DroppedRecord) else self._fit(unit, prompt, ids)
            except DroppedRecord as dropped:
                yield dropped

    def _texts(self, unit: Unit) -> list[str]:
        """Return the texts of a unit that are tokenized apart; an empty step stays empty."""
        if isinstance(unit, ResponseSet):
            return [response + self.spec.response_format.suffix for response in unit.responses]
        suffix = self.spec.step_format.suffix
        return [step + suffix if step.strip() else "" for step in unit.completions]

    def _fit(self, unit: Unit, prompt: Sequence[int], ids: Sequence[Sequence[int]]) -> Tokens:
        if isinstance(unit, ResponseSet):
            start, _ = self._around_responses
            return self._fit_responses(unit, [*prompt, *start], ids)
        return self._fit_chain(unit, prompt, ids)

    def _fit_chain(
        self, chain: Chain, prompt: Sequence[int], ids: Sequence[Sequence[int]]
    ) -> TokenizedChain:
        groups = [
            (index, (*own, *self._marker))
            for index, (step, own) in enumerate(zip(chain.completions, ids, strict=True))
            if step.strip() and (own or self._marker)
        ]
        if not prompt or not groups:
            part = "prompt" if not prompt else "steps"
            raise DroppedRecord(f"{part} render to no token", where=place(chain))
        prompt = [*prompt, *self._opening(chain.completions[groups[0][0]])]
        prompt, num_cut = self._prompts.fit(chain, prompt, len(groups[0][1]))
        kept, total = 0, len(prompt)
        while kept < len(groups) and total + len(groups[kept][1]) <= self.spec.max_length:
            total += len(groups[kept][1])
            kept += 1
        if kept < len(groups) and self.spec.on_too_long != "truncate":
            self._prompts.refuse(chain, len(prompt) + sum(len(own) for _, own in groups))
        branch: list[int] = []
        reads = []
        for _, group in groups[:kept]:
            branch.extend(group)
            reads.append(len(branch) - 1)
        tree = TokenTree((Segment(tuple(prompt)), Segment(tuple(branch), 0, tuple(reads))))
        return TokenizedChain(
            tree, tuple(index for index, _ in groups[:kept]), len(groups) - kept, num_cut
        )

    def _fit_responses(
        self, item: ResponseSet, prompt: Sequence[int], responses: Sequence[Sequence[int]]
    ) -> TokenizedResponses:
        record = item.records[0]
        if not prompt:
            raise DroppedRecord("prompt renders to no token", where=place(record))
        prompt, num_cut = self._prompts.fit(record, prompt, self._reserved)
        room = self.spec.max_length - len(prompt)
        branches: list[int | None] = []
        segments = [Segment(tuple(prompt))]
        reasons = []
        opened = [
            [*self._opening(text), *ids] if ids else ids
            for text, ids in zip(item.responses, responses, strict=True)
        ]
        for ids in opened:
            try:
                segments.append(self._branch(item, ids, room))
                branches.append(len(segments) - 2)
            except DroppedRecord as dropped:
                reasons.append(str(dropped))
                branches.append(None)
        if len(segments) == 1:
            raise DroppedRecord(reasons[0])
        _, end = self._around_responses
        truncated = tuple(
            branch is not None and len(ids) + len(end) > room
            for branch, ids in zip(branches, opened, strict=True)
        )
        return TokenizedResponses(
            TokenTree(tuple(segments)), tuple(branches), truncated, tuple(reasons), num_cut
        )

    def _branch(self, item: ResponseSet, ids: Sequence[int], room: int) -> Segment:
        _, end = self._around_responses
        whole = [*ids, *end]
        if not whole:
            raise DroppedRecord("response renders to no token", where=place(item.records[0]))
        if len(whole) > room:
            if self.spec.on_too_long != "truncate":
                self._prompts.refuse(item.records[0], self.spec.max_length - room + len(whole))
            whole = list(ids[:room])
        return Segment(tuple(whole), 0, (len(whole) - 1,))

    def _opening(self, text: str) -> tuple[int, ...]:
        """Return the empty thinking block before an answer that does not think itself."""
        return () if thinks(text) else self._thought

    @property
    def _reserved(self) -> int:
        """Tokens that a prompt has to leave free, whatever the responses are."""
        half = self.spec.max_length - self.spec.max_length // 2
        _, end = self._around_responses
        least = len(self._thought) + 1 + len(end)
        return half if self.spec.on_long_prompt == "cut_left" else least

    @cached_property
    def _around_responses(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Token ids between the prompt and a response, and after a whole response."""
        return _start_ids(self.tokenizer, self.spec), _end_ids(self.tokenizer, self.spec)


def _start_ids(tokenizer: PreTrainedTokenizerBase, spec: RewardSpec) -> tuple[int, ...]:
    if spec.response_format.start == "none":
        return ()
    if tokenizer.sep_token_id is None:
        raise SpecError("response_format says start 'sep' but the tokenizer has no SEP token")
    return (int(tokenizer.sep_token_id),)


def _end_ids(tokenizer: PreTrainedTokenizerBase, spec: RewardSpec) -> tuple[int, ...]:
    end = spec.response_format.end
    if end == "none":
        return ()
    if end == "turn":
        return _turn_end(tokenizer, spec)
    token = tokenizer.eos_token_id
    token = tokenizer.sep_token_id if token is None else token
    if token is None:
        raise SpecError(
            "response_format says end 'eos' but the tokenizer has no EOS or SEP token",
            fix="Set response_format.end to none",
        )
    return (int(token),)


def _turn_end(tokenizer: PreTrainedTokenizerBase, spec: RewardSpec) -> tuple[int, ...]:
    """Return the ids of what the chat template writes after an assistant's turn."""
    if spec.template.style != "chat":
        raise SpecError("response_format end 'turn' needs template style 'chat'")
    return tuple(encode(tokenizer, [AnswerFrame.of(tokenizer).after], True)[0])
