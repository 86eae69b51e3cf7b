"""Best of N: independent responses, of which a reward model chooses one, or weighs their votes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from prm.errors import ConfigError, DataError
from prm.generators.generator import Generator, Sample, SamplingRequest, derived_seed
from prm.records import Prompt
from prm.scores.reaggregate import reaggregate
from prm.search.candidates import Candidate, Draft, Judge, Scorer, SearchResult
from prm.search.choice import ChoiceRule, choose
from prm.spec import RewardSpec
from prm.texts.answers import extractor
from prm.texts.completions import RewardFrom


def best_of_n(
    scorer: Scorer,
    generator: Generator,
    prompts: Sequence[Prompt],
    n: int = 8,
    *,
    choice: ChoiceRule = "best",
    answer: str = "auto",
    reward_from: RewardFrom | None = None,
    seed: int = 0,
) -> list[SearchResult]:
    """Sample n responses to each prompt and choose one.

    Args:
        scorer: The reward model.
        generator: What samples responses.
        prompts: The prompts.
        n: Responses per prompt, at least 1.
        choice: How one is chosen; see `choose`.
        answer: How final answers are found; see `extractor`.
        reward_from: Whether steps or whole responses are scored; see `Judge`.
        seed: The samples of a prompt depend on it and on nothing else that is searched.

    Returns:
        One result per prompt, in order. A prompt that the generator refuses has a `reason`.

    Raises:
        ConfigError: An option is wrong, or the model does not score what is asked of it.
        PrmError: The generator fails.
    """
    if n < 1:
        raise ConfigError("n is wrong", expected="at least 1", got=n)
    judge = Judge(scorer, extractor(answer), reward_from)
    seeds = [derived_seed(seed, prompt) for prompt in prompts]
    requests = [SamplingRequest(p, "", n, own) for p, own in zip(prompts, seeds, strict=True)]
    found = generator.sample(requests)
    drafts = [_drafts(prompt, samples) for prompt, samples in zip(prompts, found, strict=True)]
    scored = iter(judge.candidates([draft for own in drafts for draft in own]))
    return [
        SearchResult(prompt, (), reason=str(samples))
        if isinstance(samples, DataError)
        else choose(prompt, [next(scored) for _ in own], choice)
        for prompt, samples, own in zip(prompts, found, drafts, strict=True)
    ]


def choose_again(
    result: SearchResult, spec: RewardSpec, choice: ChoiceRule = "best"
) -> SearchResult:
    """Choose among the same candidates by another aggregation; no model is run.

    Args:
        result: What a search found.
        spec: The model's spec with the aggregations that are wanted, as from
            `prm.scores.reaggregate.with_aggregations`.
        choice: How to choose.
    """
    if result.reason and not result.candidates:
        return result
    return choose(result.prompt, [_aggregated(one, spec) for one in result.candidates], choice)


def _drafts(prompt: Prompt, samples: list[Sample] | DataError) -> list[Draft]:
    if isinstance(samples, DataError):
        return []
    return [Draft(prompt, sample.text, sample.end) for sample in samples]


def _aggregated(candidate: Candidate, spec: RewardSpec) -> Candidate:
    if candidate.score is None:
        return candidate
    return replace(candidate, score=reaggregate(candidate.score, spec))
