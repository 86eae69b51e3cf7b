"""What both sides of a case compute: model S, its tokenizer, and seeded texts of known length.

A text of n tokens is n random words that the tokenizer knows, so that every side reads the same
token ids and every length is exact.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

EOS, PAD = "<|eos|>", "<|pad|>"

OUTCOME, PROCESS = "outcome", "process"
"""Folders of the two models; each is a stock checkpoint that prm wrote."""


@dataclass(frozen=True)
class Scale:
    """Size of the model and of the texts.

    Args:
        name: Shown in the table.
        hidden_size: Width.
        intermediate_size: Width of the gated feed-forward layers.
        num_layers: Decoder layers.
        num_heads: Query heads.
        num_kv_heads: Key and value heads.
        vocab_size: Tokens of the tokenizer.
        shrink: Divides the length of every text.
    """

    name: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    vocab_size: int
    shrink: int = 1

    @property
    def layer_shapes(self) -> tuple[tuple[int, int], ...]:
        """(outputs, inputs) of the linear layers of one decoder layer."""
        width, inner = self.hidden_size, self.intermediate_size
        kv = width * self.num_kv_heads // self.num_heads
        return (
            *((width, width), (kv, width), (kv, width), (width, width)),
            *((inner, width), (inner, width), (width, inner)),
        )

    @property
    def linear_parameters(self) -> int:
        """Weights of the decoder's linear layers, N; biases and embeddings are not counted."""
        return self.num_layers * sum(rows * columns for rows, columns in self.layer_shapes)

    def linear_flops(self, tokens: int, passes: int) -> float:
        """Return `2 N tokens passes`: 1 pass to score, 3 to train, 4 with checkpointing."""
        return 2.0 * self.linear_parameters * tokens * passes

    def attention_flops(self, pairs: int, passes: int) -> float:
        """Return `4 hidden layers pairs passes` of (query, key) pairs that see each other."""
        return 4.0 * self.hidden_size * self.num_layers * pairs * passes

    def length(self, tokens: int) -> int:
        """Return the length of a text that has so many tokens at full size."""
        return max(2, tokens // self.shrink)


MODEL_S = Scale("S", 512, 1792, 8, 8, 2, 8192)
TINY = Scale("tiny", 32, 64, 2, 4, 2, 512, shrink=8)
HALF_B = Scale("0.5B", 896, 4864, 24, 14, 2, 32768)
"""The shape of Qwen2.5-0.5B, with a smaller vocabulary."""
ONE_AND_A_HALF_B = Scale("1.5B", 1536, 8960, 28, 12, 2, 32768)
"""The shape of Qwen2.5-1.5B, with a smaller vocabulary."""
SCALES = {scale.name: scale for scale in (MODEL_S, TINY, HALF_B, ONE_AND_A_HALF_B)}


def causal_pairs(length: int, before: int = 0) -> int:
    """Return the (query, key) pairs of `length` tokens that follow `before` others on their path.

    Example:
        >>> causal_pairs(3), causal_pairs(3, before=10)
        (6, 36)
    """
    return length * before + length * (length + 1) // 2


def words(generator: random.Random, count: int, scale: Scale) -> str:
    """Return a text of `count` tokens."""
    return " ".join(f"w{generator.randrange(scale.vocab_size - 8)}" for _ in range(count))


@dataclass(frozen=True)
class Pair:
    """A comparison; lengths are in tokens, those of responses with their EOS."""

    prompt: str
    responses: tuple[str, str]
    num_prompt: int
    num_responses: tuple[int, int]

    @property
    def lengths(self) -> tuple[int, int]:
        """Tokens of prompt and response, for each response."""
        first, second = self.num_responses
        return self.num_prompt + first, self.num_prompt + second

    @property
    def tree(self) -> tuple[int, int]:
        """Tokens, and (query, key) pairs, of the tree that computes the prompt once."""
        tokens = self.num_prompt + sum(self.num_responses)
        branches = sum(causal_pairs(count, self.num_prompt) for count in self.num_responses)
        return tokens, causal_pairs(self.num_prompt) + branches

    def row(self) -> dict[str, Any]:
        """Return the pair as a row of the `Outcomes` format."""
        chosen, rejected = self.responses
        return {"prompt": self.prompt, "chosen": chosen, "rejected": rejected, "objective": "good"}


def random_pairs(seed: int, count: int, scale: Scale) -> list[Pair]:
    """Return pairs with prompts of 200 ± 50 tokens and responses of 150 ± 100 (10 to 600)."""
    generator = random.Random(seed)
    return [_random_pair(generator, scale) for _ in range(count)]


def _random_pair(generator: random.Random, scale: Scale) -> Pair:
    num_prompt = scale.length(round(min(400, max(20, generator.gauss(200, 50)))))
    prompt = words(generator, num_prompt, scale)
    num_responses = tuple(
        scale.length(round(min(600, max(10, generator.gauss(150, 100))))) for _ in range(2)
    )
    chosen, rejected = (words(generator, count - 1, scale) for count in num_responses)
    return Pair(prompt, (chosen, rejected), num_prompt, (num_responses[0], num_responses[1]))


@dataclass(frozen=True)
class LabeledSteps:
    """A chain with labels; lengths are in tokens, those of steps with their marker."""

    prompt: str
    steps: tuple[str, ...]
    labels: tuple[int, ...]
    num_prompt: int
    num_step: int

    @property
    def length(self) -> int:
        """Tokens of the chain."""
        return self.num_prompt + self.num_step * len(self.steps)

    @property
    def lengths(self) -> tuple[int]:
        """The one sequence that the chain is."""
        return (self.length,)

    @property
    def tree(self) -> tuple[int, int]:
        """Tokens and (query, key) pairs."""
        return self.length, causal_pairs(self.length)

    def row(self) -> dict[str, Any]:
        """Return the chain as a row of the `HFStepwise` format."""
        labels = [bool(label) for label in self.labels]
        return {"prompt": self.prompt, "completions": list(self.steps), "labels": labels}


def random_chains(
    seed: int, count: int, scale: Scale, num_prompt: int = 120, num_steps: int | None = None
) -> list[LabeledSteps]:
    """Return chains of steps of 40 tokens, marker included.

    Args:
        seed: Of the texts and lengths.
        count: Number of chains.
        scale: Size of the texts.
        num_prompt: Tokens of the prompt.
        num_steps: Steps of each chain; 8 ± 4 (2 to 20) if not given.
    """
    generator = random.Random(seed)
    prompt, step = scale.length(num_prompt), scale.length(40)
    chains = []
    for _ in range(count):
        size = num_steps or round(min(20, max(2, generator.gauss(8, 4))))
        chains.append(
            LabeledSteps(
                words(generator, prompt, scale),
                tuple(words(generator, step - 1, scale) for _ in range(size)),
                tuple(generator.randrange(2) for _ in range(size)),
                prompt,
                step,
            )
        )
    return chains


def batches_of(records: Sequence[Any], size: int) -> list[list[Any]]:
    """Cut records into batches of `size`."""
    iterator = iter(records)
    return list(iter(lambda: list(islice(iterator, size)), []))


def length_grouped(pool: Sequence[Any], size: int, num_batches: int) -> list[list[Any]]:
    """Return batches that transformers' `group_by_length` makes of a pool, spread over lengths.

    The pool is what bucketing works on: 50 batches are sorted together. Of the batches that come
    out, `num_batches` are taken at even quantiles of length, in a random order.
    """
    import torch
    from transformers.trainer_pt_utils import get_length_grouped_indices

    lengths = [max(record.lengths) for record in pool]
    order = get_length_grouped_indices(lengths, size, generator=torch.Generator().manual_seed(0))
    batches = batches_of([pool[index] for index in order], size)
    ranked = sorted(batches, key=lambda batch: sum(sum(record.lengths) for record in batch))
    step = len(ranked) / num_batches
    chosen = [ranked[int((index + 0.5) * step)] for index in range(num_batches)]
    return random.Random(0).sample(chosen, num_batches)


def write_models(folder: Path, scale: Scale) -> None:
    """Write an outcome and a process model with random weights."""
    import torch

    from prm.models import checkpoint
    from prm.models.reward_model import RewardModel
    from prm.spec import ResponseHead, RewardSpec, StepHead

    outcome = RewardSpec(response_heads=(ResponseHead("good"),), max_length=4096)
    process = RewardSpec(step_heads=(StepHead(readout="softmax"),), max_length=4096)
    for name, spec, family in (
        (OUTCOME, outcome, RewardModel),
        (PROCESS, process, RewardModel),
    ):
        tokenizer = word_tokenizer(scale)
        torch.manual_seed(0)
        model = family(_backbone(tokenizer, scale), tokenizer, spec)
        torch.nn.init.normal_(model.heads.layers.weight, std=scale.hidden_size**-0.5)
        checkpoint.save(model.eval(), folder / name)


def _backbone(tokenizer: Any, scale: Scale) -> Any:
    from prm.models.sources import FromScratch

    config = {
        "model_type": "qwen2",
        "hidden_size": scale.hidden_size,
        "intermediate_size": scale.intermediate_size,
        "num_hidden_layers": scale.num_layers,
        "num_attention_heads": scale.num_heads,
        "num_key_value_heads": scale.num_kv_heads,
        "max_position_embeddings": 4096,
    }
    return FromScratch(config).model(tokenizer)


def word_tokenizer(scale: Scale) -> Any:
    """Return a tokenizer whose tokens are the words `w0`, `w1`, ... between spaces."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = [PAD, EOS, "<unk>"]
    known = [*special, *(f"w{index}" for index in range(scale.vocab_size - 8))]
    vocabulary = {token: index for index, token in enumerate(known)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=PAD, eos_token=EOS, unk_token="<unk>"
    )


def write_rows(path: Path, records: Sequence[Any]) -> None:
    """Write records as JSON lines."""
    path.write_text("".join(json.dumps(record.row()) + "\n" for record in records), "utf-8")


def in_order(records: Sequence[Any], seed: int = 0) -> list[Any]:
    """Return records so arranged that the data module's shuffle brings them into this order."""
    from prm.data.sampling import Shuffled

    arranged = list(records)
    for record, place in zip(records, _shuffled(Shuffled(len(records), seed)), strict=True):
        arranged[place] = record
    return arranged


def _shuffled(sampler: Any) -> Iterator[int]:
    return iter(sampler.order(0))
