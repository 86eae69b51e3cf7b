"""What a policy's text says: the response in a query, the messages in a rendered prompt.

Trainers such as OpenRLHF send one string, the policy's prompt and response decoded with special
tokens. A reward model has a template of its own, so it is given what was said, not how the policy
was shown it. Every surface that gets such strings reads them here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from prm.errors import DataError
from prm.records import Prompt
from prm.trees.identity import special_tokens as special_tokens_of

MIN_OVERLAP = 16
"""Characters that a query must share with the end of a prompt that was cut from the left."""


class PolicyText:
    """Reads the texts of one policy.

    Args:
        tokenizer: The policy's tokenizer. Without one, prompts are taken as they are and special
            tokens stay in the responses.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        self.tokenizer = tokenizer

    @cached_property
    def special_tokens(self) -> list[str]:
        """Texts of the policy's special tokens."""
        return [] if self.tokenizer is None else special_tokens_of(self.tokenizer)

    def read(self, query: str, prompt: str) -> tuple[Prompt, str]:
        """Return the prompt and the response in a query; arguments as of `split_query`.

        Raises:
            DataError: The query does not begin with the prompt, or the prompt was rendered in
                another way than by the tokenizer's chat template.
        """
        return self.prompt(prompt), split_query(query, prompt, self.special_tokens)

    def prompt(self, text: str) -> Prompt:
        """Return the messages that the chat template rendered as `text`.

        A single message of a user is returned as its text. So is what has no special token: it was
        not rendered.

        Raises:
            DataError: The template does not render any messages like this.
        """
        if without_special_tokens(text, self.special_tokens) == text:
            return text
        for messages in self._candidates(text):
            if self._render(messages) == text:
                return messages[0]["content"] if len(messages) == 1 else tuple(messages)
        raise self._unreadable(text)

    def split(self, text: str) -> tuple[Prompt, str]:
        """Return the prompt and the response of a rendered text that ends with the response.

        The response is what follows the last opening of the assistant's turn, without special
        tokens.

        Raises:
            DataError: The text is not what the policy's chat template renders.
        """
        tails = {pieces[-1] for pieces in self._pieces}
        end = max((text.rfind(tail) + len(tail) for tail in tails if tail in text), default=0)
        if not end:
            raise self._unreadable(text)
        return self.prompt(text[:end]), self.without_special_tokens(text[end:])

    def without_special_tokens(self, text: str) -> str:
        """Return a response as it would have been decoded without special tokens."""
        return without_special_tokens(text, self.special_tokens)

    def is_finished(self, text: str) -> bool:
        """Whether a text ends with a special token, as one that was not cut off does."""
        return text.rstrip().endswith(tuple(self.special_tokens))

    def _candidates(self, text: str) -> Iterator[list[dict[str, str]]]:
        """Yield messages that may have been rendered as `text`."""
        for start, *between, tail in self._pieces:
            if text.startswith(start) and text.endswith(tail):
                body = text[len(start) : len(text) - len(tail)]
                contents = re.split("|".join(map(re.escape, between)), body)
                roles = ["system"] * (len(between) - 2) + ["user", "assistant"] * len(contents)
                yield [
                    {"role": role, "content": content}
                    for role, content in zip(roles, contents, strict=False)
                ]

    @cached_property
    def _pieces(self) -> list[list[str]]:
        """What the template writes around messages: with its own system message, and with one."""
        turns = [("user", "\x02u"), ("assistant", "\x02a"), ("user", "\x02v")]
        found = []
        for first in ([], [("system", "\x02s")]):
            messages = [{"role": role, "content": mark} for role, mark in (*first, *turns)]
            try:
                text = self._render(messages)
            except TemplateError:
                continue
            pieces = re.split("\x02[suav]", text)
            if len(pieces) == len(messages) + 1:
                found.append(pieces)
        return found

    def _unreadable(self, text: str) -> DataError:
        return DataError(
            "the prompt is not what the policy's chat template renders",
            got=text,
            fix="Name the tokenizer whose chat template rendered the prompts",
        )

    def _render(self, messages: Sequence[dict[str, str]]) -> str:
        if self.tokenizer is None or not self.tokenizer.chat_template:
            return ""
        return str(
            self.tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=True
            )
        )


def split_query(query: str, prompt: str, special_tokens: Iterable[str] = ()) -> str:
    """Return the response in a query: what follows the prompt, without special tokens.

    The query may have a BOS token that the prompt lacks, and its prompt may have been cut from the
    left to fit the policy.

    Args:
        query: The policy's prompt and response as one text.
        prompt: The prompt as the policy was given it.
        special_tokens: Texts of the policy's special tokens; they are left out, as by
            `tokenizer.decode(ids, skip_special_tokens=True)`.

    Raises:
        DataError: The query does not begin with the prompt.

    Example:
        >>> split_query("<s>2 + 2 = ? 4</s>", "2 + 2 = ?", ["<s>", "</s>"])
        ' 4'
    """
    tokens = tuple(special_tokens)
    for remove in ((), tokens):
        text, start = without_special_tokens(query, remove), without_special_tokens(prompt, remove)
        response = _after(text, start)
        if response is not None:
            return without_special_tokens(response, tokens)
    raise DataError(
        "the query does not begin with the prompt",
        expected=repr(prompt[:80]),
        got=query[:80],
        fix="Send prompts as the policy was given them, and name the policy's special tokens",
    )


def without_special_tokens(text: str, special_tokens: Iterable[str]) -> str:
    """Return a text without special tokens.

    Example:
        >>> without_special_tokens("4<|im_end|>", ["<|im_end|>"])
        '4'
    """
    pattern = "|".join(map(re.escape, sorted(filter(None, special_tokens), key=len, reverse=True)))
    return re.sub(pattern, "", text) if pattern else text


def _after(query: str, prompt: str) -> str | None:
    if query.startswith(prompt):
        return query[len(prompt) :]
    query = query.lstrip("\ufffd")
    start = prompt.find(query[:MIN_OVERLAP])
    while start >= 0 and len(prompt) - start >= MIN_OVERLAP:
        if query.startswith(prompt[start:]):
            return query[len(prompt) - start :]
        start = prompt.find(query[:MIN_OVERLAP], start + 1)
    return None
