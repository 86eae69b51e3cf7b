"""What trainers hand over, as prompt and response: texts, conversations or token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from prm.errors import DataError
from prm.messages import answer_text, read_messages
from prm.records import Message, Prompt

Text = str | Sequence[Message] | Sequence[int]
"""A text, messages with `role` and `content`, or token ids."""


def as_pair(
    prompt: Text, completion: Text, tokenizer: PreTrainedTokenizerBase | None = None
) -> tuple[Prompt, str]:
    """Return a prompt and the response to it.

    Of a completion of several messages (an agent's turns) the last is the response; those before
    it become part of the prompt.

    Args:
        prompt: The prompt.
        completion: What the policy wrote.
        tokenizer: The policy's tokenizer, which token ids are decoded with, special tokens left
            out.

    Raises:
        DataError: One of them has another form, or token ids come without a tokenizer.

    Example:
        >>> as_pair([{"role": "user", "content": "2?"}], [{"role": "assistant", "content": "4"}])
        (({'role': 'user', 'content': '2?'},), '4')
    """
    start = read_messages(prompt, None) if _is_conversation(prompt) else _text(prompt, tokenizer)
    if not _is_conversation(completion):
        return start, _text(completion, tokenizer)
    *turns, last = read_messages(completion, None, "completion")
    if turns and isinstance(start, str):
        start = ({"role": "user", "content": start},)
    return (*start, *turns) if turns else start, answer_text(last)


def _is_conversation(value: Text) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and len(value) > 0
        and isinstance(value[0], Mapping)
    )


def _text(value: Any, tokenizer: PreTrainedTokenizerBase | None) -> str:
    if isinstance(value, str):
        return value
    ids = value.tolist() if hasattr(value, "tolist") else list(value)
    if not all(isinstance(token, int) for token in ids):
        expected = "a text, a list of messages, or token ids"
        raise DataError("this cannot be scored", expected=expected, got=value)
    if tokenizer is None:
        raise DataError(
            "token ids cannot be read without the policy's tokenizer",
            expected="texts or messages",
            got=ids,
            fix="Give RewardFunction a tokenizer",
        )
    return str(tokenizer.decode(ids, skip_special_tokens=True))
