"""Checks of the linter that need a tokenizer or know one: special text, double BOS, truncation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from prm.data.checks.linter import Check, Finding, Tally
from prm.errors import DataError
from prm.messages import BEYOND_TEXT
from prm.records import Chain, Outcome, Record, prompt_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from prm.spec import RewardSpec
    from prm.trees.tokenize import TokenizedResponses, TreeBuilder

_NO_LIMIT = 2**31
_BLOCK = 512

CountTokens = Callable[[Chain], tuple[int, list[int]]]
"""Chain to the number of tokens of its prompt and of each step with its marker."""

STEP_SEPARATORS = ("\n\n", "ки", "<extra_0>")
"""Separators of common step formats; where one stands inside a step, such a format splits it."""

TEMPLATE_MARKS = (
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|eot_id|>",
    "<|endoftext|>",
    "<|user|>",
    "<|assistant|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "[INST]",
    "[/INST]",
    "\n\nHuman:",
    "\n\nAssistant:",
)
"""Markup of common chat templates; text that holds it was rendered already."""


@dataclass(frozen=True)
class TextRules:
    """What must not stand in prompts, steps and responses.

    Args:
        separators: Step separators; a step that holds one is a warning.
        template_marks: Markup of chat templates; text that holds one is a warning.
        special_tokens: Special tokens of the tokenizer; text that holds one is an error.
        bos: Text of the tokenizer's BOS token, if it has one.
        double_bos: Whether the tokenizer adds a BOS to its own chat template's BOS.
    """

    separators: tuple[str, ...] = STEP_SEPARATORS
    template_marks: tuple[str, ...] = TEMPLATE_MARKS
    special_tokens: tuple[str, ...] = ()
    bos: str | None = None
    double_bos: bool = False


class SpecialText(Check[Record]):
    """Finds separators, template markup, special tokens and a leading BOS inside texts."""

    def __init__(self, rules: TextRules) -> None:
        self._rules = rules
        self._separators = Tally("separator_in_text", "warning", "a step separator inside a step")
        self._markup = Tally(
            "template_in_text", "warning", "chat-template markup inside the text: rendered twice"
        )
        self._special = Tally("special_token_in_text", "error", "a special token inside the text")
        self._bos = Tally("bos_in_text", "error", "text that starts with BOS: it would come twice")

    def see(self, record: Record) -> None:
        """Look through the texts of a record."""
        prompt = prompt_text(record.prompt)
        for place, text in (("prompt", prompt), *_parts(record)):
            self._count(self._markup, self._rules.template_marks, record, place, text)
            self._count(self._special, self._rules.special_tokens, record, place, text)
        if isinstance(record, Chain):
            for place, text in _parts(record):
                self._count(self._separators, self._rules.separators, record, place, text.strip())
        if self._rules.bos and prompt.startswith(self._rules.bos):
            self._bos.add(record, "prompt")

    def findings(self) -> list[Finding]:
        """Return what was found; a template and a tokenizer that both add BOS are one finding."""
        findings = super().findings()
        if self._rules.double_bos:
            message = "the chat template writes BOS and the tokenizer adds another"
            findings.append(Finding("double_bos", "warning", message, 1))
        return findings

    def _count(
        self, tally: Tally, marks: Iterable[str], record: Record, place: str, text: str
    ) -> None:
        found = [mark for mark in marks if mark in text]
        if found:
            tally.add(record, f"{place} holds {', '.join(map(repr, found))}")


class Conversations(Check[Record]):
    """Finds prompts that only some chat templates can render, or none as it is meant."""

    def __init__(self) -> None:
        self._last = Tally(
            "assistant_last",
            "warning",
            "prompts that end with the assistant's turn; chat templates would open another",
        )
        self._beyond = Tally(
            "more_than_text",
            "info",
            "prompts with tools, calls or reasoning; the model's chat template has to read them",
        )

    def see(self, record: Record) -> None:
        """Look at the messages of a prompt."""
        if isinstance(record.prompt, str):
            return
        if record.prompt[-1]["role"] == "assistant":
            self._last.add(record, f"{len(record.prompt)} messages")
        found = [name for name in BEYOND_TEXT if any(name in turn for turn in record.prompt)]
        if found:
            self._beyond.add(record, f"the prompt holds {', '.join(found)}")


def _parts(record: Record) -> list[tuple[str, str]]:
    """Return the texts after a record's prompt, each with its name."""
    if isinstance(record, Chain):
        return [(f"step {index}", step) for index, step in enumerate(record.completions, 1)]
    if len(record.responses) == 1:
        return [("response", record.responses[0])]
    return [(f"response {index}", text) for index, text in enumerate(record.responses, 1)]


class Truncation(Check[Chain]):
    """Finds chains that do not fit; whole steps are dropped from the end until they do."""

    def __init__(self, count_tokens: CountTokens, max_length: int) -> None:
        self._count_tokens = count_tokens
        self._max_length = max_length
        limit = f"at {max_length} tokens"
        self._cut = Tally("truncated", "warning", f"chains that lose steps {limit}")
        self._emptied = Tally("emptied", "error", f"chains with no labeled step left {limit}")
        self._unusable = Tally("not_tokenizable", "error", "chains that become no tokens")

    def see(self, chain: Chain) -> None:
        """Count the tokens of a chain."""
        try:
            num_prompt, num_step = self._count_tokens(chain)
        except DataError as error:
            self._unusable.add_error(error)
            return
        totals = (num_prompt + total for total in accumulate(num_step))
        kept = sum(total <= self._max_length for total in totals)
        if kept == len(num_step):
            return
        detail = f"{num_prompt} + {sum(num_step)} tokens, {kept} of {len(num_step)} steps fit"
        labeled = [
            any(label is not None for label in labels[:kept]) for labels in chain.labels.values()
        ]
        has_use = any(labeled) if chain.labels else kept > 0
        (self._cut if has_use else self._emptied).add(chain, detail)


class ResponseTruncation(Check[Outcome]):
    """Finds responses that lose their end, and comparisons that truncation makes equal.

    Args:
        builder: Tokenizes responses as the model reads them; its spec truncates.
    """

    def __init__(self, builder: TreeBuilder) -> None:
        self._builder = builder
        self._block: list[Outcome] = []
        limit = f"at {builder.spec.max_length} tokens"
        self._cut = Tally("truncated", "warning", f"rows with responses cut {limit}")
        self._same = Tally(
            "identical_after_truncation", "error", f"preferred responses that are the same {limit}"
        )
        self._unusable = Tally("not_tokenizable", "error", f"rows that become no tokens {limit}")

    def see(self, record: Outcome) -> None:
        """Collect records; they are tokenized by the block."""
        self._block.append(record)
        if len(self._block) == _BLOCK:
            self._tokenize()

    def findings(self) -> list[Finding]:
        """Return the rows that are cut, made equal, or cannot be read."""
        self._tokenize()
        return super().findings()

    def _tokenize(self) -> None:
        from prm.trees.units import ResponseSet

        sets = [ResponseSet.of([record]) for record in self._block]
        for item, result in zip(sets, self._builder.build_all(sets), strict=True):
            if isinstance(result, DataError):
                self._unusable.add_error(result)
            else:
                self._look(item.records[0], item.places[0], result)
        self._block.clear()

    def _look(self, record: Outcome, places: Sequence[int], tokens: TokenizedResponses) -> None:
        for reason in tokens.reasons:
            self._unusable.add(record, reason)
        num_cut = sum(tokens.truncated)
        if not num_cut:
            return
        self._cut.add(record, f"{num_cut} of {len(record.responses)} responses")
        if any(record.ranks) and len(tokens.texts(places)) < len(set(tokens.present(places))):
            self._same.add(record, f"{record.objectives[0]}: {num_cut} responses are cut")


def tokenizer_rules(tokenizer: PreTrainedTokenizerBase) -> TextRules:
    """Return the rules that a tokenizer implies."""
    from prm.trees.identity import special_tokens

    return TextRules(
        special_tokens=tuple(special_tokens(tokenizer)),
        bos=tokenizer.bos_token,
        double_bos=_adds_two_bos(tokenizer),
    )


def token_counter(tokenizer: PreTrainedTokenizerBase, spec: RewardSpec) -> CountTokens:
    """Return a function that counts tokens as the model reads them, without any limit."""
    from prm.trees.tokenize import TreeBuilder

    builder = TreeBuilder(tokenizer, spec.with_(max_length=_NO_LIMIT))

    def count(chain: Chain) -> tuple[int, list[int]]:
        tokenized = builder.build(chain)
        prompt, steps = tokenized.tree.segments
        counts = [0] * len(chain.completions)
        for index, (start, end) in zip(tokenized.steps, pairwise([-1, *steps.reads]), strict=True):
            counts[index] = end - start
        return len(prompt.input_ids), counts

    return count


def _adds_two_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    if not tokenizer.chat_template or tokenizer.bos_token is None:
        return False
    messages = [{"role": "user", "content": "x"}]
    text = str(tokenizer.apply_chat_template(messages, tokenize=False))
    ids = list(tokenizer(text)["input_ids"])
    return ids[:2] == [tokenizer.bos_token_id] * 2
