"""Rewards of steps on tokens: the last token of each step, whatever the policy's tokenizer."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from prm.rl import token_rewards
from prm.rl.reward_function import CompletionReward
from prm.rl.token_rewards import StepCredit, decoded_step_ends, to_token_rewards
from prm.scores.chains import ChainScore
from prm.spec import StepFormat
from prm.texts.steps import StepSpan, split_steps

LINES = StepFormat(separator="\n")
SPECIAL = ["<pad>", "<eos>"]
CORPUS = ["So 12 + 30 = 42.\n\n  naïve π≈3\n答案是 42。\n\ttherefore\r\n🙂🙂 done\n"] * 3
TEXTS = st.text(st.sampled_from("ab12 +=.\n\tïπ答案是🙂"), max_size=40)


@functools.cache
def byte_level(vocab_size: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE whose characters may be spread over several tokens."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            initial_alphabet=alphabet,
            special_tokens=SPECIAL,
            show_progress=False,
        ),
    )
    return wrapped(backend)


@functools.cache
def metaspace() -> PreTrainedTokenizerFast:
    """Return a BPE with `▁` for spaces, one before the text, and bytes for unknown characters."""
    symbols = ["▁", *"ab12+=.\n\tï", "▁1", "2\n", "\n\n", "12", "a\nb"]
    tokens = [*SPECIAL, "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *symbols]
    merges = [("▁", "1"), ("2", "\n"), ("\n", "\n"), ("1", "2")]
    backend = Tokenizer(
        models.BPE(
            {token: index for index, token in enumerate(tokens)},
            merges,
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return wrapped(backend)


def wrapped(backend: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>")


TOKENIZERS = {
    "bytes": lambda: byte_level(258),
    "byte_bpe": lambda: byte_level(320),
    "metaspace": metaspace,
}


def completion(response: str, probabilities: Sequence[float]) -> CompletionReward:
    logits = tuple(torch.tensor(probabilities, dtype=torch.float64).logit().tolist())
    score = ChainScore("", {"correctness": logits}, {}, 0.5, "correctness", "min")
    return CompletionReward(0.5, {}, score, response, split_steps(response, LINES))


def by_bytes(
    text: str, steps: Sequence[StepSpan], ids: Sequence[int], tokenizer: PreTrainedTokenizerFast
) -> list[int]:
    """Return the token that holds the last byte of each step; a byte-level symbol is one byte."""
    sizes = [len(symbol) for symbol in tokenizer.convert_ids_to_tokens(ids)]
    ends = list(accumulate(sizes))
    last = [len(text[: step.end].encode()) for step in steps]
    return [next(index for index, end in enumerate(ends) if end >= byte) for byte in last]


@pytest.mark.parametrize("vocab_size", [258, 320])
@given(text=TEXTS, seed=st.integers(0, 2**16), with_offsets=st.booleans())
def test_last_byte_of_a_step_is_in_its_token(
    vocab_size: int, text: str, seed: int, with_offsets: bool
) -> None:
    """Also for tokens that the tokenizer would not choose, as a policy may."""
    tokenizer = byte_level(vocab_size)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not with_offsets:
        ids = [token for whole in ids for token in split_at_random(whole, seed, tokenizer)]
    steps = split_steps(text, LINES)
    assert tokenizer.decode(ids) == text
    assert decoded_step_ends(text, steps, ids, tokenizer) == by_bytes(text, steps, ids, tokenizer)


def split_at_random(token: int, seed: int, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Return a token, or the bytes that it stands for."""
    symbols = tokenizer.convert_ids_to_tokens(token)
    return tokenizer.convert_tokens_to_ids(list(symbols)) if (seed + token) % 2 else [token]


@pytest.mark.parametrize("name", TOKENIZERS)
@given(data=st.data())
def test_offsets_and_decoding_agree(name: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[name]()
    ids = tokenizer(data.draw(TEXTS), add_special_tokens=False)["input_ids"]
    text = tokenizer.decode(ids)
    steps = split_steps(text, LINES)
    found = decoded_step_ends(text, steps, [*ids, 1], tokenizer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_rewards, "_stock_offsets", lambda *_: None)
        assert decoded_step_ends(text, steps, [*ids, 1], tokenizer) == found


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("mode", ["raw", "difference", "min"])
@settings(suppress_health_check=[HealthCheck.filter_too_much])
@given(data=st.data())
def test_any_tokens_keep_the_total(
    name: str, mode: Literal["raw", "difference", "min"], data: st.DataObject
) -> None:
    """Any ids, also those of broken characters and special tokens; cut off anywhere; padded."""
    tokenizer = TOKENIZERS[name]()
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=30))
    text = tokenizer.decode(ids, skip_special_tokens=True)
    stripped = data.draw(st.sampled_from([text, text.strip()]))
    number = len(split_steps(stripped, LINES))
    assume(number > 0)
    chance = st.floats(0.01, 0.99)
    probabilities = data.draw(st.lists(chance, min_size=number, max_size=number))
    left = data.draw(st.integers(0, 3))
    mask = torch.zeros(1, left + len(ids) + 2, dtype=torch.bool)
    mask[0, left : left + len(ids)] = True

    reward = completion(stripped, probabilities)
    credit = StepCredit(mode)
    found = to_token_rewards([reward], [ids], mask, tokenizer, credit=credit)

    expected = credit.step_rewards(reward.step_probabilities)
    assert found.sum().item() == pytest.approx(sum(expected), abs=1e-4)
    assert not found[~mask].any()
    ends = decoded_step_ends(stripped, reward.steps, ids, tokenizer)
    assert ends == sorted(ends)
    for value, end, step in zip(expected, ends, reward.steps, strict=True):
        if ends.count(end) == 1:
            assert found[0, left + end].item() == pytest.approx(value, abs=1e-6)
        written = tokenizer.decode(ids[: end + 1], skip_special_tokens=True)
        before = tokenizer.decode(ids[:end], skip_special_tokens=True)
        upto = stripped[: step.end]
        assert written.lstrip().startswith(upto.lstrip())
        assert upto.endswith("\ufffd") or not before.lstrip().startswith(upto.lstrip())
