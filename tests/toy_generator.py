"""A generator with known continuations, and a tiny language model to generate with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle, islice
from typing import Any

import torch
from tokenizers import decoders
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from prm.errors import DataError
from prm.generators.generator import Sample, SamplingRequest
from tests.tiny_models import character_tokenizer

Continue = Callable[[str], Sequence[Sample]]
"""From the response so far to everything that may follow."""


class ToyGenerator:
    """Gives the continuations of a response in turn, as many as are asked for."""

    def __init__(self, follow: Continue, refused: Sequence[str] = ()) -> None:
        self.follow = follow
        self.refused = refused
        self.requests: list[SamplingRequest] = []
        self.num_tokens = 0

    def identity(self) -> dict[str, Any]:
        return {"generator": "toy"}

    def sample(
        self, requests: Sequence[SamplingRequest], stop: str | None = None
    ) -> list[list[Sample] | DataError]:
        self.requests += requests
        return [self._samples(request) for request in requests]

    def _samples(self, request: SamplingRequest) -> list[Sample] | DataError:
        if request.prompt in self.refused:
            return DataError("no such prompt", got=request.prompt)
        self.num_tokens += request.num_samples
        return list(islice(cycle(self.follow(request.prefix)), request.num_samples))


def tree(branches: int, depth: int) -> Continue:
    """Return sums that branch at every step and end after `depth` steps."""

    def follow(prefix: str) -> list[Sample]:
        level = prefix.count("\n")
        start = prefix.strip().rpartition(" ")[2] or "1"
        results = [int(start) + level + branch for branch in range(branches)]
        end = "end" if level + 1 == depth else "step"
        return [Sample(f"{start} + {level} = {result}", end) for result in results]

    return follow


def language_model(tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """Return a random decoder of 64 positions whose next tokens differ clearly."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        initializer_range=0.5,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    return LlamaForCausalLM(config)


def tokenizer_of_characters(chat_template: str | None = None) -> PreTrainedTokenizerBase:
    """Return the character tokenizer with a decoder that puts nothing between characters."""
    tokenizer = character_tokenizer(chat_template)
    tokenizer.backend_tokenizer.decoder = decoders.Fuse()
    return tokenizer
