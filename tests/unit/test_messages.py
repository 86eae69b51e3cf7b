"""Messages of conversations: one notation, whatever they come as."""

from __future__ import annotations

import math
from typing import Any

import pytest

from prm.data.checks.keys import prompt_key
from prm.errors import DataError
from prm.messages import BeyondText, answer_text, read_messages, with_tools
from prm.records import Chain, Rating

USER = {"role": "user", "content": "Weather in Oslo?"}
TOOL = {"role": "tool", "name": "weather", "tool_call_id": "c1", "content": "-3 C"}


def call(arguments: Any, **fields: Any) -> dict[str, Any]:
    function = {"name": "weather", "arguments": arguments}
    calls = [{"id": "c1", "type": "function", "function": function}]
    return {"role": "assistant", "content": "", "tool_calls": calls, **fields}


NOTATIONS = {
    "arguments as JSON text": call('{"city": "Oslo"}'),
    "content is null": call({"city": "Oslo"}, content=None),
    "content is missing": {k: v for k, v in call({"city": "Oslo"}).items() if k != "content"},
    "content in parts": call({"city": "Oslo"}, content=[{"type": "text", "text": ""}]),
    "null beside it": call({"city": "Oslo"}, reasoning_content=None, refusal=None),
    "not nested": {
        **call(None),
        "tool_calls": [{"name": "weather", "arguments": {"city": "Oslo"}}],
    },
    "the older field": {
        "role": "assistant",
        "content": None,
        "function_call": {"name": "weather", "arguments": '{"city": "Oslo"}'},
    },
}


@pytest.mark.parametrize("notation", NOTATIONS)
def test_a_call_has_one_notation(notation: str) -> None:
    (found,) = read_messages([NOTATIONS[notation]], None)
    assert found["content"] == ""
    (own,) = found["tool_calls"]
    assert own["type"] == "function"
    assert own["function"] == {"name": "weather", "arguments": {"city": "Oslo"}}


def test_what_a_template_may_read_is_kept() -> None:
    asked = {**USER, "tools": [{"name": "weather"}]}
    thought = call({}, reasoning="Look it up.", plan="one call")
    chain = Chain([asked, thought, TOOL], ["It is -3 C."])
    first, second, third = chain.prompt
    assert first["tools"] == [{"name": "weather"}]  # type: ignore[index]
    assert second["reasoning_content"] == "Look it up."  # type: ignore[index]
    assert second["plan"] == "one call"  # type: ignore[index]
    assert third == TOOL
    assert Chain(chain.to_row()["prompt"], ["It is -3 C."]) == chain


def test_from_and_value_are_role_and_content() -> None:
    turns = [("system", "Be brief."), ("human", "2 + 2?"), ("gpt", "4"), ("human", "Sure?")]
    found = read_messages([{"from": name, "value": text} for name, text in turns], None)
    assert [turn["role"] for turn in found] == ["system", "user", "assistant", "user"]


def test_tools_of_a_row_belong_to_its_prompt() -> None:
    tools = [{"type": "function", "function": {"name": "weather"}}]
    found = with_tools("Hi", '[{"type": "function", "function": {"name": "weather"}}]', None)
    assert found == with_tools([{"role": "user", "content": "Hi"}], tools, None)
    assert found[0]["tools"] == tools
    assert with_tools("Hi", None, None) == with_tools("Hi", [], None) == "Hi"
    for wrong in ("weather", {"name": "weather"}, [1], 3):
        with pytest.raises(DataError, match="a list of JSON schemas"):
            with_tools("Hi", wrong, "a.jsonl:1")


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ("Hi", "a list of {'role', 'content'} messages"),
        ({"role": "user"}, "a list of {'role', 'content'} messages"),
        ({"role": "user", "content": None}, "a list of {'role', 'content'} messages"),
        ({"role": ["user"], "content": "Hi"}, "a list of {'role', 'content'} messages"),
        ({"role": "user", "content": [{"type": "image", "url": "x"}]}, "more than text"),
        (call("{city: Oslo}"), "arguments of a call are not JSON"),
        (call({"city": math.nan}), "not JSON"),
        (call({"city": "\ud800"}), "not JSON"),
        ({**USER, "seen": {1, 2}}, "not JSON"),
        ({"role": "assistant", "tool_calls": "weather"}, "'tool_calls' is wrong"),
        ({"role": "assistant", "tool_calls": [{"function": {}}]}, "'tool_calls' is wrong"),
    ],
)
def test_what_is_no_message_is_refused(message: Any, problem: str) -> None:
    with pytest.raises(DataError, match=problem) as caught:
        Rating([message], "7", origin="a.jsonl:3")
    assert caught.value.where == "a.jsonl:3"


def test_the_text_of_a_last_turn_is_all_of_it() -> None:
    (turn,) = read_messages([{"role": "assistant", "content": "4", "thinking": "2 + 2\n"}], None)
    assert answer_text(turn) == "<think>\n2 + 2\n</think>\n\n4"
    (turn,) = read_messages([call({"city": "Oslo"}, content="I look.")], None)
    with pytest.raises(BeyondText, match=r'calls a tool.*weather\({"city": "Oslo"}\)'):
        answer_text(turn)


def test_calls_tell_conversations_apart() -> None:
    oslo, rome = (Rating([USER, call({"city": city}), TOOL], "-3 C") for city in ("Oslo", "Rome"))
    assert oslo.group != rome.group
    assert prompt_key(oslo.prompt) != prompt_key(rome.prompt)
    plain = Rating([USER], "-3 C")
    assert plain.group == USER["content"]
