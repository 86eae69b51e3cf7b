"""Prompts to token ids, and the parts that chains and responses have in common."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from prm.errors import DataError, SpecError
from prm.messages import BEYOND_TEXT, TOOLS, Message
from prm.records import Prompt, Record, prompt_text
from prm.spec import RewardSpec
from prm.trees.chat import AnswerFrame, first_token, open_answer
from prm.trees.identity import special_tokens


class DroppedRecord(DataError):
    """A record that the spec's limits leave out; the message says why."""


def place(record: Record) -> str | None:
    """Return where a record comes from, for error messages."""
    parts = (record.origin, record.id and f"row {record.id!r}")
    return ", ".join(part for part in parts if part) or None


def encode(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], special_tokens_in_text: bool = False
) -> list[list[int]]:
    """Tokenize texts on their own, without the tokens that the tokenizer would put around them."""
    if not texts:
        return []
    if _is_stock(tokenizer):
        backend = tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = not special_tokens_in_text
        encodings = backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]
    ids: list[list[int]] = tokenizer(
        list(texts),
        add_special_tokens=False,
        split_special_tokens=not special_tokens_in_text,
        return_attention_mask=False,
        verbose=False,
    )["input_ids"]
    return ids


Encoder = Callable[[PreTrainedTokenizerBase, Sequence[str], bool], list[list[int]]]
"""What tokenizes texts: `encode`, or a memo of it."""


class EncodingMemo:
    """Tokenizes texts like `encode`, and remembers those used last.

    Args:
        max_tokens: Tokens that are remembered; a text counts as one more than it has.
    """

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.num_tokens = 0
        self._ids: OrderedDict[tuple[str, bool], list[int]] = OrderedDict()

    def __call__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        texts: Sequence[str],
        special_tokens_in_text: bool = False,
    ) -> list[list[int]]:
        """Arguments and result as of `encode`; the ids must not be changed."""
        keys = [(text, special_tokens_in_text) for text in texts]
        new = [key for key in dict.fromkeys(keys) if key not in self._ids]
        encoded = encode(tokenizer, [text for text, _ in new], special_tokens_in_text)
        self._ids.update(zip(new, encoded, strict=True))
        self.num_tokens += sum(len(ids) + 1 for ids in encoded)
        for key in keys:
            self._ids.move_to_end(key)
        found = [self._ids[key] for key in keys]
        while self.num_tokens > self.max_tokens:
            _, oldest = self._ids.popitem(last=False)
            self.num_tokens -= len(oldest) + 1
        return found


def _is_stock(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a call of the tokenizer gives the ids of its backend, which is twice as fast."""
    own, stock = type(tokenizer), PreTrainedTokenizerFast
    return isinstance(tokenizer, stock) and (own.__call__, own._encode_plus) == (
        stock.__call__,
        stock._encode_plus,
    )


class PromptEncoder:
    """Renders and tokenizes prompts as a spec says.

    Args:
        tokenizer: The model's tokenizer.
        spec: The reward spec.

    Attributes:
        thought: Text of the empty thinking block with which an answer begins that does not think
            itself; it is not part of the prompt's ids.

    Raises:
        SpecError: The tokenizer lacks what the template needs.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, spec: RewardSpec) -> None:
        self.tokenizer = tokenizer
        self.spec = spec
        self._start = first_token(tokenizer)
        self._special_tokens = special_tokens(tokenizer)
        self._check()
        self.thought = self._thought()

    def ids(
        self, records: Sequence[Record], encoder: Encoder = encode
    ) -> list[list[int] | DroppedRecord]:
        """Return each record's prompt ids, or why the record is left out."""
        rendered = [self._render(record) for record in records]
        texts = [item if isinstance(item, str) else "" for item in rendered]
        encoded = encoder(self.tokenizer, texts, self.spec.template.style == "chat")
        return [
            self._with_bos(ids) if isinstance(item, str) else item
            for item, ids in zip(rendered, encoded, strict=True)
        ]

    def fit(self, record: Record, prompt: Sequence[int], rest: int) -> tuple[Sequence[int], int]:
        """Return a prompt that leaves room for `rest` more tokens, and how many were cut from it.

        Raises:
            DroppedRecord: There is no room, and the spec does not let the prompt be cut.
            DataError: As before, and the spec says to stop.
        """
        room = self.spec.max_length - rest
        if len(prompt) <= room:
            return prompt, 0
        if self.spec.on_too_long == "error":
            self.refuse(record, len(prompt) + rest)
        num_bos = 1 if self.spec.template.bos == "one" else 0
        if self.spec.on_long_prompt == "drop" or room <= num_bos:
            raise DroppedRecord(
                "prompt leaves no room for what follows it",
                expected=f"at most {max(room, 0)} tokens (max_length {self.spec.max_length})",
                got=f"{len(prompt)} tokens",
                where=place(record),
            )
        num_cut = len(prompt) - room
        return [*prompt[:num_bos], *prompt[num_bos + num_cut :]], num_cut

    def refuse(self, record: Record, num_tokens: int) -> None:
        """Raise that a record is too long, as the spec's `on_too_long` says."""
        error = DataError if self.spec.on_too_long == "error" else DroppedRecord
        raise error(
            f"{type(record).__name__.lower()} is too long",
            expected=f"at most {self.spec.max_length} tokens (max_length)",
            got=f"{num_tokens} tokens",
            where=place(record),
        )

    def _render(self, record: Record) -> str | DroppedRecord:
        try:
            chat = self.spec.template.style == "chat"
            return self._chat(record) if chat else self._plain(record)
        except DataError as error:
            return DroppedRecord(
                error.problem,
                expected=error.expected,
                got=error.got,
                where=place(record),
                fix=error.fix,
            )

    def _plain(self, record: Record) -> str:
        template, prompt = self.spec.template, record.prompt
        turns = () if isinstance(prompt, str) else prompt
        found = [name for turn in turns for name in BEYOND_TEXT if name in turn]
        if found:
            raise DataError(
                f"the prompt holds {found[0]}, which the plain template cannot render",
                expected="messages of text",
                fix="Use template style 'chat' with a tokenizer whose template reads them",
            )
        return template.prefix + prompt_text(prompt) + template.suffix

    def _chat(self, record: Record) -> str:
        messages = chat_messages(record.prompt, self.spec.template.system)
        if messages[-1]["role"] == "assistant":
            raise DataError(
                "the prompt ends with the assistant's turn",
                expected="a turn of the user or of a tool last",
                fix="Make that turn the beginning of the response",
            )
        self._refuse_special_tokens(messages)
        text = open_answer(self.tokenizer, messages, self.spec.template)
        if not text.endswith(self.thought):
            raise DataError(
                "the chat template opens this answer in another way than others",
                expected=f"a prompt that ends with {self.thought!r}",
                got=text[-80:],
            )
        return text.removesuffix(self.thought)

    def _refuse_special_tokens(self, messages: Sequence[Message]) -> None:
        said = [str(value) for message in messages for value in message.values()]
        for token in self._special_tokens:
            if any(token in text for text in said):
                raise DataError(
                    f"prompt contains the special token {token!r}",
                    fix="Remove it, or use the plain template, which reads it as ordinary text",
                )

    def _thought(self) -> str:
        if self.spec.template.style == "plain":
            return ""
        frame = AnswerFrame.of(self.tokenizer)
        return frame.thought if self.spec.template.opening == "answer" else ""

    def _with_bos(self, ids: list[int]) -> list[int]:
        start = 0
        while self._start is not None and start < len(ids) and ids[start] == self._start:
            start += 1
        bare = ids[start:]
        return [int(self._start or 0), *bare] if self.spec.template.bos == "one" else bare

    def _check(self) -> None:
        template = self.spec.template
        if template.style == "chat" and not self.tokenizer.chat_template:
            raise SpecError(
                "template style 'chat' needs a tokenizer with a chat template",
                fix="Use style 'plain', or a tokenizer that has one",
            )
        if template.bos == "one" and self._start is None:
            raise SpecError("template says bos 'one' but the tokenizer has no BOS token")


def chat_messages(prompt: Prompt, system: str | None) -> list[Message]:
    """Return a prompt as the messages of a chat template."""
    messages: list[Message] = (
        [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    )
    if system is None or messages[0]["role"] == "system":
        return messages
    first, *turns = messages
    tools = {TOOLS: first[TOOLS]} if TOOLS in first else {}
    asked = {name: value for name, value in first.items() if name != TOOLS}
    return [{"role": "system", "content": system, **tools}, asked, *turns]
