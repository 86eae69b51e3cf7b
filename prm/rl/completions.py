"""What trainers hand over, as prompt and response: texts, conversations or token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from prm.errors import DataError
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
    start = _messages(prompt) if _is_conversation(prompt) else _text(prompt, tokenizer)
    if not _is_conversation(completion):
        return start, _text(completion, tokenizer)
    *turns, last = _messages(completion)
    if not turns:
        return start, last["content"]
    if isinstance(start, str):
        start = ({"role": "user", "content": start},)
    return (*start, *turns), last["content"]


def _is_conversation(value: Text) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and len(value) > 0
        and isinstance(value[0], Mapping)
    )


def _messages(value: Any) -> tuple[Message, ...]:
    return tuple({"role": message["role"], "content": _content(message)} for message in value)


def _content(message: Mapping[str, Any]) -> str:
    """Return the text of a message; its content may come in parts."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    texts = [part.get("text") for part in content]
    if not all(isinstance(text, str) for text in texts):
        raise DataError("a message holds more than text", expected="parts of text", got=content)
    return "".join(texts)


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
