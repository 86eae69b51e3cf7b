"""Chat templates: what they write around messages, the same on any day and for any caller.

A template reads more than messages: the clock, and options such as `enable_thinking`. Both are
fixed when a model is built, by a few lines before the template that give them their values. They
are saved with the tokenizer, so stock transformers and vLLM render what prm renders.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date as Date
from typing import Any

from transformers import PreTrainedTokenizerBase

from prm.errors import DataError, SpecError
from prm.messages import CALLS, TOOLS, Message, call_values
from prm.spec import RewardSpec, Template
from prm.spec.parts import Opening

CLOCK = "strftime_now"
"""The function by which templates read the clock."""

_START, _END = "{#- prm: fixed #}", "{#- prm: template #}"

PROBE = "\u2402"
"""Stands for the assistant's text where a template is asked what it writes around it."""

_EMPTY_THOUGHT = re.compile(
    r"(?:<think>\s*</think>|\[THINK\]\s*\[/THINK\]|<\|START_THINKING\|>\s*<\|END_THINKING\|>)\s*\Z"
)
_OPEN_THOUGHT = re.compile(r"(?:<think>|\[THINK\]|<\|START_THINKING\|>)\s*\Z")
_THOUGHTS = ("<think>", "[THINK]", "<|START_THINKING|>")


def fix_template(tokenizer: PreTrainedTokenizerBase, spec: RewardSpec) -> RewardSpec:
    """Fix what the chat template reads beside messages, in the tokenizer, and settle the spec.

    Returns:
        The spec, whose template says `one` or `none` for BOS, and how answers are opened.

    Raises:
        SpecError: The template reads the clock, and no date is given; or it is unusable.
    """
    template, day = spec.template, None
    opening: Opening = "generation"
    if template.style == "chat":
        tokenizer.chat_template = _each(tokenizer.chat_template, template)
        day = template.date if CLOCK in json.dumps(tokenizer.chat_template) else None
        opening = _opening(tokenizer, template)
    template = with_bos(tokenizer, template)
    return spec.with_(template=replace(template, date=day, opening=opening))


def with_bos(tokenizer: PreTrainedTokenizerBase, template: Template) -> Template:
    """Return a template that says `one` or `none` for BOS."""
    if template.bos != "tokenizer":
        return template
    return replace(template, bos="one" if _adds_bos(tokenizer, template) else "none")


def fixed(text: str, date: str | None, options: Mapping[str, Any]) -> str:
    """Return a template that takes date and options as fixed; an older fixing is replaced.

    Args:
        text: The template.
        date: What the clock says, as `YYYY-MM-DD`.
        options: Names that the template reads, with JSON values.

    Raises:
        SpecError: The template reads the clock, and there is no date.
    """
    bare = original(text)
    lines = [f"{{%- set {name} = {_literal(value)} -%}}" for name, value in options.items()]
    if CLOCK in bare:
        lines.insert(0, _clock(bare, date))
    return "".join((_START, *lines, _END, bare)) if lines else bare


def original(text: str) -> str:
    """Return a template without what `fixed` put before it."""
    return text.partition(_END)[2] if text.startswith(_START) else text


def marked_clock(text: str) -> str:
    r"""Return a template that writes `\x03FORMAT\x04` where it would write the date."""
    bare = original(text)
    macro = f'{{%- macro {CLOCK}(format) -%}}{{{{- "\x03" ~ format ~ "\x04" -}}}}{{%- endmacro -%}}'
    return "".join((_START, macro, _END, bare)) if CLOCK in bare else bare


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], **options: Any) -> str:
    """Return messages as the chat template renders them; tools of the first message are passed.

    Raises:
        DataError: The template refuses the messages, in whatever way.
    """
    turns = [_bare(message) for message in messages]
    given = {"tools": messages[0].get(TOOLS), "tokenize": False, **options}
    try:
        return str(tokenizer.apply_chat_template(turns, **given))
    except Exception as error:  # a template is a program: it may raise anything
        if any(CALLS in turn for turn in turns):  # some read arguments as JSON text
            with suppress(Exception):
                quoted_turns = [dict(quoted(turn)) for turn in turns]
                return str(tokenizer.apply_chat_template(quoted_turns, **given))
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"the chat template refuses the prompt: {reason}") from error


@dataclass(frozen=True, slots=True)
class AnswerFrame:
    """What the chat template writes around the assistant's last text.

    Args:
        before: The end of what it writes before: from a message of the user on.
        thought: An empty thinking block that ends it; text that thinks itself replaces it.
        after: What it writes after.
    """

    before: str
    thought: str
    after: str

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> AnswerFrame:
        """Return the frame of a tokenizer's template.

        Raises:
            SpecError: The template does not render text as it is.
        """
        asked = "\u2401"
        text = _probe(tokenizer, [{"role": "user", "content": asked}, _answer()])
        before, found, after = text.rpartition(PROBE)
        if not found or asked not in before:
            raise SpecError(
                "the chat template does not render the text of messages",
                got=text,
                fix="Use template style 'plain', or a tokenizer whose template reads text",
            )
        opening = before.rpartition(asked)[2]
        match = _EMPTY_THOUGHT.search(opening)
        return cls(opening, match.group() if match else "", after)


def open_answer(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], template: Template
) -> str:
    """Return a prompt with the assistant's turn opened, as the spec's template says.

    Raises:
        DataError: The template refuses the prompt, or its rendering lacks what a message says.
    """
    if template.opening == "generation":
        options = {**template.options, "add_generation_prompt": True}
        text = render(tokenizer, messages, **options)
    else:
        text = render(tokenizer, [*messages, _answer()], **template.options).rpartition(PROBE)[0]
    missing = _missing(messages, text)
    if missing is not None:
        raise DataError(
            "the chat template leaves out what a message says",
            expected="a template that renders it",
            got=missing,
            fix="Use a tokenizer whose template reads such messages",
        )
    return text


def open_thought(text: str) -> str:
    """Return the tag with which a prompt leaves a thinking block open; "" if it does not."""
    match = _OPEN_THOUGHT.search(text)
    return match.group() if match else ""


def thinks(text: str) -> bool:
    """Whether an assistant's text begins with a thinking block of its own."""
    return text.lstrip().startswith(_THOUGHTS)


def _bare(message: Message) -> dict[str, Any]:
    return {name: value for name, value in message.items() if name != TOOLS}


def quoted(message: Message) -> Message:
    """Return a message whose calls have their arguments as JSON text."""
    if CALLS not in message:
        return message
    functions = [call["function"] for call in message[CALLS]]
    texts = [json.dumps(function["arguments"], ensure_ascii=False) for function in functions]
    quoted = [{**one, "arguments": text} for one, text in zip(functions, texts, strict=True)]
    calls = zip(message[CALLS], quoted, strict=True)
    return {**message, CALLS: [{**call, "function": function} for call, function in calls]}


def _answer() -> Message:
    return {"role": "assistant", "content": PROBE}


def _probe(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], **options: Any) -> str:
    try:
        return render(tokenizer, messages, **options)
    except DataError as error:
        raise SpecError(
            "the chat template cannot be used",
            got=str(error),
            fix="Use template style 'plain', or another tokenizer",
        ) from error


def _opening(tokenizer: PreTrainedTokenizerBase, template: Template) -> Opening:
    """Return `generation` where the prompt for a generation opens the turn as an answer's does."""
    if template.opening == "generation":
        return template.opening
    frame = AnswerFrame.of(tokenizer)
    asked = [{"role": "user", "content": "\u2401"}]
    generation = _probe(tokenizer, asked, add_generation_prompt=True).rpartition("\u2401")[2]
    is_same = generation.strip() == frame.before.strip() and not frame.thought
    return "generation" if is_same else "answer"


def _adds_bos(tokenizer: PreTrainedTokenizerBase, template: Template) -> bool:
    """Whether the tokenizer, or its chat template, starts a sequence with BOS."""
    start = first_token(tokenizer)
    if start is None:
        return False
    text = (
        _probe(tokenizer, [{"role": "user", "content": "a"}]) if template.style == "chat" else "a"
    )
    ids = tokenizer(text, add_special_tokens=template.style == "plain")["input_ids"]
    return bool(list(ids)[:1] == [start])


def first_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the token that starts a sequence: BOS, or CLS of an encoder's tokenizer."""
    bos, cls = tokenizer.bos_token_id, tokenizer.cls_token_id
    found: int | None = cls if bos is None else bos
    return found


def _each(texts: Any, template: Template) -> Any:
    """Fix a template, or each of several by name."""
    if isinstance(texts, Mapping):
        return {name: fixed(text, template.date, template.options) for name, text in texts.items()}
    if not texts:
        raise SpecError(
            "template style 'chat' needs a tokenizer with a chat template",
            fix="Use style 'plain', or a tokenizer that has one",
        )
    return fixed(texts, template.date, template.options)


def _clock(text: str, date: str | None) -> str:
    """Return a macro in the place of the clock, for the directives that a template has."""
    if date is None:
        raise SpecError(
            "the chat template writes today's date, and the spec does not say which day that is",
            expected="a date, as YYYY-MM-DD, in `template.date`",
            fix="Name the day that the model was trained on",
        )
    day = Date.fromisoformat(date)
    directives = sorted(set(re.findall(r"%-?[a-zA-Z]", text)) | {"%Y", "%m", "%d", "%b", "%B"})
    values = {name: day.strftime(name) for name in directives}
    changes = "".join(f" | replace({_literal(k)}, {_literal(v)})" for k, v in values.items())
    return f"{{%- macro {CLOCK}(format) -%}}{{{{- format{changes} -}}}}{{%- endmacro -%}}"


def _literal(value: Any) -> str:
    """Return a JSON value as Jinja writes it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_literal(k)}: {_literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def _missing(messages: Sequence[Message], text: str) -> str | None:
    """Return the first text of messages that a rendering lacks; reasoning may be left out."""
    said = [part for message in messages for part in _said(message)]
    lost = [part for part in said if part.strip() not in text]
    if not lost:
        return None
    squeezed = _squeezed(text)
    return next((part for part in lost if not _shown(part, squeezed)), None)


def _said(message: Message) -> list[str]:
    content = str(message["content"])
    if message["role"] == "assistant":
        content = re.split(r"</think>|\[/THINK\]|<\|END_THINKING\|>", content)[-1]
    calls = call_values(message) if message.get(CALLS) else []
    names = [str(tool.get("function", tool).get("name", "")) for tool in message.get(TOOLS, ())]
    return [content, *calls, *names]


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _shown(part: str, squeezed: str) -> bool:
    """Whether a text without white space holds another, as it is, as JSON or as in Python."""
    written = [part, json.dumps(part, ensure_ascii=False), json.dumps(part), repr(part)]
    return any(_squeezed(one.strip("\"'")) in squeezed for one in written)
