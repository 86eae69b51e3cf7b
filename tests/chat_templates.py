"""Small chat templates that write what the published ones of some families write."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from tests.tiny_models import tiny_tokenizer

_TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"

CHATML = _TURNS + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"

DATED = (
    "{{ bos_token }}<|im_start|>system\nToday: "
    "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% endif %}\n"
    "{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}<|im_end|>\n"
    "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n\n"
    "{{ m.content | trim }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n\n{% endif %}"
)
"""As Llama 3.2's: BOS, and the day in the system's turn."""

TOOLS = (
    "{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}"
    "<|im_end|>\n{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name }}({% for k, v in "
    "c.function.arguments | items %}{{ k }}={{ v | tojson }}{% endfor %}){% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""As Qwen's: tools, and calls whose arguments must be an object."""

THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% set said = m.content.split('</think>') %}{% if loop.last %}<think>\n"
    "{{ said[0].split('<think>')[-1].strip('\n') if said | length > 1 else '' }}\n</think>\n\n"
    "{% endif %}{{ said[-1].lstrip('\n') }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n"
    "{% else %}<think>\n{% endif %}{% endif %}"
)
"""As Qwen 3.5's: the prompt for a generation opens a thinking block, an answer closes it."""

CHANNELS = (
    "<|start|>system<|message|>Reasoning: {{ reasoning_effort or 'medium' }}<|end|>"
    "{% for m in messages %}<|start|>{{ m.role }}"
    "{% if m.role == 'assistant' %}<|channel|>final{% endif %}<|message|>{{ m.content }}"
    "{{ '<|return|>' if loop.last and m.role == 'assistant' else '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
"""As gpt-oss's: an answer is the assistant's final channel."""

PARTS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for part in m.content %}"
    "{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
)
"""As a vision model's: it renders parts, and of a text nothing."""

_NAMES = ("im_start", "im_end", "start", "message", "channel", "end", "return")
MARKS = [f"<|{name}|>" for name in _NAMES]


def chat_tokenizer(template: str) -> PreTrainedTokenizerBase:
    """Return a tokenizer of its own with a template and the special tokens of all of them."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": MARKS})
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = template
    return tokenizer
