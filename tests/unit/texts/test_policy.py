"""What a policy's query says: its messages and its response."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerBase

from prm.errors import DataError
from prm.texts.policy import PolicyText, split_query
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
