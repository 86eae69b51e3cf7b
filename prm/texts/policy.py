"""What a policy's text says: the response in a query, the messages in a rendered prompt.

Trainers such as OpenRLHF send one string, the policy's prompt and response decoded with special
tokens. A reward model has a template of its own, so it is given what was said, not how the policy
was shown it. Every surface that gets such strings reads them here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from prm.errors import DataError
from prm.messages import Message, answer_text
from prm.records import Prompt
from prm.trees.chat import PROBE, fixed, marked_clock, open_thought, original, render
from prm.trees.identity import special_tokens as special_tokens_of

MIN_OVERLAP = 16
"""Characters that a query must share with the end of a prompt that was cut from the left."""

_SWITCHES = ("enable_thinking", "thinking")
"""Options by which templates turn thinking on and off, and that trainers set."""

_DIRECTIVES = {
    **dict.fromkeys(("d", "m", "y", "-d", "-m", "H", "I", "M", "S"), r"\d{1,2}"),
    **dict.fromkeys(("a", "A", "b", "B"), "[A-Za-z]+"),
    "Y": r"\d{4}",
}
"""What the directives of dates are written as."""

_CHANNEL = re.compile(
    r"<\|channel\|>(\w+).*?<\|message\|>(.*?)(?=<\|end\|>|<\|return\|>|<\|start\|>|\Z)", re.DOTALL
)
"""A message of gpt-oss: its channel, and its text."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """What a policy's template writes around messages.

    Args:
        options: What it was given beside them.
        start: Pattern of what comes first; dates are its groups.
        dates: The format of each date.
        between: What stands between two turns.
        has_system: Whether the first turn is the system's.
        generation: How it asks for an answer.
        answer: What it writes before an answer.
        end: The special text that ends an answer.
    """

    options: Mapping[str, Any]
    start: re.Pattern[str]
    dates: tuple[str, ...]
    between: tuple[str, ...]
    has_system: bool
    generation: str
    answer: str
    end: str


class PolicyText:
    """Reads the texts of one policy.

    A template may write the day, and may have been told to think or not: prompts of any day, and
    with thinking on or off, are read.

    Args:
        tokenizer: The policy's tokenizer. Without one, prompts are taken as they are and special
            tokens stay in the responses.
        options: What its chat template is given beside messages, such as `reasoning_effort`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.options = dict(options or {})

    @cached_property
    def special_tokens(self) -> list[str]:
        """Texts of the policy's special tokens."""
        return [] if self.tokenizer is None else special_tokens_of(self.tokenizer)

    def read(self, query: str, prompt: str) -> tuple[Prompt, str]:
        """Return the prompt and the response in a query; arguments as of `split_query`.

        Raises:
            DataError: The query does not begin with the prompt, its response goes on after its
                end, or the prompt was rendered in another way than by the tokenizer's chat
                template.
        """
        said = self.prompt(prompt)
        is_rendered = said != prompt
        response = self.response(_response(query, prompt, self.special_tokens))
        return said, open_thought(prompt) + response if is_rendered else response

    def prompt(self, text: str) -> Prompt:
        """Return the messages that the chat template rendered as `text`.

        A single message of a user is returned as its text. So is what has no special token: it was
        not rendered.

        Raises:
            DataError: The template does not render any messages like this.
        """
        if without_special_tokens(text, self.special_tokens) == text:
            return text
        for layout in self._layouts:
            for messages, template in self._candidates(layout, text):
                if text in self._renderings(layout, messages, template):
                    return messages[0]["content"] if len(messages) == 1 else tuple(messages)
        raise self._unreadable(text)

    def split(self, text: str) -> tuple[Prompt, str]:
        """Return the prompt and the response of a rendered text that ends with the response.

        The response is what follows the last opening of the assistant's turn, without special
        tokens.

        Raises:
            DataError: The text is not what the policy's chat template renders.
        """
        tails = {tail for layout in self._layouts for tail in (layout.generation, layout.answer)}
        end = max((text.rfind(tail) + len(tail) for tail in tails if tail in text), default=0)
        if not end:
            raise self._unreadable(text)
        return self.prompt(text[:end]), open_thought(text[:end]) + self.response(text[end:])

    def response(self, text: str) -> str:
        """Return a response as it was said: up to the end of the turn, without special tokens.

        Raises:
            DataError: It goes on after the end of the turn.
        """
        if "<|channel|>" in self.special_tokens and "<|channel|>" in text:
            return _of_channels(text)
        for end in dict.fromkeys(layout.end for layout in self._layouts if layout.end):
            said, _, rest = text.partition(end)
            if without_special_tokens(rest, self.special_tokens).strip():
                raise DataError(
                    "the response goes on after the end of the turn",
                    expected=f"one turn, up to {end!r}",
                    got=rest[:80],
                )
            text = said
        return without_special_tokens(text, self.special_tokens)

    def is_finished(self, text: str) -> bool:
        """Whether a text ends with a special token, as one that was not cut off does."""
        return text.rstrip().endswith(tuple(self.special_tokens))

    def _candidates(self, layout: _Layout, text: str) -> Iterator[tuple[list[Message], str]]:
        """Yield messages that may have been rendered as `text`, each with the day's template."""
        found = layout.start.match(text)
        for tail in dict.fromkeys((layout.generation, layout.answer)):
            if found is None or not text.endswith(tail):
                continue
            body = text[found.end() : len(text) - len(tail)]
            contents = re.split("|".join(map(re.escape, layout.between)), body)
            roles = ["system"] * layout.has_system + ["user", "assistant"] * len(contents)
            messages: list[Message] = [
                {"role": role, "content": content}
                for role, content in zip(roles, contents, strict=False)
            ]
            yield messages, fixed(self._template, _day(found.groups(), layout.dates), {})

    def _renderings(
        self, layout: _Layout, messages: Sequence[Message], template: str
    ) -> Iterator[str]:
        """Yield messages with the turn opened as for a generation, and as before an answer."""
        assert self.tokenizer is not None
        given = {**layout.options, "chat_template": template}
        try:
            yield render(self.tokenizer, messages, add_generation_prompt=True, **given)
            answered = [*messages, {"role": "assistant", "content": PROBE}]
            yield render(self.tokenizer, answered, **given).rpartition(PROBE)[0]
        except DataError:
            return

    @cached_property
    def _template(self) -> str:
        """The chat template, without what may have been fixed in it."""
        if self.tokenizer is None or not self.tokenizer.chat_template:
            return ""
        return original(self.tokenizer.get_chat_template())

    @cached_property
    def _layouts(self) -> list[_Layout]:
        """What the template writes around messages: thinking or not, with a system or without."""
        if not self._template:
            return []
        switches = [name for name in _SWITCHES if name in self._template]
        variants = [{name: value} for name in switches for value in (True, False)]
        found = [
            self._layout({**self.options, **variant}, has_system)
            for variant in ({}, *variants)
            for has_system in (False, True)
        ]
        return [layout for layout in found if layout is not None]

    def _layout(self, options: Mapping[str, Any], has_system: bool) -> _Layout | None:
        """Return what the template writes, `None` where it refuses such messages."""
        assert self.tokenizer is not None
        marks = ["\x02s"] * has_system + ["\x02u", "\x02a", "\x02v", "\x02w"]
        roles = ["system"] * has_system + ["user", "assistant", "user", "assistant"]
        messages = [
            {"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)
        ]
        given = {**options, "chat_template": marked_clock(self._template)}
        try:
            asked = render(self.tokenizer, messages[:-1], add_generation_prompt=True, **given)
            answered = render(self.tokenizer, messages, **given)
        except DataError:
            return None
        start, *between, generation = re.split("\x02[suav]", asked)
        opened = answered.rpartition("\x02v")[2].split("\x02w")
        if len(between) != len(marks) - 2 or len(opened) != 2 or not all((*between, generation)):
            return None
        dates = tuple(re.findall("\x03(.*?)\x04", start))
        around = map(re.escape, re.split("\x03.*?\x04", start))
        days = [*map(_date_pattern, dates), ""]
        pattern = "".join(part + day for part, day in zip(around, days, strict=True))
        end = opened[1].strip()
        is_special = without_special_tokens(end, self.special_tokens) != end
        return _Layout(
            options,
            re.compile(pattern),
            dates,
            tuple(between),
            has_system,
            generation,
            opened[0],
            end if is_special else "",
        )

    def _unreadable(self, text: str) -> DataError:
        return DataError(
            "the prompt is not what the policy's chat template renders",
            got=text,
            fix="Name the tokenizer whose chat template rendered the prompts, and the options "
            "(policy_options) that it was given",
        )


def _date_pattern(format: str) -> str:
    """Return a pattern of the dates that a format writes."""
    parts = re.split("(%-?[a-zA-Z])", format)
    known = (_DIRECTIVES.get(part[1:]) if part.startswith("%") else None for part in parts)
    found = (way or re.escape(part) for way, part in zip(known, parts, strict=True))
    return f"({''.join(found)})"


def _day(texts: Sequence[str], formats: Sequence[str]) -> str:
    """Return the day that a rendered prompt names, as `YYYY-MM-DD`."""
    try:
        return datetime.strptime(texts[0], formats[0].replace("%-", "%")).date().isoformat()
    except (IndexError, ValueError):
        return "1970-01-01"


def _of_channels(text: str) -> str:
    """Return the final message of gpt-oss, after what it thought."""
    said: dict[str, list[str]] = {"final": [], "analysis": []}
    for channel, content in _CHANNEL.findall(text):
        said.setdefault(channel, []).append(content)
    reasoning = "\n".join(said["analysis"])
    return answer_text({"content": "".join(said["final"]), "reasoning_content": reasoning})


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
    return without_special_tokens(_response(query, prompt, tokens), tokens)


def _response(query: str, prompt: str, tokens: Sequence[str]) -> str:
    """Return the response in a query, with its special tokens if the prompt has its own."""
    for remove in ((), tokens):
        text, start = without_special_tokens(query, remove), without_special_tokens(prompt, remove)
        response = _after(text, start)
        if response is not None:
            return response
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
