"""What a policy's query says: its messages and its response."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from prm.errors import DataError
from prm.texts.policy import PolicyText, split_query
from prm.trees.chat import fixed
from tests.chat_templates import CHANNELS, CHATML, DATED, THINKING, chat_tokenizer
from tests.tiny_models import character_tokenizer

QWEN = (
    "{% if messages[0].role == 'system' %}<|im_start|>system\n{{ messages[0].content }}<|im_end|>\n"
    "{% else %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}"
    "{% for message in messages if message.role != 'system' %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""As Qwen's: a system message of its own unless there is one."""

GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}"
    "{% endif %}{% for message in messages %}<start_of_turn>"
    "{{ 'model' if message.role == 'assistant' else message.role }}\n{{ message.content }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
"""As Gemma's: a BOS token, another name for the assistant, and no system message."""

MARKS = ["<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>"]
PROMPT = "<|im_start|>user\n2 + 2 = ? Step by step.<|im_end|>\n<|im_start|>assistant\n"

USER = {"role": "user", "content": "2 + 2 = ?"}
SHORT = {"role": "system", "content": "Be short."}
DIALOGUE = [USER, {"role": "assistant", "content": "4\n"}, {"role": "user", "content": "Sure?"}]


def policy(template: str | None) -> PreTrainedTokenizerBase:
    tokenizer = character_tokenizer(template)
    tokenizer.add_special_tokens({"additional_special_tokens": MARKS})
    return tokenizer


@pytest.mark.parametrize(
    "query",
    [
        f"{PROMPT}So\n4<|im_end|>",
        f"<s>{PROMPT}So\n4<|im_end|></s><pad><pad>",
        f"\ufffd{PROMPT[20:]}So\n4",
        "user\n2 + 2 = ? Step by step.\nassistant\nSo\n4",
    ],
    ids=["whole", "bos and padding", "cut from the left", "without special tokens"],
)
def test_response_follows_the_prompt(query: str) -> None:
    assert split_query(query, PROMPT, [*MARKS, "<s>", "</s>", "<pad>"]) == "So\n4"


def test_a_prompt_may_be_empty_and_so_may_a_response() -> None:
    assert split_query("4", "") == "4"
    assert split_query("2 + 2 = ?</s>", "2 + 2 = ?", ["</s>"]) == ""


@pytest.mark.parametrize("query", ["", "4", PROMPT[:-1], f"{PROMPT[-9:]}4"])
def test_a_query_of_another_prompt_is_refused(query: str) -> None:
    with pytest.raises(DataError, match="does not begin with the prompt"):
        split_query(query, PROMPT, MARKS)


@pytest.mark.parametrize(
    ("template", "messages"),
    [
        (QWEN, [USER]),
        (QWEN, DIALOGUE),
        (QWEN, [SHORT, USER]),
        (QWEN, [SHORT, *DIALOGUE]),
        (GEMMA, [USER]),
        (GEMMA, DIALOGUE),
    ],
)
def test_rendered_messages_are_read_back(template: str, messages: list[dict[str, str]]) -> None:
    tokenizer = policy(template)
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    expected = messages[0]["content"] if messages == [USER] else tuple(messages)
    assert PolicyText(tokenizer).read(f"{text}4<|im_end|>", text) == (expected, "4")


@pytest.mark.parametrize("template", [QWEN, GEMMA, None])
def test_other_prompts_are_texts_or_refused(template: str | None) -> None:
    reader = PolicyText(policy(template))
    assert reader.prompt("Question: 2 + 2 = ?") == "Question: 2 + 2 = ?"
    with pytest.raises(DataError, match="not what the policy's chat template renders"):
        reader.prompt("<|im_start|>user\n2 + 2 = ?")
    assert PolicyText().read("a?b", "a?") == ("a?", "b")


@pytest.mark.parametrize("template", [QWEN, GEMMA], ids=["qwen", "gemma"])
def test_a_rendered_text_is_split_where_the_assistant_answers(template: str) -> None:
    reader = PolicyText(policy(template))
    text = reader.tokenizer.apply_chat_template(
        DIALOGUE, tokenize=False, add_generation_prompt=True
    )
    assert reader.split(f"{text}Yes.<|im_end|>") == (tuple(DIALOGUE), "Yes.")
    with pytest.raises(DataError, match="chat template"):
        reader.split("2 + 2 = ? 4")


def test_an_answer_is_finished_by_a_special_token() -> None:
    reader = PolicyText(policy(QWEN))
    assert reader.is_finished("4<|im_end|>\n")
    assert not reader.is_finished("4")
    assert not PolicyText().is_finished("4<|im_end|>")


# Days, thinking, ends of turns


def rendered(template: str, *, day: str | None = None, **options: Any) -> str:
    """Return the prompt of a policy as its trainer renders it, on a day."""
    text = template if day is None else fixed(template, day, {})
    return str(
        chat_tokenizer(text).apply_chat_template(
            [SHORT, USER], tokenize=False, add_generation_prompt=True, **options
        )
    )


@pytest.mark.parametrize("day", ["2024-02-29", "2026-12-01"])
@pytest.mark.parametrize("own", [DATED, fixed(DATED, "2024-07-26", {})], ids=["policy", "model"])
def test_a_prompt_of_any_day_is_read(day: str, own: str) -> None:
    text = rendered(DATED, day=day)
    assert PolicyText(chat_tokenizer(own)).read(f"{text}4<|im_end|>", text) == ((SHORT, USER), "4")


def test_a_prompt_of_no_day_is_refused() -> None:
    text = rendered(DATED, day="2024-02-29").replace("29 Feb", "30 Feb")
    with pytest.raises(DataError, match="not what the policy's chat template renders"):
        PolicyText(chat_tokenizer(DATED)).prompt(text)


@pytest.mark.parametrize(
    ("options", "said", "response"),
    [
        ({}, "Sum.\n</think>\n\n4", "<think>\nSum.\n</think>\n\n4"),
        ({}, "Sum", "<think>\nSum"),
        ({"enable_thinking": True}, "Sum.\n</think>\n\n4", "<think>\nSum.\n</think>\n\n4"),
        ({"enable_thinking": False}, "4", "4"),
    ],
)
def test_thinking_on_or_off_is_recognized(options: Any, said: str, response: str) -> None:
    reader = PolicyText(chat_tokenizer(THINKING))
    text = rendered(THINKING, **options)
    assert reader.read(f"{text}{said}<|im_end|>", text) == ((SHORT, USER), response)
    assert reader.split(f"{text}{said}<|im_end|>\n") == ((SHORT, USER), response)


@pytest.mark.parametrize("template", [CHATML, DATED, THINKING, CHANNELS, QWEN, GEMMA])
def test_a_rendered_conversation_is_split_as_it_was_said(template: str) -> None:
    tokenizer = chat_tokenizer(template)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"]}
    )
    answer = {"role": "assistant", "content": "4"}
    text = tokenizer.apply_chat_template([USER, answer], tokenize=False)
    assert PolicyText(tokenizer).split(text) == (USER["content"], "4")


def test_other_options_have_to_be_named() -> None:
    text = rendered(CHANNELS, reasoning_effort="low")
    with pytest.raises(DataError, match="policy_options"):
        PolicyText(chat_tokenizer(CHANNELS)).prompt(text)
    named = PolicyText(chat_tokenizer(CHANNELS), {"reasoning_effort": "low"})
    assert named.prompt(text) == (SHORT, USER)


def test_channels_are_reasoning_and_answer() -> None:
    reader, text = PolicyText(chat_tokenizer(CHANNELS)), rendered(CHANNELS)
    said = (
        "<|channel|>analysis<|message|>Sum.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>4<|return|>"
    )
    expected = "<think>\nSum.\n</think>\n\n4"
    assert reader.read(text + said, text) == ((SHORT, USER), expected)
    assert reader.response("<|channel|>final<|message|>4<|return|>") == "4"


def test_a_response_ends_with_its_turn() -> None:
    reader = PolicyText(policy(QWEN))
    assert reader.response("4\n<|im_end|>\n<pad><pad>") == "4\n"
    assert reader.response("4 <pad>") == "4 "
    with pytest.raises(DataError, match="goes on after the end of the turn"):
        reader.response("4<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n")
