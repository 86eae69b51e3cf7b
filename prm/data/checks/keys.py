"""Keys: 64-bit numbers that stand for texts, so that checks need not keep the texts."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

from prm.records import Prompt


@lru_cache(maxsize=64)  # several checks ask for the same record's texts
def text_key(text: str) -> int:
    """Return a signed 64-bit number that is the same for the same text, on any machine."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def prompt_key(prompt: Prompt) -> int:
    """Return the key of a prompt; roles count, so a conversation differs from its bare text."""
    if isinstance(prompt, str):
        return text_key(prompt)
    turns = (f"{message['role']}\x1f{message['content']}" for message in prompt)
    return text_key("\x1e".join(turns))


def response_key(prompt: int, response: str) -> int:
    """Return the key of a response to the prompt with the key `prompt`."""
    return hash((prompt, text_key(response)))
