"""Responses to token trees: a prompt with one branch and one read position per response.

Like `tokenize.TreeBuilder` for chains, this is the only place where a response becomes token ids.
Prompt and response are tokenized apart and joined as ids, and the read position is known by
construction.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from transformers import PreTrainedTokenizerBase

from prm.errors import SpecError
from prm.spec import RewardSpec
from prm.trees.identity import check_identity
from prm.trees.prompts import DroppedRecord, Encoder, PromptEncoder, chat_messages, encode, place
from prm.trees.tree import Segment, TokenTree
from prm.trees.units import ResponseSet

BLOCK = 512
"""Response sets that are tokenized in one call."""


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


class ResponseTreeBuilder:
    """Builds token trees of responses as a spec says.

    Args:
        tokenizer: The model's tokenizer.
        spec: The reward spec.

    Raises:
        SpecError: The tokenizer lacks what the spec needs, or is not the one it was trained with.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, spec: RewardSpec) -> None:
        self.tokenizer = tokenizer
        self.spec = spec
        self._prompts = PromptEncoder(tokenizer, spec)
        self._encode: Encoder = encode
        self._start = _start_ids(tokenizer, spec)
        self._end = _end_ids(tokenizer, spec)
        if spec.tokenizer is not None:
            check_identity(tokenizer, spec)

    def with_encoder(self, encoder: Encoder) -> ResponseTreeBuilder:
        """Return the same builder with another way to tokenize texts."""
        other = copy.copy(self)
        other._encode, other._prompts = encoder, self._prompts.with_encoder(encoder)
        return other

    def build(self, responses: ResponseSet) -> TokenizedResponses:
        """Tokenize one response set.

        Raises:
            DroppedRecord: No response of it fits, or its prompt cannot be rendered.
            DataError: A response does not fit and the spec says to stop.
        """
        result = next(self.build_all([responses]))
        if isinstance(result, DroppedRecord):
            raise result
        return result

    def build_all(
        self, sets: Iterable[ResponseSet]
    ) -> Iterator[TokenizedResponses | DroppedRecord]:
        """Tokenize sets block by block; a set that is left out yields its `DroppedRecord`."""
        iterator = iter(sets)
        while block := list(islice(iterator, BLOCK)):
            yield from self._build_block(block)

    def _build_block(
        self, sets: Sequence[ResponseSet]
    ) -> Iterator[TokenizedResponses | DroppedRecord]:
        prompts = self._prompts.ids([item.records[0] for item in sets])
        suffix = self.spec.response_format.suffix
        texts = [response + suffix for item in sets for response in item.responses]
        encoded = iter(self._encode(self.tokenizer, texts, False))
        for item, prompt in zip(sets, prompts, strict=True):
            responses = list(islice(encoded, len(item.responses)))
            if isinstance(prompt, DroppedRecord):
                yield prompt
                continue
            try:
                yield self._fit(item, [*prompt, *self._start], responses)
            except DroppedRecord as dropped:
                yield dropped

    def _fit(
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
        for ids in responses:
            try:
                segments.append(self._branch(item, ids, room))
                branches.append(len(segments) - 2)
            except DroppedRecord as dropped:
                reasons.append(str(dropped))
                branches.append(None)
        if len(segments) == 1:
            raise DroppedRecord(reasons[0])
        truncated = tuple(
            branch is not None and len(ids) + len(self._end) > room
            for branch, ids in zip(branches, responses, strict=True)
        )
        return TokenizedResponses(
            TokenTree(tuple(segments)), tuple(branches), truncated, tuple(reasons), num_cut
        )

    def _branch(self, item: ResponseSet, ids: Sequence[int], room: int) -> Segment:
        whole = [*ids, *self._end]
        if not whole:
            raise DroppedRecord("response renders to no token", where=place(item.records[0]))
        if len(whole) > room:
            if self.spec.on_too_long != "truncate":
                self._prompts.refuse(item.records[0], self.spec.max_length - room + len(whole))
            whole = list(ids[:room])
        return Segment(tuple(whole), 0, (len(whole) - 1,))

    @property
    def _reserved(self) -> int:
        """Tokens that a prompt has to leave free, whatever the responses are."""
        half = self.spec.max_length - self.spec.max_length // 2
        return half if self.spec.on_long_prompt == "cut_left" else 1 + len(self._end)


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
    probe = "\u2402"
    messages = [*chat_messages("a", None), {"role": "assistant", "content": probe}]
    text = str(tokenizer.apply_chat_template(messages, tokenize=False))
    before, found, after = text.rpartition(probe)
    if not before or not found:
        raise SpecError(
            "the chat template changes the assistant's text",
            fix="Set response_format.end to eos or none",
        )
    return tuple(encode(tokenizer, [after], special_tokens_in_text=True)[0])
