"""Scoring cases: prm beside stock transformers on the same checkpoint and the same texts."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import Bar, Case, Laps, Side
from tests.benchmarks.machine import DTYPES
from tests.benchmarks.workloads import (
    EOS,
    OUTCOME,
    LabeledSteps,
    Scale,
    causal_pairs,
    random_chains,
    words,
)

CANDIDATES, PROMPT, RESPONSE = 16, 400, 100

TOLERANCE = {"bf16": 0.05, "fp32": 1e-4}


def load_prm(models: Path, name: str, dtype: str) -> Any:
    """Return a scorer."""
    import torch

    from prm.scoring.scorer import RewardScorer

    return RewardScorer.from_pretrained(models / name, "cpu", getattr(torch, DTYPES[dtype]))


def load_stock(models: Path, name: str, dtype: str) -> tuple[Any, Any]:
    """Return the stock classifier and its tokenizer."""
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
        PreTrainedTokenizerFast,
    )

    family = (
        AutoModelForSequenceClassification if name == OUTCOME else AutoModelForTokenClassification
    )
    model = family.from_pretrained(models / name, dtype=getattr(torch, DTYPES[dtype]))
    return model.eval(), PreTrainedTokenizerFast.from_pretrained(models / name)


# Best of 16


def candidates(seed: int, scale: Scale) -> tuple[str, list[str]]:
    """Return a prompt and responses of one length each, so that padding costs the peers nothing."""
    generator = random.Random(seed)
    prompt = words(generator, scale.length(PROMPT), scale)
    length = scale.length(RESPONSE) - 1
    return prompt, [words(generator, length, scale) for _ in range(CANDIDATES)]


def best_of_prm(laps: Laps, models: Path, scale: Scale, dtype: str) -> None:
    """Score all candidates as one tree."""
    scorer = load_prm(models, OUTCOME, dtype)
    executed = scale.length(PROMPT) + CANDIDATES * scale.length(RESPONSE)

    def scores(prompt: str, responses: Sequence[str]) -> list[float]:
        found = scorer.score([(prompt, response) for response in responses])
        return [score.scores["good"] for score in found]

    _score_candidates(laps, scale, scores, executed)


def best_of_padded(laps: Laps, models: Path, scale: Scale, dtype: str, rows: int) -> None:
    """Score batches of `rows` candidates, each with the prompt before it."""
    import torch

    model, tokenizer = load_stock(models, OUTCOME, dtype)

    @torch.inference_mode()
    def scores(prompt: str, responses: Sequence[str]) -> list[float]:
        found: list[float] = []
        for start in range(0, len(responses), rows):
            texts = [f"{prompt} {response} {EOS}" for response in responses[start : start + rows]]
            batch = tokenizer(texts, padding=True, return_tensors="pt")
            found += model(**batch, use_cache=False).logits[:, 0].float().tolist()
        return found

    _score_candidates(laps, scale, scores, _repeated(scale))


def best_of_pipeline(laps: Laps, models: Path, scale: Scale, dtype: str) -> None:
    """Score with `pipeline("text-classification")`, in batches of all candidates."""
    from transformers import pipeline

    model, tokenizer = load_stock(models, OUTCOME, dtype)
    classify = pipeline(
        "text-classification",
        model=model,
        tokenizer=tokenizer,
        function_to_apply="none",
        batch_size=CANDIDATES,
        device="cpu",
    )

    def scores(prompt: str, responses: Sequence[str]) -> list[float]:
        found = classify([f"{prompt} {response} {EOS}" for response in responses])
        return [row["score"] for row in found]

    _score_candidates(laps, scale, scores, _repeated(scale))


def best_of_cache(laps: Laps, models: Path, scale: Scale, dtype: str) -> None:
    """Compute the prompt's keys and values once, repeat them, and run the responses on them."""
    import torch
    from transformers import DynamicCache

    model, tokenizer = load_stock(models, OUTCOME, dtype)

    @torch.inference_mode()
    def scores(prompt: str, responses: Sequence[str]) -> list[float]:
        cache = DynamicCache(config=model.config)
        start = tokenizer(prompt, return_tensors="pt").input_ids
        model.model(input_ids=start, past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(len(responses))
        texts = [f"{response} {EOS}" for response in responses]
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        before = torch.ones(len(responses), start.shape[1], dtype=torch.int64)
        mask = torch.cat([before, batch.attention_mask], dim=1)
        logits = model(
            input_ids=batch.input_ids, attention_mask=mask, past_key_values=cache, use_cache=True
        ).logits
        return list(logits[:, 0].float().tolist())

    executed = scale.length(PROMPT) + CANDIDATES * scale.length(RESPONSE)
    _score_candidates(laps, scale, scores, executed)


def _repeated(scale: Scale) -> int:
    return CANDIDATES * (scale.length(PROMPT) + scale.length(RESPONSE))


def _score_candidates(
    laps: Laps, scale: Scale, scores: Callable[[str, Sequence[str]], list[float]], executed: int
) -> None:
    prompt, response = scale.length(PROMPT), scale.length(RESPONSE)
    pairs = causal_pairs(prompt) + CANDIDATES * causal_pairs(response, prompt)
    seed = 0
    texts = candidates(seed, scale)
    laps.start()
    while True:
        found = scores(*texts)
        seed += 1
        texts = candidates(seed, scale)
        laps.done(
            _repeated(scale),
            scale.linear_flops(executed, passes=1),
            scale.attention_flops(pairs, passes=1),
            sum(found) / len(found),
        )


def best_of(name: str, models: Path, scale: Scale, dtype: str) -> Case:
    """Return the case of 16 responses to one prompt."""
    sides = (
        Side("prm", partial(best_of_prm, models=models, scale=scale, dtype=dtype)),
        *(
            Side(title, partial(run, models=models, scale=scale, dtype=dtype, **options))
            for title, run, options in (
                ("padded batch of 16", best_of_padded, {"rows": CANDIDATES}),
                ("one by one", best_of_padded, {"rows": 1}),
                ("transformers pipeline, batch 16", best_of_pipeline, {}),
                ("KV-cache reuse by hand", best_of_cache, {}),
            )
        ),
    )
    names = [side.name for side in sides]
    bars = (
        Bar("speed", 3.6, (names[1], names[2])),
        Bar("speed", None, (names[3],)),
        Bar("speed", None, (names[4],)),
        Bar("gemm", None),
    )
    title = f"best of 16, prompt 400, responses 100, {dtype}"
    return Case(name, title, sides, bars, dtype, TOLERANCE[dtype])


# One chain


STEPS = 3


def latency_prm(laps: Laps, models: Path, scale: Scale, repeat: int) -> None:
    """Score a short chain, some times over."""
    scorer = load_prm(models, "process", "fp32")
    _score_short(
        laps,
        scale,
        repeat,
        lambda chain: scorer.score([(chain.prompt, chain.steps)])[0].probabilities,
    )


def latency_stock(laps: Laps, models: Path, scale: Scale, repeat: int) -> None:
    """Run the stock classifier on a short chain and read its markers, some times over."""
    import torch

    from prm.spec import STEP_MARKER

    model, tokenizer = load_stock(models, "process", "fp32")
    marker = tokenizer.convert_tokens_to_ids(STEP_MARKER)

    @torch.inference_mode()
    def probabilities(chain: LabeledSteps) -> list[float]:
        text = " ".join([chain.prompt, *(f"{step} {STEP_MARKER}" for step in chain.steps)])
        batch = tokenizer(text, return_tensors="pt")
        logits = model(**batch, use_cache=False).logits[0]
        ends = batch.input_ids[0] == marker
        return list(logits[ends].softmax(dim=-1)[:, 1].tolist())

    _score_short(laps, scale, repeat, probabilities)


def _score_short(
    laps: Laps,
    scale: Scale,
    repeat: int,
    probabilities: Callable[[LabeledSteps], Sequence[float | None]],
) -> None:
    chains = iter(random_chains(0, 10_000, scale, num_prompt=60, num_steps=STEPS))
    texts = [next(chains) for _ in range(repeat)]
    laps.start()
    while True:
        found = [value or 0.0 for chain in texts for value in probabilities(chain)]
        tokens, pairs = (sum(counts) for counts in zip(*(c.tree for c in texts), strict=True))
        texts = [next(chains) for _ in range(repeat)]
        laps.done(
            tokens,
            scale.linear_flops(tokens, passes=1),
            scale.attention_flops(pairs, passes=1),
            sum(found) / len(found),
        )


def latency(models: Path, scale: Scale, repeat: int = 20) -> Case:
    """Return the case of one short chain at a time."""
    options: dict[str, Any] = {"models": models, "scale": scale, "repeat": repeat}
    stock = "transformers forward, batch 1"
    return Case(
        "latency",
        f"{repeat} chains one after the other, prompt 60, {STEPS} steps of 40, fp32",
        (
            Side("prm", partial(latency_prm, **options)),
            Side(stock, partial(latency_stock, **options)),
        ),
        (Bar("speed", 0.9, (stock,)),),
        "fp32",
        TOLERANCE["fp32"],
    )


def cases(models: Path, scale: Scale, pairs: int) -> list[Case]:
    """Return the scoring cases."""
    return [
        best_of("best-of-16-bf16", models, scale, "bf16"),
        best_of("best-of-16-fp32", models, scale, "fp32"),
        latency(models, scale),
    ]
