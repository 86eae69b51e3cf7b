"""Messages of conversations: the one reader for files, Python, trainers, server and client.

A message keeps all that a chat template may read: its calls of tools, its reasoning, names, and on
the first message of a conversation the tools that the assistant may call. What means the same is
written in one way, so that a conversation is the same wherever it comes from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from prm.errors import DataError

Message = Mapping[str, Any]
"""One turn of a conversation: `role`, `content`, and what else a chat template may read."""

CALLS = "tool_calls"
REASONING = "reasoning_content"
TOOLS = "tools"

BEYOND_TEXT = (CALLS, REASONING, TOOLS)
"""Fields of a message that only a chat template can render."""

EXPECTED = "text or a list of {'role', 'content'} messages"

_SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "system": "system",
    "developer": "developer",
    "tool": "tool",
    "observation": "tool",
}
"""What `from` says in messages with `from` and `value`, and the role that it is."""

_REASONING = (REASONING, "reasoning", "thinking")
"""Names of a message's reasoning, as trainers and servers write it."""


class BeyondText(DataError):
    """A message that would be scored, or that no template can render, is more than text."""


def read_messages(value: object, where: str | None, name: str = "prompt") -> tuple[Message, ...]:
    """Return a conversation, each message in one notation.

    Content may be text, null beside calls or reasoning, or parts that hold text alone. Messages
    with `from` and `value` get `role` and `content`. Arguments of calls that are JSON text are
    parsed. Fields that are null are left out.

    Args:
        value: The messages.
        where: Where they stand, for errors.
        name: Name of the field that holds them.

    Raises:
        DataError: Something is no message, or holds more than text and JSON values.

    Example:
        >>> read_messages([{"from": "human", "value": "2 + 2?"}], None)
        ({'role': 'user', 'content': '2 + 2?'},)
    """
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        raise DataError(f"field {name!r} is wrong", expected=EXPECTED, got=value, where=where)
    return tuple(_read_message(message, where, name) for message in value)


def with_tools(prompt: Any, tools: object, where: str | None) -> Any:
    """Return a prompt whose first message holds the tools of a row, which its template reads.

    Args:
        prompt: The prompt.
        tools: A list of JSON schemas, or its JSON text; `None` or empty for none.
        where: Where they stand, for errors.

    Example:
        >>> with_tools("Hi", [{"name": "weather"}], None)
        ({'role': 'user', 'content': 'Hi', 'tools': [{'name': 'weather'}]},)
    """
    found = _tools(tools, where)
    if not found:
        return prompt
    asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    first, *turns = read_messages(asked, where)
    return ({**first, TOOLS: found}, *turns)


def answer_text(message: Message, where: str | None = None) -> str:
    r"""Return the text of an assistant's last turn: what is scored.

    Reasoning that stands apart comes first, in the tags that policies write.

    Raises:
        BeyondText: The turn calls tools.

    Example:
        >>> answer_text({"role": "assistant", "content": "4", "reasoning_content": "2 + 2"})
        '<think>\n2 + 2\n</think>\n\n4'
    """
    if message.get(CALLS):
        raise BeyondText(
            "the last turn calls a tool, which is more than text",
            expected="an assistant's turn of text",
            got=_calls_text(message) or message[CALLS],
            where=where,
            fix="Score the conversation up to its answer in text",
        )
    reasoning, content = message.get(REASONING), str(message["content"])
    if not reasoning:
        return content
    return "<think>\n" + str(reasoning).strip("\n") + "\n</think>\n\n" + content


def message_text(message: Message) -> str:
    """Return what a message says as one text: its content and its calls."""
    parts = [str(message["content"]), _calls_text(message)]
    return "\n".join(filter(None, parts))


def call_values(message: Message) -> list[str]:
    """Return what a rendering of a message's calls must show: names, and arguments of text."""
    functions = [call["function"] for call in message.get(CALLS) or ()]
    return [part for one in functions for part in (one["name"], *_leaves(one.get("arguments")))]


def key_of(message: Message) -> str:
    """Return what tells a message from others that say something else."""
    beyond = {name: message[name] for name in BEYOND_TEXT if name in message}
    parts = [message["role"], message["content"]]
    return "\x1f".join([*parts, json.dumps(beyond, sort_keys=True)] if beyond else parts)


def _read_message(message: object, where: str | None, name: str) -> Message:
    if not isinstance(message, Mapping):
        raise DataError(f"field {name!r} is wrong", expected=EXPECTED, got=message, where=where)
    found = {str(key): value for key, value in message.items() if value is not None}
    if "role" not in found and {"from", "value"} <= found.keys():
        found = {"role": _speaker(found.pop("from"), where), "content": found.pop("value"), **found}
    reasoning = next((found[key] for key in _REASONING if found.get(key)), None)
    for key in _REASONING:
        found.pop(key, None)
    calls = _calls(found.pop(CALLS, None) or found.pop("function_call", None), where)
    said = calls or reasoning
    content = _content(found.get("content", "" if said else None), where)
    if content is None or not isinstance(found.get("role"), str):
        raise DataError(f"field {name!r} is wrong", expected=EXPECTED, got=message, where=where)
    extra = {CALLS: calls, REASONING: reasoning, TOOLS: _tools(found.pop(TOOLS, None), where)}
    rest = {key: value for key, value in found.items() if key not in ("role", "content")}
    rest |= {key: value for key, value in extra.items() if value}
    if rest:
        _check_json(rest, where)
    return {"role": found["role"], "content": content, **rest}


def _speaker(name: object, where: str | None) -> str:
    role = _SPEAKERS.get(str(name).casefold())
    if role is None:
        expected = f"one of {', '.join(_SPEAKERS)}"
        raise DataError("`from` of a message is wrong", expected=expected, got=name, where=where)
    return role


def _content(content: object, where: str | None) -> str | None:
    """Return the text of a message; its content may come in parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        return None
    parts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
    texts = [part for part in parts if isinstance(part, str)]
    if len(texts) < len(parts):
        raise BeyondText(
            "a message holds more than text", expected="parts of text", got=content, where=where
        )
    return "".join(texts)


def _calls(calls: object, where: str | None) -> list[dict[str, Any]]:
    """Return calls of tools as the OpenAI protocol nests them, with their arguments parsed."""
    if not calls:
        return []
    listed = [calls] if isinstance(calls, Mapping) else calls
    if isinstance(listed, str) or not isinstance(listed, Sequence):
        raise _wrong_calls(calls, where)
    return [_call(call, where) for call in listed]


def _call(call: object, where: str | None) -> dict[str, Any]:
    nested = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(nested, Mapping) or not isinstance(nested.get("name"), str):
        raise _wrong_calls(call, where)
    assert isinstance(call, Mapping)
    function = {key: value for key, value in nested.items() if value is not None}
    function["arguments"] = _arguments(function.get("arguments", {}), where)
    around = call if "function" in call else {}
    kept = {key: value for key, value in around.items() if value is not None}
    return {"type": "function", **kept, "function": function}


def _arguments(value: object, where: str | None) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else {}
    except (json.JSONDecodeError, RecursionError):
        raise DataError(
            "arguments of a call are not JSON", expected="a JSON object", got=value, where=where
        ) from None


def _wrong_calls(got: object, where: str | None) -> DataError:
    expected = "a list of {'function': {'name', 'arguments'}}"
    return DataError(f"field {CALLS!r} is wrong", expected=expected, got=got, where=where)


def _tools(tools: object, where: str | None) -> list[Any]:
    """Return the tools of a row: JSON schemas, or their JSON text."""
    if isinstance(tools, str) and tools.strip():
        try:
            tools = json.loads(tools)
        except (json.JSONDecodeError, RecursionError):
            tools = [None]
    if not tools:
        return []
    listed = tools if isinstance(tools, Sequence) and not isinstance(tools, str) else [tools]
    found = [dict(tool) for tool in listed if isinstance(tool, Mapping)]
    if len(found) < len(listed) or isinstance(tools, Mapping):
        expected = "a list of JSON schemas, or its JSON text"
        raise DataError(f"field {TOOLS!r} is wrong", expected=expected, got=tools, where=where)
    return found


def _check_json(values: Mapping[str, Any], where: str | None) -> None:
    """Refuse what cannot be written as JSON, which no template can be given either."""
    try:
        json.dumps(values, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(
            "a message holds what is not JSON",
            expected="JSON values in valid Unicode",
            got=ascii(str(error)[:80]),
            where=where,
        ) from None


def _calls_text(message: Message) -> str:
    functions = [call["function"] for call in message.get(CALLS) or ()]
    return "\n".join(
        f"{one['name']}({json.dumps(one.get('arguments'), ensure_ascii=False, sort_keys=True)})"
        for one in functions
    )


def _leaves(value: object) -> list[str]:
    """Return the texts and numbers inside a JSON value."""
    if isinstance(value, Mapping):
        return [leaf for item in value.values() for leaf in _leaves(item)]
    if isinstance(value, str):
        return [value]
    if isinstance(value, Sequence):
        return [leaf for item in value for leaf in _leaves(item)]
    return [] if value is None or isinstance(value, bool) else [json.dumps(value)]
