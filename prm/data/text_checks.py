"""Checks of the linter that need a tokenizer or know one: special text, double BOS, truncation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from prm.data.findings import Finding, Tally
from prm.errors import DataError
from prm.records import Chain, prompt_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from prm.spec import RewardSpec

_NO_LIMIT = 2**31

CountTokens = Callable[[Chain], tuple[int, list[int]]]
"""Chain to the number of tokens of its prompt and of each step with its marker."""

STEP_SEPARATORS = ("\n\n", "ки", "<extra_0>")
"""Separators of common step formats; where one stands inside a step, such a format splits it."""


@dataclass(frozen=True)
class TextRules:
    """What must not stand in prompts and steps.

    Args:
        separators: Step separators; text that holds one is a warning.
        special_tokens: Special tokens of the tokenizer; text that holds one is an error.
        bos: Text of the tokenizer's BOS token, if it has one.
        double_bos: Whether the tokenizer adds a BOS to its own chat template's BOS.
    """

    separators: tuple[str, ...] = STEP_SEPARATORS
    special_tokens: tuple[str, ...] = ()
    bos: str | None = None
    double_bos: bool = False


class SpecialText:
    """Finds separators, special tokens and a leading BOS inside prompts and steps."""

    def __init__(self, rules: TextRules) -> None:
        self._rules = rules
        self._separators = Tally("separator_in_text", "warning", "a step separator inside a step")
        self._special = Tally("special_token_in_text", "error", "a special token inside the text")
        self._bos = Tally("bos_in_text", "error", "text that starts with BOS: it would come twice")

    def see(self, chain: Chain) -> None:
        """Look through the texts of a chain."""
        prompt = prompt_text(chain.prompt)
        named = [("prompt", prompt)]
        named += [(f"step {index + 1}", step) for index, step in enumerate(chain.completions)]
        for place, text in named[1:]:
            self._count(self._separators, self._rules.separators, chain, place, text.strip())
        for place, text in named:
            self._count(self._special, self._rules.special_tokens, chain, place, text)
        if self._rules.bos and prompt.startswith(self._rules.bos):
            self._bos.add(chain, "prompt")

    def findings(self) -> list[Finding]:
        """Return what was found; a template and a tokenizer that both add BOS are one finding."""
        findings = [*self._separators.findings(), *self._special.findings(), *self._bos.findings()]
        if self._rules.double_bos:
            message = "the chat template writes BOS and the tokenizer adds another"
            findings.append(Finding("double_bos", "warning", message, 1))
        return findings

    def _count(
        self, tally: Tally, marks: Iterable[str], chain: Chain, place: str, text: str
    ) -> None:
        found = [mark for mark in marks if mark in text]
        if found:
            tally.add(chain, f"{place} holds {', '.join(map(repr, found))}")


class Truncation:
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

    def findings(self) -> list[Finding]:
        """Return the chains that are cut, and those that nothing is left of."""
        tallies = (self._cut, self._emptied, self._unusable)
        return [finding for tally in tallies for finding in tally.findings()]


def tokenizer_rules(tokenizer: PreTrainedTokenizerBase) -> TextRules:
    """Return the rules that a tokenizer implies."""
    from prm.data.tokenize import special_tokens

    return TextRules(
        special_tokens=tuple(special_tokens(tokenizer)),
        bos=tokenizer.bos_token,
        double_bos=_adds_two_bos(tokenizer),
    )


def token_counter(tokenizer: PreTrainedTokenizerBase, spec: RewardSpec) -> CountTokens:
    """Return a function that counts tokens as the model reads them, without any limit."""
    from prm.data.tokenize import TreeBuilder

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
