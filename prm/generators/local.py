"""`LocalGenerator`: samples from a causal language model of transformers in this process."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from prm.errors import ConfigError, DataError, ModelError
from prm.generators.generator import Sample, Sampling, SamplingRequest, derived_seed
from prm.models.sources import load_tokenizer
from prm.records import Rating
from prm.spec import RewardSpec, Template
from prm.trees.chat import with_bos
from prm.trees.prompts import DroppedRecord, PromptEncoder, encode


class LocalGenerator:
    r"""Samples in batches, with a cache of keys and values, until a stop string or the end.

    Each sample has a random generator of its own, seeded by its request and its number, so that it
    does not depend on what else is in the batch, up to the rounding of the model's forward pass.

    Args:
        model: Folder or hub name of a causal language model, or a loaded one.
        tokenizer: Tokenizer of a loaded model; of a folder, the one in it.
        sampling: How tokens are drawn.
        template: How a prompt becomes text; by default the tokenizer's chat template, or without
            one the prompt and a line break. The response follows directly, tokenized apart.
        device: cpu, cuda, cuda:1, ...; auto takes a GPU if there is one.
        dtype: Type of the weights; by default as stored. A loaded model stays as it is.
        batch_size: Samples that are drawn together, at least 1.

    Raises:
        ConfigError: A loaded model has no tokenizer, or an option is wrong.
        ModelError: The folder cannot be loaded.
        SpecError: The tokenizer lacks what the template needs.

    Example:
        >>> generator = LocalGenerator("runs/rl/policy-arithmetic")  # doctest: +SKIP
        >>> request = SamplingRequest("2 + 3 = ?", num_samples=2)
        >>> generator.sample([request], stop="\n")  # doctest: +SKIP
        [[Sample(text='2 + 3 = 5', end='end'), Sample(text='2 + 3 = 6', end='end')]]
    """

    def __init__(
        self,
        model: str | Path | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        sampling: Sampling | None = None,
        template: Template | None = None,
        device: str = "auto",
        dtype: torch.dtype | None = None,
        batch_size: int = 32,
    ) -> None:
        if batch_size < 1:
            raise ConfigError("batch_size is wrong", expected="at least 1", got=batch_size)
        self.model: Any
        if isinstance(model, str | Path):
            self.name = str(model)
            self.tokenizer = tokenizer or load_tokenizer(self.name)
            self.model = _load(self.name, _device(device), dtype)
        else:
            if tokenizer is None:
                raise ConfigError("a loaded model needs its tokenizer", fix="Give `tokenizer`")
            self.name = str(model.config.name_or_path)
            self.tokenizer, self.model = tokenizer, model
        self.model.eval()
        self.sampling = sampling or Sampling()
        self.template = with_bos(self.tokenizer, template or _template(self.tokenizer))
        self.batch_size = batch_size
        self.num_tokens = 0
        self._prompts = PromptEncoder(self.tokenizer, RewardSpec(template=self.template))
        self._ends = _end_tokens(self.model, self.tokenizer)
        text_config = self.model.config.get_text_config()
        self._max_length = getattr(text_config, "max_position_embeddings", None) or sys.maxsize

    def identity(self) -> dict[str, Any]:
        """Return what samples depend on, as JSON values by name."""
        return {
            "generator": self.name,
            "sampling": str(self.sampling),
            "template": str(self.template),
            "dtype of the generator": str(self.model.dtype),
        }

    def sample(
        self, requests: Sequence[SamplingRequest], stop: str | None = None
    ) -> list[list[Sample] | DataError]:
        """Return the samples of each request; arguments and result as of `Generator`."""
        started = self._starts(requests)
        rows = [
            _Row(ids, derived_seed(request.seed, number), self._room(ids))
            for request, ids in zip(requests, started, strict=True)
            if not isinstance(ids, DataError)
            for number in range(request.num_samples)
        ]
        found: dict[int, Sample] = {}
        for batch in self._batches(rows):
            found |= zip(batch, self._run([rows[index] for index in batch], stop), strict=True)
        samples = iter([found[index] for index in range(len(rows))])
        return [
            ids if isinstance(ids, DataError) else list(islice(samples, request.num_samples))
            for request, ids in zip(requests, started, strict=True)
        ]

    def _starts(self, requests: Sequence[SamplingRequest]) -> list[list[int] | DataError]:
        """Return the tokens that each request begins with, or why there is no room for more."""
        prompts = self._prompts.ids([Rating(request.prompt, "") for request in requests])
        prefixes = encode(self.tokenizer, [request.prefix for request in requests])
        starts = zip(prompts, prefixes, strict=True)
        return [self._start(prompt, prefix) for prompt, prefix in starts]

    def _start(self, prompt: list[int] | DroppedRecord, prefix: list[int]) -> list[int] | DataError:
        if isinstance(prompt, DroppedRecord):
            return prompt
        start = prompt + prefix
        if start and self._room(start) > 0:
            return start
        return DataError(
            "the generator has no room for a response" if start else "the prompt is empty",
            expected=f"1 to {self._max_length - 1} tokens",
            got=f"{len(start)} tokens",
        )

    def _room(self, start: Sequence[int]) -> int:
        """Return how many tokens may follow."""
        return min(self.sampling.max_tokens, self._max_length - len(start))

    def _batches(self, rows: Sequence[_Row]) -> Iterator[list[int]]:
        """Yield indices of rows that run together: those with the same room."""
        by_room: dict[int, list[int]] = {}
        for index, row in enumerate(rows):
            by_room.setdefault(row.room, []).append(index)
        for members in by_room.values():
            for start in range(0, len(members), self.batch_size):
                yield members[start : start + self.batch_size]

    @torch.inference_mode()
    def _run(self, rows: Sequence[_Row], stop: str | None) -> list[Sample]:
        """Return the samples of one batch; rows are padded on the left."""
        width = max(len(row.ids) for row in rows)
        pad = self._ends[0] if self._ends else 0
        padded = [[pad] * (width - len(row.ids)) + row.ids for row in rows]
        mask = [[0] * (width - len(row.ids)) + [1] * len(row.ids) for row in rows]
        criteria = [_StopAt(self.tokenizer, stop, width)] if stop else []
        output = self.model.generate(
            input_ids=torch.tensor(padded, device=self.model.device),
            attention_mask=torch.tensor(mask, device=self.model.device),
            generation_config=self._config(rows[0].room, pad),
            logits_processor=LogitsProcessorList(self._processors([row.seed for row in rows])),
            stopping_criteria=StoppingCriteriaList(criteria),
        )
        new = output[:, width:].tolist()
        return [self._sample(row.ids[-1], own, stop) for row, own in zip(rows, new, strict=True)]

    def _config(self, room: int, pad: int) -> GenerationConfig:
        """Return a configuration that replaces the sampling options of the model's own."""
        return GenerationConfig(
            max_new_tokens=room,
            do_sample=False,  # _SeededChoice draws
            eos_token_id=self._ends or None,
            pad_token_id=pad,
            temperature=1.0,
            top_k=50,
            top_p=1.0,
            repetition_penalty=1.0,
        )

    def _processors(self, seeds: Sequence[int]) -> list[LogitsProcessor]:
        if self.sampling.temperature == 0:
            return []
        warpers: list[LogitsProcessor] = [TemperatureLogitsWarper(float(self.sampling.temperature))]
        if self.sampling.top_p < 1:
            warpers.append(TopPLogitsWarper(self.sampling.top_p))
        return [*warpers, _SeededChoice(seeds)]

    def _sample(self, before: int, new: Sequence[int], stop: str | None) -> Sample:
        """Return what new tokens after a token say, cut where they end."""
        ends = [index for index, token in enumerate(new) if token in self._ends]
        kept = list(new[: ends[0]] if ends else new)
        self.num_tokens += min(len(kept) + 1, len(new))
        text = self._text(before, kept)
        if stop and stop in text:
            return Sample(text.partition(stop)[0], "step")
        return Sample(text, "end" if ends else "length")

    def _text(self, before: int, new: list[int]) -> str:
        """Decode tokens with the one before them, as some decoders drop a leading space."""
        head = self.tokenizer.decode([before], skip_special_tokens=True)
        return str(self.tokenizer.decode([before, *new], skip_special_tokens=True))[len(head) :]


class _Row(NamedTuple):
    """One sample to draw: what it continues, its seed, and how many tokens it may have."""

    ids: list[int]
    seed: int
    room: int


class _SeededChoice(LogitsProcessor):
    """Draws the next token of each row with its own generator, and leaves no other possible."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        draws = torch.stack(
            [torch.rand(1, generator=own, dtype=torch.float64) for own in self.generators]
        ).to(scores.device)
        mass = scores.double().softmax(dim=-1).cumsum(dim=-1)
        chosen = torch.searchsorted(mass, draws * mass[:, -1:], right=True)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)


class _StopAt(StoppingCriteria):
    """Ends a row once its new text holds the stop string."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: str, start: int) -> None:
        self.tokenizer = tokenizer
        self.stop = stop
        self.start = start
        self.window = len(stop.encode()) + 1

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        tails = input_ids[:, max(self.start, input_ids.shape[1] - self.window) :]
        texts = self.tokenizer.batch_decode(tails, skip_special_tokens=True)
        return torch.tensor([self.stop in text for text in texts], device=input_ids.device)


def _load(name: str, device: str, dtype: torch.dtype | None) -> Any:
    """Load a causal language model; a folder that lacks weights would give random text."""
    load: Any = AutoModelForCausalLM.from_pretrained
    try:
        model, found = load(name, dtype=dtype or "auto", output_loading_info=True)
    except (OSError, ValueError, KeyError) as error:
        raise _not_loaded(name, str(error).splitlines()[0]) from error
    if found["missing_keys"]:
        missing = ", ".join(sorted(found["missing_keys"]))
        raise _not_loaded(name, f"no weights of {missing}")
    return model.to(device)


def _not_loaded(name: str, got: str) -> ModelError:
    return ModelError(
        "cannot load the generator",
        where=name,
        got=got,
        fix="Name a folder with a causal language model, or the URL of a server",
    )


def _device(name: str) -> str:
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def _template(tokenizer: PreTrainedTokenizerBase) -> Template:
    """Return the chat template, which asks for an answer, or a plain one."""
    return Template(style="chat" if tokenizer.chat_template else "plain", opening="generation")


def _end_tokens(model: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that end a response."""
    found = model.generation_config.eos_token_id
    found = tokenizer.eos_token_id if found is None else found
    return [found] if isinstance(found, int) else list(found or [])
