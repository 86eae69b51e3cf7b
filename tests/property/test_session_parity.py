"""A session gives the scores of the full pass, whatever it was asked before."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import tiny_model

from prm.records import Chain
from prm.scoring.scorer import RewardScorer
from prm.scoring.session import ScoringSession

FAMILIES = ("qwen2", "llama", "gemma", "gpt2", "gpt_neox", "gemma2", "mistral-window")
"""The last two run on unrolled paths."""

FIELDS = {"gemma2": {"head_dim": 8}, "mistral-window": {"sliding_window": 8}}

STEPS = ("3 * 4 = 12", "3 * 4 = 13", "2 +", "so", "", "It is 15.")

PROMPTS = ("What is 2 + 3 * 4?", "What is 2", "1 + 1 = ?")


@functools.cache
def scorer_of(family: str) -> RewardScorer:
    return RewardScorer(tiny_model(family.split("-")[0], **FIELDS.get(family, {})))


@functools.cache
def logits_alone(family: str, prompt: str, steps: tuple[str, ...]) -> tuple[float | None, ...]:
    """Return the logits of a chain that a scorer runs alone and in full."""
    score = scorer_of(family).score(Chain(prompt, steps))[0]
    return tuple(score.step_logits["correctness"])


chains = st.tuples(
    st.sampled_from(PROMPTS),
    st.lists(st.sampled_from(STEPS), min_size=1, max_size=5).filter(any).map(tuple),
)
calls = st.lists(st.lists(chains, min_size=1, max_size=4), min_size=1, max_size=8)


@pytest.mark.parametrize("family", FAMILIES)
@given(calls, st.sampled_from([1, 30, 80, 10_000]), st.sampled_from([1, 40, 10_000]))
@settings(max_examples=8)
def test_any_calls_give_the_scores_of_the_full_pass(
    family: str,
    calls: list[list[tuple[str, tuple[str, ...]]]],
    max_cached_tokens: int,
    max_tokens: int,
) -> None:
    """Few prompts and steps make chains grow, branch and repeat; small limits make room."""
    scorer = RewardScorer(scorer_of(family).model, max_tokens=max_tokens)
    session = ScoringSession(scorer, max_cached_tokens)
    for call in calls:
        for (prompt, steps), score in zip(call, session.score(call), strict=True):
            expected = logits_alone(family, prompt, steps)
            assert score.step_logits["correctness"] == pytest.approx(expected, abs=1e-5)
        assert session.stats.cached <= max_cached_tokens
