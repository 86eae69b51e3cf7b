"""Which tokenizer a model reads with: its marker token and its fingerprint."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from transformers import PreTrainedTokenizerBase

from prm.errors import SpecError
from prm.spec import RewardSpec, TokenizerIdentity


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the texts that the tokenizer would read as one special token, sorted."""
    added = tokenizer.added_tokens_decoder.values()
    return sorted({token.content for token in added if token.special})


def add_marker(tokenizer: PreTrainedTokenizerBase, spec: RewardSpec) -> int:
    """Make the step marker a special token and return how many tokens were added (0 or 1)."""
    marker = spec.marker
    if marker is None or marker in special_tokens(tokenizer):
        return 0
    return int(tokenizer.add_tokens([marker], special_tokens=True))


PAD_TOKEN = "<|pad|>"


def add_pad(tokenizer: PreTrainedTokenizerBase, spec: RewardSpec) -> int:
    """Give a tokenizer that responses are read with a pad token that is not EOS.

    Stock classifiers read the last token that is not padding; with EOS as padding, that is not the
    end of the response. Returns how many tokens were added (0 or 1).
    """
    pad = tokenizer.pad_token_id
    if not spec.response_heads or (pad is not None and pad != tokenizer.eos_token_id):
        return 0
    return int(tokenizer.add_special_tokens({"pad_token": PAD_TOKEN}))


def identity(tokenizer: PreTrainedTokenizerBase, spec: RewardSpec) -> TokenizerIdentity:
    """Return the identity of a tokenizer that holds the spec's marker."""
    marker = marker_ids(tokenizer, spec)
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


def marker_ids(tokenizer: PreTrainedTokenizerBase, spec: RewardSpec) -> tuple[int, ...]:
    """Return the step marker's token id, or nothing if the spec has no marker.

    Raises:
        SpecError: The marker is not one special token.
    """
    marker = spec.marker
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
