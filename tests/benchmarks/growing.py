"""Chains that grow by a step at a time and are scored after every step, as search does."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from prm.scoring.session import ScoringSession
from tests.benchmarks.harness import Bar, Case, Laps, Side
from tests.benchmarks.scoring import TOLERANCE, load_prm, load_stock
from tests.benchmarks.workloads import (
    PROCESS,
    LabeledSteps,
    Scale,
    causal_pairs,
    random_chains,
)

STEPS = 10

Probabilities = Callable[[Sequence[LabeledSteps]], list[float]]
"""The probability of the last step of each chain."""


def growing_prm(laps: Laps, models: Path, scale: Scale, dtype: str, beams: int) -> None:
    """Score in a session, which is new for every chain and computes new tokens only."""
    scorer = load_prm(models, PROCESS, dtype)

    def session() -> Probabilities:
        kept = ScoringSession(scorer)

        def probabilities(chains: Sequence[LabeledSteps]) -> list[float]:
            scores = kept.score([(chain.prompt, chain.steps) for chain in chains])
            return [score.probabilities[-1] for score in scores]

        return probabilities

    prompt, step = scale.length(120), scale.length(40)
    _grow(laps, scale, beams, session, executed=prompt + beams * STEPS * step)


def growing_stock(
    laps: Laps, models: Path, scale: Scale, dtype: str, beams: int, rows: int
) -> None:
    """Run every chain in full after every step, `rows` chains in a batch."""
    import torch

    from prm.spec import STEP_MARKER

    model, tokenizer = load_stock(models, PROCESS, dtype)

    @torch.inference_mode()
    def probabilities(chains: Sequence[LabeledSteps]) -> list[float]:
        found: list[float] = []
        for start in range(0, len(chains), rows):
            texts = [
                " ".join([chain.prompt, *(f"{step} {STEP_MARKER}" for step in chain.steps)])
                for chain in chains[start : start + rows]
            ]
            batch = tokenizer(texts, padding=True, return_tensors="pt")
            last = model(**batch, use_cache=False).logits[:, -1].float()
            found += last.softmax(dim=-1)[:, 1].tolist()
        return found

    _grow(laps, scale, beams, lambda: probabilities, executed=_in_full(scale, beams))


def growing_cache(laps: Laps, models: Path, scale: Scale, dtype: str, beams: int) -> None:
    """Keep keys and values by hand: the prompt once, then a batch of the new steps."""
    import torch
    from transformers import DynamicCache

    from prm.spec import STEP_MARKER

    model, tokenizer = load_stock(models, PROCESS, dtype)

    def session() -> Probabilities:
        cache = DynamicCache(config=model.config)

        @torch.inference_mode()
        def probabilities(chains: Sequence[LabeledSteps]) -> list[float]:
            if len(chains[0].steps) == 1:
                prompt = tokenizer(chains[0].prompt, return_tensors="pt").input_ids
                model.model(input_ids=prompt, past_key_values=cache, use_cache=True)
                cache.batch_repeat_interleave(beams)
            texts = [f"{chain.steps[-1]} {STEP_MARKER}" for chain in chains]
            batch = tokenizer(texts, return_tensors="pt").input_ids
            last = model(input_ids=batch, past_key_values=cache, use_cache=True).logits[:, -1]
            return list(last.float().softmax(dim=-1)[:, 1].tolist())

        return probabilities

    executed = scale.length(120) + beams * STEPS * scale.length(40)
    _grow(laps, scale, beams, session, executed)


def _in_full(scale: Scale, beams: int) -> int:
    """Return the tokens of all chains after every step."""
    return beams * sum(scale.length(120) + n * scale.length(40) for n in range(1, STEPS + 1))


def _chains(scale: Scale, beams: int) -> Iterator[list[LabeledSteps]]:
    """Yield new chains that share their prompt."""
    seeds = random.Random(0)
    while True:
        first, *rest = random_chains(seeds.getrandbits(32), beams, scale, num_steps=STEPS)
        yield [first, *(replace(chain, prompt=first.prompt) for chain in rest)]


def _grow(
    laps: Laps, scale: Scale, beams: int, session: Callable[[], Probabilities], executed: int
) -> None:
    source = _chains(scale, beams)
    chains = next(source)
    prompt, length = chains[0].num_prompt, chains[0].length
    pairs = causal_pairs(prompt) + beams * causal_pairs(length - prompt, prompt)
    laps.start()
    while True:
        probabilities, found = session(), []
        for count in range(1, STEPS + 1):
            found += probabilities([replace(c, steps=c.steps[:count]) for c in chains])
        chains = next(source)
        laps.done(
            _in_full(scale, beams),
            scale.linear_flops(executed, passes=1),
            scale.attention_flops(pairs, passes=1),
            sum(found) / len(found),
        )


def _case(name: str, models: Path, scale: Scale, dtype: str, beams: int, bar: float) -> Case:
    options: dict[str, Any] = {"models": models, "scale": scale, "dtype": dtype, "beams": beams}
    sides = [
        Side("prm session", partial(growing_prm, **options)),
        Side("one forward per step and chain", partial(growing_stock, **options, rows=1)),
        Side("KV cache kept by hand", partial(growing_cache, **options)),
    ]
    baselines = [sides[1].name]
    if beams > 1:
        sides.insert(
            2, Side("padded batch per step", partial(growing_stock, **options, rows=beams))
        )
        baselines.append(sides[2].name)
    bars = (Bar("speed", bar, tuple(baselines)), Bar("speed", None, (sides[-1].name,)))
    many = f"{beams} chains" if beams > 1 else "one chain"
    title = f"{many} growing by 10 steps of 40 from a prompt of 120, {dtype}"
    return Case(name, title, tuple(sides), bars, dtype, TOLERANCE[dtype])


def cases(models: Path, scale: Scale, pairs: int) -> list[Case]:
    """Return the cases of growing chains."""
    return [
        _case("growing-chain-bf16", models, scale, "bf16", 1, 3.8),
        _case("growing-chain-fp32", models, scale, "fp32", 1, 3.8),
        _case("growing-chains-8-bf16", models, scale, "bf16", 8, 6.5),
    ]
