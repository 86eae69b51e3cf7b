"""A served model as vLLM or SGLang would serve its exported folder: tokens in, head columns out.

Both engines add one thing of ours: the model name `NAME:reward` gives the aggregated reward as the
only column, which clients that read the first or the last number get right.
"""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

from torch import Tensor

from prm.errors import ConfigError, DataError, ModelError
from prm.fields import check_encodable
from prm.messages import answer_text
from prm.models.fold import REWARD
from prm.models.readouts import response_scores, step_logits
from prm.models.stock import problem_type
from prm.records import Message
from prm.serve.pool import ModelPool, ServedModel
from prm.texts.completions import Completion, choose_reward_from
from prm.trees.chat import first_token
from prm.trees.prompts import DroppedRecord
from prm.trees.tokenize import Tokens, TreeBuilder
from prm.trees.tree import flat_path
from prm.trees.units import unit_of

REWARD_SUFFIX = f":{REWARD}"
"""End of a model's name that asks for the aggregated reward."""

Input = str | list[int]
"""A text or token ids."""


@dataclass(frozen=True, slots=True, eq=False)
class EngineModel:
    """A model, and whether it is asked for its columns or for its reward.

    Args:
        served: The model.
        texts: What tokenizes for it.
        is_reward: Whether the aggregated reward stands for the columns.
    """

    served: ServedModel
    texts: EngineTexts
    is_reward: bool

    @classmethod
    def of(cls, pool: ModelPool, name: str | None) -> EngineModel:
        """Return a model of the pool; the first one if no name is given.

        Raises:
            UnknownModelError: There is no model of this name.
            ConfigError: The reward is asked for and needs gates, which columns do not hold.
        """
        is_reward = name is not None and name.endswith(REWARD_SUFFIX)
        served = pool.get(name if name is None else name.removesuffix(REWARD_SUFFIX))
        chosen = served.spec.objective_aggregation
        if is_reward and chosen is not None and chosen.needs_gates:
            raise ConfigError(
                f"{chosen.name} needs the gates of the prompt, which tokens do not name",
                fix="Ask /v1/score, or choose another aggregation",
            )
        if served not in _texts:
            _texts[served] = EngineTexts(served)
        return cls(served, _texts[served], is_reward)

    @property
    def labels(self) -> list[str]:
        """Names of the numbers in a row, as `id2label` of the exported model."""
        if self.is_reward:
            return [REWARD]
        return [name for head in self.served.spec.heads for name in head.column_names]

    async def by_response(self, ids: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return one row of numbers per input, shape `[column]`.

        Raises:
            ModelError: The model reads steps, and columns are asked for.
            DataError: An input holds no step, or has no reward.
        """
        spec = self.served.spec
        by_step = not spec.response_heads
        if by_step and not self.is_reward:
            raise ModelError(
                "the model scores steps, not whole texts",
                fix=f"Ask /pooling, or this route for {self.served.name}{REWARD_SUFFIX}",
            )
        reads = [self.texts.steps(own) if by_step else [len(own) - 1] for own in ids]
        columns = await self.served.columns(ids, reads)
        return [self._reward(own) if self.is_reward else own[0] for own in columns]

    async def by_token(self, ids: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return the rows of each input, shape `[read, column]`.

        Process models with a marker have a row per marker, as with vLLM's STEP pooling; others have
        one per token.

        Raises:
            DataError: An input holds no step marker.
        """
        reads = [self.texts.steps(own) for own in ids]
        return await self.served.columns(ids, reads)

    def activated(self, row: Tensor) -> Tensor:
        """Return numbers after the activation that engines infer from `problem_type`."""
        kind = problem_type(self.served.spec)
        if self.is_reward or kind == "regression":
            return row
        return row.sigmoid() if kind == "multi_label_classification" else row.softmax(dim=-1)

    def _reward(self, columns: Tensor) -> Tensor:
        """Return the reward of columns `[read, column]`, shape `[1]`."""
        spec = self.served.spec
        if spec.response_heads:
            return _finite(spec.rewards(response_scores(columns, spec).double()))
        logits = _finite(step_logits(columns, spec).double())
        chain_reward = logits[:, spec.step_names.index(spec.chain_reward)]
        return _finite(spec.shaping(spec.step_aggregation(chain_reward)).reshape(1))


def _finite(values: Tensor) -> Tensor:
    """Return values that a reward is made of, or that are one.

    Raises:
        DataError: One of them is not finite.
    """
    if not bool(values.isfinite().all()):
        raise DataError("there is no reward", got="numbers that are not finite; try float32")
    return values


class EngineTexts:
    """Turns the texts and messages of engine requests into the token ids of one model.

    Args:
        served: The model; its tokenizer is copied, because its own belongs to the model's thread.
    """

    def __init__(self, served: ServedModel) -> None:
        self.spec = served.spec
        self.tokenizer = copy.deepcopy(served.scorer.model.tokenizer)
        self._start = first_token(self.tokenizer)
        self._marker = self.spec.tokenizer.marker_id if self.spec.tokenizer else None
        self._lock = threading.Lock()

    async def ids(self, inputs: Sequence[Input], add_special_tokens: bool) -> list[list[int]]:
        """Return token ids of inputs; those that are ids already stay as they are.

        With `add_special_tokens`, a text begins with one BOS token or with none, as the spec says,
        whatever text and tokenizer add. Without, it is exactly what it says.

        Raises:
            DataError: A text is not valid Unicode.
        """
        return await asyncio.to_thread(self._ids, inputs, add_special_tokens)

    async def message_ids(self, messages: Sequence[Message]) -> tuple[list[int], bool]:
        """Return the token ids of a conversation in the template of the spec.

        The second value says whether something was cut off, because it is over `max_length`.

        Raises:
            DataError: It does not end with the assistant's turn, or does not fit the model.
        """
        return await asyncio.to_thread(self._message_ids, messages)

    def steps(self, ids: Sequence[int]) -> list[int]:
        """Return the positions of the step markers; of all tokens for a model that is read there.

        Raises:
            DataError: There is no marker.
        """
        if self._marker is None or self.spec.kind != "process":
            return list(range(len(ids)))
        found = [index for index, token in enumerate(ids) if token == self._marker]
        if not found:
            raise DataError(
                "the input holds no step marker",
                expected=f"{self.spec.marker} (token {self._marker}) after each step",
                fix="Send messages, which are rendered as the model was trained",
            )
        return found

    def _ids(self, inputs: Sequence[Input], add_special_tokens: bool) -> list[list[int]]:
        check_encodable([item for item in inputs if isinstance(item, str)], None)
        with self._lock:
            return [
                self._text_ids(item, add_special_tokens) if isinstance(item, str) else item
                for item in inputs
            ]

    def _text_ids(self, text: str, add_special_tokens: bool) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"]
        if not add_special_tokens or self._start is None:
            return ids
        first = next((index for index, token in enumerate(ids) if token != self._start), len(ids))
        bare = ids[first:]
        return [self._start, *bare] if self.spec.template.bos == "one" else bare

    def _message_ids(self, messages: Sequence[Message]) -> tuple[list[int], bool]:
        *prompt, last = messages
        if not prompt or last["role"] != "assistant":
            raise DataError(
                "messages are wrong",
                expected="a conversation that ends with the assistant's turn",
                got=[message["role"] for message in messages],
            )
        with self._lock:
            item = self._tokenized(prompt, answer_text(last))
        if isinstance(item, DroppedRecord):
            raise item
        return flat_path(item.tree)[0], bool(item.num_truncated or item.num_prompt_cut)

    def _tokenized(self, prompt: Sequence[Message], response: str) -> Tokens | DroppedRecord:
        completion = Completion.read(tuple(prompt), response, self.spec.step_format)
        record = completion.record(choose_reward_from(self.spec))
        return next(self._builder.build_all([unit_of([record])]))

    @cached_property
    def _builder(self) -> TreeBuilder:
        return TreeBuilder(self.tokenizer, self.spec)


_texts: WeakKeyDictionary[ServedModel, EngineTexts] = WeakKeyDictionary()
