"""Chat templates: no clock, all that a message says, and how an answer is opened."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from transformers.utils import chat_template_utils

from prm.errors import SpecError
from prm.models.reward_model import RewardModel
from prm.records import Chain, Rating
from prm.spec import ResponseFormat, ResponseHead, RewardSpec, StepFormat, Template
from prm.trees.chat import fixed, original, render
from prm.trees.prompts import DroppedRecord
from prm.trees.tokenize import TreeBuilder
from prm.trees.units import ResponseSet
from tests.chat_templates import (
    CHANNELS,
    CHATML,
    DATED,
    PARTS,
    THINKING,
    TOOLS,
    chat_tokenizer,
)
from tests.tiny_models import tiny_backbone

USER = {"role": "user", "content": "Weather?"}
SCHEMA = {"type": "function", "function": {"name": "weather", "parameters": {}}}


def call(city: Any) -> dict[str, Any]:
    function = {"name": "weather", "arguments": {"city": city}}
    return {"role": "assistant", "content": "", "tool_calls": [{"function": function}]}


def tool(text: str = "-3 C") -> dict[str, Any]:
    return {"role": "tool", "content": text}


def builder(template: str, end: Any = "turn", **fields: Any) -> TreeBuilder:
    spec = RewardSpec(
        response_heads=(ResponseHead("helpfulness"),),
        response_format=ResponseFormat(end=end),
        template=Template("chat", **fields),
    )
    return TreeBuilder(chat_tokenizer(template), spec)


def texts(build: TreeBuilder, prompt: Any, *responses: str) -> list[str]:
    """Return what the model reads of a prompt, and of each response."""
    records = [Rating(prompt, response, origin="a.jsonl:1") for response in responses]
    result = next(build.build_all([ResponseSet.of(records)]))
    if isinstance(result, DroppedRecord):
        raise result
    return [build.tokenizer.decode(segment.input_ids) for segment in result.tree.segments]


@pytest.fixture
def tomorrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make templates read another day."""

    class Tomorrow(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Tomorrow:
            return cls(2031, 2, 3, tzinfo=tz)

    monkeypatch.setattr(chat_template_utils, "datetime", Tomorrow)


# The clock and options


def test_a_template_that_writes_the_date_writes_the_one_of_the_spec(tomorrow: None) -> None:
    assert "Today: 03 Feb 2031" in render(chat_tokenizer(DATED), [USER])
    assert "Today: 26 Jul 2024" in texts(builder(DATED), [USER], "7")[0]
    assert "Today: 01 Dec 2026" in texts(builder(DATED, date="2026-12-01"), [USER], "7")[0]


def test_a_model_keeps_the_date_in_its_tokenizer(tomorrow: None) -> None:
    tokenizer = chat_tokenizer(DATED)
    spec = RewardSpec(template=Template("chat", date="2026-12-01"))
    model = RewardModel(tiny_backbone(tokenizer=tokenizer), tokenizer, spec)
    assert "Today: 01 Dec 2026" in tokenizer.apply_chat_template([USER], tokenize=False)
    assert original(tokenizer.chat_template) == DATED
    again = RewardModel(model.backbone.model, tokenizer, model.spec)
    assert again.spec == model.spec


def test_a_template_without_a_clock_stays_as_it_is() -> None:
    assert builder(CHATML).tokenizer.chat_template == CHATML


def test_a_folder_that_does_not_say_the_day_is_refused() -> None:
    with pytest.raises(SpecError, match=r"writes today's date.*YYYY-MM-DD.*the model was trained"):
        builder(DATED, date=None)
    assert "Weather?" in texts(builder(CHATML, date=None), [USER], "7")[0]


def test_a_specs_date_and_options_are_checked() -> None:
    with pytest.raises(SpecError, match=r"date is wrong: expected YYYY-MM-DD, got 1\.12\."):
        Template("chat", date="1.12.")
    for name in ("messages", "no name"):
        with pytest.raises(SpecError, match="options of the template are wrong"):
            Template("chat", options={name: 1})


def test_options_of_the_template_are_fixed_with_the_model() -> None:
    build = builder(CHANNELS, options={"reasoning_effort": "high"})
    assert "Reasoning: high" in texts(build, [USER], "7")[0]
    assert "Reasoning: high" in build.tokenizer.apply_chat_template([USER], tokenize=False)
    values: dict[str, Any] = {"a": None, "b": [True, 1.5], "c": {"d": "\"'\n{%"}}
    text = fixed("{{ a }}|{{ b }}|{{ c.d }}", None, values)
    assert render(chat_tokenizer(text), [USER]) == "None|[True, 1.5]|\"'\n{%"
    assert fixed(text, None, {"a": 1}) == fixed(original(text), None, {"a": 1})


# What a message says


def test_calls_and_tools_are_read_by_the_template() -> None:
    build = builder(TOOLS)
    (oslo, _), (rome, _) = (
        texts(build, [{**USER, "tools": [SCHEMA]}, call(city), tool()], "It is cold.")
        for city in ("Oslo", "Rome")
    )
    assert 'weather(city="Oslo")' in oslo
    assert '"name": "weather"' in oslo
    assert oslo.replace("Oslo", "Rome") == rome


@pytest.mark.parametrize("template", [CHATML, THINKING, CHANNELS])
def test_a_template_that_leaves_a_call_out_is_refused(template: str) -> None:
    with pytest.raises(DroppedRecord, match=r"a\.jsonl:1: .*leaves out what a message says.*weath"):
        texts(builder(template), [USER, call("Oslo"), tool()], "It is cold.")


def test_the_plain_template_refuses_what_is_more_than_text() -> None:
    build = TreeBuilder(chat_tokenizer(CHATML), RewardSpec(step_format=StepFormat(marker=None)))
    thought = {"role": "assistant", "content": "Hi", "reasoning_content": "Greet."}
    tools = {**USER, "tools": [SCHEMA]}
    for prompt in ([USER, call("Oslo"), tool()], [USER, thought, USER], [tools]):
        with pytest.raises(DroppedRecord, match="which the plain template cannot render"):
            build.build(Chain(prompt, ["It is cold."]))


@pytest.mark.parametrize("text", ['a "b"\n  c', "é ≤ 答", "a\u2028b", " x "])
def test_texts_that_a_template_trims_or_quotes_are_not_missing(text: str) -> None:
    assert texts(builder(DATED), [{"role": "user", "content": text}], "7")
    assert texts(builder(TOOLS), [USER, call(text), tool(text)], "7")
    assert texts(builder("{% for m in messages %}{{ m.content | tojson }}{% endfor %}"), text, "7")


def test_a_template_that_drops_a_system_message_refuses_it() -> None:
    dropping = (
        "{% for m in messages if m.role != 'system' %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    )
    system = {"role": "system", "content": "Be brief."}
    with pytest.raises(DroppedRecord, match=r"leaves out what a message says.*Be brief"):
        texts(builder(dropping), [system, USER], "7")


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        (PARTS, "does not render the text of messages"),
        ("{{ messages[0].content.text.upper() }}", "cannot be used"),
        ("{{ 1 + 'a' }}", "cannot be used"),
        ("{{ raise_exception('no') }}", "cannot be used.*no"),
        ({"tool_use": CHATML}, "cannot be used"),
        (None, "needs a tokenizer with a chat template"),
    ],
)
def test_a_template_that_cannot_be_used_is_said_at_the_start(template: Any, problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        builder(template)


def test_an_error_of_a_template_costs_its_row() -> None:
    adding = "{% for m in messages %}{{ m.content + (m.note or '') }}{% endfor %}"
    build = builder(adding)
    noted = [{**USER, "note": 3}]
    with pytest.raises(DroppedRecord, match="refuses the prompt: can only concatenate str"):
        texts(build, noted, "7")
    assert texts(build, [{**USER, "note": "!"}], "7")[0] == "Weather?!"


def test_arguments_are_text_for_templates_that_add_them_to_text() -> None:
    adding = (
        "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}"
        "{{ c.function.name + ' ' + c.function.arguments }}{% endfor %}{% endfor %}"
    )
    found = texts(builder(adding), [USER, call("Oslo"), tool()], "7")
    assert 'weather {"city": "Oslo"}' in found[0]


def test_a_prompt_that_ends_with_the_assistants_turn_is_refused() -> None:
    said = {"role": "assistant", "content": "It is"}
    with pytest.raises(
        DroppedRecord, match=r"ends with the assistant's turn.*beginning of the resp"
    ):
        texts(builder(CHATML), [USER, said], "cold.")


def test_a_special_token_in_a_call_is_refused() -> None:
    with pytest.raises(DroppedRecord, match=r"special token '<\|im_end\|>'"):
        texts(builder(TOOLS), [USER, call("Oslo<|im_end|>"), tool()], "7")


# How an answer is opened


def test_an_answer_is_opened_as_the_template_writes_answers() -> None:
    assert builder(CHATML).spec.template.opening == "generation"
    assert builder(THINKING).spec.template.opening == "answer"
    prompt, answer = texts(builder(CHANNELS), [USER], "7")
    assert prompt.endswith("<|start|>assistant<|channel|>final<|message|>")
    assert answer == "7<|return|>"


def test_a_response_that_thinks_replaces_the_empty_thinking_block() -> None:
    build = builder(THINKING)
    thought = "<think>\nShort.\n</think>\n\n7"
    prompt, plain, thinking = texts(build, [USER], "7", thought)
    assert prompt.endswith("<|im_start|>assistant\n")
    assert plain == "<think>\n\n</think>\n\n7<|im_end|>\n"
    assert thinking == f"{thought}<|im_end|>\n"
    for said, found in (("7", plain), (thought, thinking)):
        answered = [USER, {"role": "assistant", "content": said}]
        assert prompt + found == render(build.tokenizer, answered)


def test_the_opening_of_a_chain_depends_on_its_first_step_alone() -> None:
    tokenizer = chat_tokenizer(THINKING)
    spec = RewardSpec(template=Template("chat"))
    build = RewardModel(tiny_backbone(tokenizer=tokenizer), tokenizer, spec).builder
    short, long = (build.build(Chain("2 + 2?", steps)) for steps in (["a"], ["a", "</think> b"]))
    assert short.tree.segments[0] == long.tree.segments[0]
    assert tokenizer.decode(short.tree.segments[0].input_ids).endswith("</think>\n\n")
    thought = build.build(Chain("2 + 2?", ["<think> a", "</think> b"])).tree
    assert tokenizer.decode(thought.segments[0].input_ids).endswith("assistant\n")


def test_folders_of_before_open_as_for_a_generation() -> None:
    prompt, answer = texts(builder(THINKING, opening="generation"), [USER], "7")
    assert prompt.endswith("<|im_start|>assistant\n<think>\n")
    assert answer == "7<|im_end|>\n"
    data = RewardSpec(template=Template("chat")).to_dict()
    del data["template"]["opening"], data["template"]["date"], data["template"]["bos"]
    old = RewardSpec.from_dict({**data, "version": 4})
    assert old.template == Template("chat", bos="none", date=None, opening="generation")


# BOS


def test_bos_is_written_once_where_the_tokenizer_writes_it() -> None:
    for template, bos in ((DATED, "one"), (CHATML, "none")):
        build = builder(template)
        assert build.spec.template.bos == bos
        ids = (
            next(build.build_all([ResponseSet.of([Rating("Hi", "7")])])).tree.segments[0].input_ids
        )  # type: ignore[union-attr]
        assert ids.count(build.tokenizer.bos_token_id) == (bos == "one")
