"""The policies of the studies: tiny language models trained from scratch on imperfect responses.

    python -m tests.benchmarks.rl.policy arithmetic
    python -m tests.benchmarks.rl.policy arithmetic-easy
    python -m tests.benchmarks.rl.policy replies

Each takes about two minutes on one thread and ends in `runs/rl/policy-NAME`, a folder that
`AutoModelForCausalLM` and `AutoTokenizer` load. A prompt is followed by its response at once, which
ends with the EOS token: `model.generate(**tokenizer([prompt], return_tensors="pt"))`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from prm.atomic import atomic_folder
from tests.benchmarks.rl.tasks import TASKS, Task

ROOT = Path("runs/rl")
WORD = r" ?[A-Za-z]+| ?[0-9]+|\n| ?[^\sA-Za-z0-9]"
"""A token: a word, number or sign with the space before it, or a line break."""

CONFIG = {
    "max_position_embeddings": 256,
    "attention_bias": True,
    "initializer_range": 0.08,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0},
}


@dataclass(frozen=True)
class Size:
    """How large a policy is, and how long it is trained.

    Args:
        hidden_size: Width.
        intermediate_size: Width inside of a layer's MLP.
        num_layers: Layers.
        num_heads: Attention heads of a layer.
        num_steps: Optimizer steps.
    """

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_steps: int


SIZES = {
    "arithmetic": Size(96, 256, 3, 3, 1000),
    "arithmetic-easy": Size(64, 192, 2, 2, 1000),
    "replies": Size(96, 256, 3, 3, 600),
}
BATCH_SIZE = 64
LEARNING_RATE = 3e-3
IGNORED = -100


def word_tokenizer(texts: Iterable[str]) -> Any:
    """Return a tokenizer with one token per word of the texts, which pads on the left."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = {"pad_token": "<|pad|>", "eos_token": "<|eos|>", "unk_token": "<|unk|>"}
    backend = Tokenizer(models.WordLevel(unk_token=special["unk_token"]))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), "isolated")
    backend.decoder = decoders.Fuse()
    trainer = trainers.WordLevelTrainer(special_tokens=list(special.values()), show_progress=False)
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, padding_side="left", **special)


def new_policy(tokenizer: Any, size: Size, seed: int) -> Any:
    """Return a policy with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        **CONFIG,
        hidden_size=size.hidden_size,
        intermediate_size=size.intermediate_size,
        num_hidden_layers=size.num_layers,
        num_attention_heads=size.num_heads,
        num_key_value_heads=size.num_heads,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def collate(tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> tuple[Tensor, Tensor]:
    """Return token ids, padded on the right, and the ids to predict: those of the responses."""
    rows = []
    for prompt, response in pairs:
        start = tokenizer(prompt).input_ids
        end = [*tokenizer(response).input_ids, tokenizer.eos_token_id]
        rows.append((start + end, [IGNORED] * len(start) + end))
    length = max(len(ids) for ids, _ in rows)
    padded = [ids + [tokenizer.pad_token_id] * (length - len(ids)) for ids, _ in rows]
    targets = [ids + [IGNORED] * (length - len(ids)) for _, ids in rows]
    return torch.tensor(padded), torch.tensor(targets)


def train(policy: Any, tokenizer: Any, pairs: Iterator[tuple[str, str]], num_steps: int) -> None:
    """Train by next-token prediction on the responses."""
    from rich.progress import track

    optimizer = torch.optim.AdamW(policy.parameters(), LEARNING_RATE, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, num_steps, pct_start=0.05
    )
    for _ in track(range(num_steps), "Training the policy"):
        ids, targets = collate(tokenizer, list(islice(pairs, BATCH_SIZE)))
        logits = policy(input_ids=ids).logits[:, :-1]
        loss = cross_entropy(logits.flatten(0, 1), targets[:, 1:].flatten(), ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def make_policy(task: Task, folder: Path, size: Size, seed: int = 0) -> None:
    """Train a policy and save it with its tokenizer."""
    sample = islice(task.demonstrations(seed), 5000)
    tokenizer = word_tokenizer(text for pair in sample for text in pair)
    policy = new_policy(tokenizer, size, seed)
    train(policy, tokenizer, task.demonstrations(seed + 1), size.num_steps)
    with atomic_folder(folder, "config.json") as temporary:
        policy.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)


def policy_folder(task: Task) -> Path:
    """Return the folder of a task's policy, which is trained now if it does not exist."""
    folder = ROOT / f"policy-{task.name}"
    if not folder.exists():
        make_policy(task, folder, SIZES[task.name])
    return folder


def load_policy(folder: Path) -> tuple[Any, Any]:
    """Return a policy and its tokenizer."""
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder), tokenizer


@torch.inference_mode()
def sample(
    policy: Any, tokenizer: Any, prompts: Sequence[str], max_new_tokens: int, seed: int = 0
) -> list[str]:
    """Return one response to each prompt, drawn at temperature 1."""
    torch.manual_seed(seed)
    policy.eval()
    batch = tokenizer(list(prompts), return_tensors="pt", padding=True)
    ids = policy.generate(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        do_sample=True,
        top_k=0,
        max_new_tokens=max_new_tokens,
    )
    new = ids[:, batch.input_ids.shape[1] :]
    return [str(text) for text in tokenizer.batch_decode(new, skip_special_tokens=True)]


def main(argv: Sequence[str] | None = None) -> int:
    """Train the policy of a task and show some of its responses."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=sorted(TASKS))
    options = parser.parse_args(argv)
    task = TASKS[options.task]
    torch.set_num_threads(1)
    folder = ROOT / f"policy-{task.name}"
    make_policy(task, folder, SIZES[task.name])
    policy, tokenizer = load_policy(folder)
    prompts = task.distinct_prompts("test", 200)
    responses = sample(policy, tokenizer, prompts, task.max_new_tokens)
    values = [task.gold(prompt, said) for prompt, said in zip(prompts, responses, strict=True)]
    for prompt, response in islice(zip(prompts, responses, strict=True), 3):
        print(prompt, response, sep="\n", end="\n\n")
    means = {name: sum(value[name] for value in values) / len(values) for name in values[0]}
    print(f"{len(prompts)} held-out prompts:", means)
    return 0


if __name__ == "__main__":
    sys.exit(main())
