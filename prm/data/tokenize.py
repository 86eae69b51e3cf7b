"""Chains to token trees: the only place where text becomes token ids.

Training, scoring, export and serving all call `TreeBuilder`, so the same text gives the same ids
everywhere. Prompt and steps are tokenized apart and joined as ids; read positions are known by
construction and never searched for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from prm.data.tree import Segment, TokenTree
from prm.errors import DataError, SpecError
from prm.records import Chain, prompt_text
from prm.spec import RewardSpec, TokenizerIdentity

BLOCK = 512
"""Chains that are tokenized in one call."""


class DroppedChain(DataError):
    """A chain that the spec's limits leave out; the message says why."""


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
        self._marker = _marker_ids(tokenizer, spec)
        self._special_tokens = special_tokens(tokenizer)
        _check_template(tokenizer, spec)
        if spec.tokenizer is not None:
            check_identity(tokenizer, spec)

    def build(self, chain: Chain) -> TokenizedChain:
        """Tokenize one chain.

        Raises:
            DroppedChain: It does not fit and the spec says to drop it, its prompt holds a special
                token of a chat template, or its prompt or steps render to nothing.
            DataError: It does not fit and the spec says to stop.
        """
        result = next(self.build_all([chain]))
        if isinstance(result, DroppedChain):
            raise result
        return result

    def build_all(self, chains: Iterable[Chain]) -> Iterator[TokenizedChain | DroppedChain]:
        """Tokenize chains block by block; a chain that is left out yields its `DroppedChain`."""
        iterator = iter(chains)
        while block := list(islice(iterator, BLOCK)):
            yield from self._build_block(block)

    def _build_block(self, chains: Sequence[Chain]) -> Iterator[TokenizedChain | DroppedChain]:
        prompts = self._prompt_ids(chains)
        suffix = self.spec.step_format.suffix
        texts = [
            step + suffix if step.strip() else "" for chain in chains for step in chain.completions
        ]
        steps = iter(self._encode(texts))
        for chain, prompt in zip(chains, prompts, strict=True):
            groups = [
                (index, (*ids, *self._marker))
                for index, (step, ids) in enumerate(
                    zip(chain.completions, islice(steps, len(chain.completions)), strict=True)
                )
                if step.strip() and (ids or self._marker)
            ]
            if isinstance(prompt, DroppedChain):
                yield prompt
                continue
            try:
                yield self._fit(chain, prompt, groups)
            except DroppedChain as dropped:
                yield dropped

    def _fit(
        self, chain: Chain, prompt: Sequence[int], groups: list[tuple[int, tuple[int, ...]]]
    ) -> TokenizedChain:
        if not prompt or not groups:
            part = "prompt" if not prompt else "steps"
            raise DroppedChain(f"{part} render to no token", where=_where(chain))
        prompt, num_cut = self._fit_prompt(chain, prompt, len(groups[0][1]))
        kept, total = 0, len(prompt)
        while kept < len(groups) and total + len(groups[kept][1]) <= self.spec.max_length:
            total += len(groups[kept][1])
            kept += 1
        if kept < len(groups) and self.spec.on_too_long != "truncate":
            self._refuse(chain, len(prompt) + sum(len(ids) for _, ids in groups))
        ids: list[int] = []
        reads = []
        for _, group in groups[:kept]:
            ids.extend(group)
            reads.append(len(ids) - 1)
        tree = TokenTree((Segment(tuple(prompt)), Segment(tuple(ids), 0, tuple(reads))))
        return TokenizedChain(
            tree, tuple(index for index, _ in groups[:kept]), len(groups) - kept, num_cut
        )

    def _fit_prompt(
        self, chain: Chain, prompt: Sequence[int], first_step: int
    ) -> tuple[Sequence[int], int]:
        room = self.spec.max_length - first_step
        if len(prompt) <= room:
            return prompt, 0
        if self.spec.on_too_long == "error":
            self._refuse(chain, len(prompt) + first_step)
        num_bos = 1 if self.spec.template.bos == "one" else 0
        if self.spec.on_long_prompt == "drop" or room <= num_bos:
            raise DroppedChain(
                "prompt leaves no room for the first step",
                expected=f"at most {max(room, 0)} tokens (max_length {self.spec.max_length})",
                got=f"{len(prompt)} tokens",
                where=_where(chain),
            )
        num_cut = len(prompt) - room
        return [*prompt[:num_bos], *prompt[num_bos + num_cut :]], num_cut

    def _refuse(self, chain: Chain, num_tokens: int) -> None:
        error = DataError if self.spec.on_too_long == "error" else DroppedChain
        raise error(
            "chain is too long",
            expected=f"at most {self.spec.max_length} tokens (max_length)",
            got=f"{num_tokens} tokens",
            where=_where(chain),
        )

    def _prompt_ids(self, chains: Sequence[Chain]) -> list[list[int] | DroppedChain]:
        chat = self.spec.template.style == "chat"
        rendered = [self._render_chat(chain) if chat else self._render(chain) for chain in chains]
        texts = [item if isinstance(item, str) else "" for item in rendered]
        encoded = self._encode(texts, special_tokens_in_text=chat)
        return [
            self._with_bos(ids) if isinstance(item, str) else item
            for item, ids in zip(rendered, encoded, strict=True)
        ]

    def _render(self, chain: Chain) -> str | DroppedChain:
        template = self.spec.template
        return template.prefix + prompt_text(chain.prompt) + template.suffix

    def _render_chat(self, chain: Chain) -> str | DroppedChain:
        messages: list[dict[str, str]] = (
            [{"role": "user", "content": chain.prompt}]
            if isinstance(chain.prompt, str)
            else [dict(message) for message in chain.prompt]
        )
        for token in self._special_tokens:
            if any(token in message["content"] for message in messages):
                return DroppedChain(
                    f"prompt contains the special token {token!r}",
                    where=_where(chain),
                    fix="Remove it, or use the plain template, which reads it as ordinary text",
                )
        system = self.spec.template.system
        if system is not None and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": system})
        try:
            text = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:
            return DroppedChain(
                f"the chat template refuses the prompt: {error}", where=_where(chain)
            )
        return str(text)

    def _with_bos(self, ids: list[int]) -> list[int]:
        bos = self.tokenizer.bos_token_id
        start = 0
        while bos is not None and start < len(ids) and ids[start] == bos:
            start += 1
        return [bos, *ids[start:]] if self.spec.template.bos == "one" else ids[start:]

    def _encode(self, texts: list[str], special_tokens_in_text: bool = False) -> list[list[int]]:
        if not texts:
            return []
        ids: list[list[int]] = self.tokenizer(
            texts,
            add_special_tokens=False,
            split_special_tokens=not special_tokens_in_text,
            return_attention_mask=False,
            verbose=False,
        )["input_ids"]
        return ids


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the texts that the tokenizer would read as one special token, sorted."""
    added = tokenizer.added_tokens_decoder.values()
    return sorted({token.content for token in added if token.special})


def add_marker(tokenizer: PreTrainedTokenizerBase, spec: RewardSpec) -> int:
    """Make the step marker a special token and return how many tokens were added (0 or 1)."""
    marker = spec.step_format.marker
    if marker is None or marker in special_tokens(tokenizer):
        return 0
    return int(tokenizer.add_tokens([marker], special_tokens=True))


def identity(tokenizer: PreTrainedTokenizerBase, spec: RewardSpec) -> TokenizerIdentity:
    """Return the identity of a tokenizer that holds the spec's marker."""
    marker = _marker_ids(tokenizer, spec)
    return TokenizerIdentity(
        fingerprint=fingerprint(tokenizer),
        vocab_size=len(tokenizer),
        marker_id=marker[0] if marker else None,
    )


PROBE_TEXT = "Step 1: 3/4 of $12.50 is 9.375 — naïve ∑x², \n\n then <b>π</b>\t≈ 3.14159; 答案是 42."


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the SHA-256 of vocabulary, special tokens, chat template and the ids of a probe."""
    facts: dict[str, Any] = {
        "vocab": sorted(tokenizer.get_vocab().items()),
        "bos": tokenizer.bos_token_id,
        "special": special_tokens(tokenizer),
        "chat_template": tokenizer.chat_template,
        "probe": tokenizer(PROBE_TEXT, add_special_tokens=False)["input_ids"],
    }
    return hashlib.sha256(json.dumps(facts, ensure_ascii=False).encode()).hexdigest()


def check_identity(tokenizer: PreTrainedTokenizerBase, spec: RewardSpec) -> None:
    """Refuse a tokenizer that is not the one in the spec.

    Raises:
        SpecError: Vocabulary, special tokens, chat template or tokenization differ.
    """
    expected = spec.tokenizer
    actual = identity(tokenizer, spec)
    if expected is None or actual == expected:
        return
    detail = "vocabulary size" if actual.vocab_size != expected.vocab_size else "fingerprint"
    raise SpecError(
        f"the tokenizer is not the one this model was trained with ({detail} differs)",
        expected=f"{expected.vocab_size} tokens, fingerprint {expected.fingerprint[:12]}",
        got=f"{actual.vocab_size} tokens, fingerprint {actual.fingerprint[:12]}",
        fix="Use the tokenizer files that were saved with the weights",
    )


def _marker_ids(tokenizer: PreTrainedTokenizerBase, spec: RewardSpec) -> tuple[int, ...]:
    marker = spec.step_format.marker
    if marker is None:
        return ()
    ids = tokenizer(marker, add_special_tokens=False)["input_ids"]
    if len(ids) != 1 or marker not in special_tokens(tokenizer):
        raise SpecError(
            f"step marker {marker!r} is not one special token of this tokenizer",
            expected="1 token",
            got=f"{len(ids)} tokens",
            fix="Let prm add it (train with it), or name a special token that exists",
        )
    return (int(ids[0]),)


def _check_template(tokenizer: PreTrainedTokenizerBase, spec: RewardSpec) -> None:
    if spec.template.style == "chat" and not tokenizer.chat_template:
        raise SpecError(
            "template style 'chat' needs a tokenizer with a chat template",
            fix="Use style 'plain', or a tokenizer that has one",
        )
    if spec.template.bos == "one" and tokenizer.bos_token_id is None:
        raise SpecError("template says bos 'one' but the tokenizer has no BOS token")


def _where(chain: Chain) -> str | None:
    return (
        ", ".join(part for part in (chain.origin, chain.id and f"row {chain.id!r}") if part) or None
    )
