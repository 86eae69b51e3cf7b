"""Step-level beam search: chains grow step by step, and the best ones are grown further."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from prm.errors import ConfigError, DataError
from prm.generators.generator import Generator, Sample, SamplingRequest, derived_seed
from prm.records import Prompt
from prm.scoring.scorer import RewardScorer
from prm.scoring.session import ScoringSession
from prm.search.candidates import Candidate, Draft, Judge, Scorer, SearchResult
from prm.search.choice import ChoiceRule, choose
from prm.texts.answers import extractor

MAX_BLANKS = 2
"""Separators in a row, beside that of the last step, after which a chain is not grown further."""


def beam_search(
    scorer: Scorer,
    generator: Generator,
    prompts: Sequence[Prompt],
    *,
    width: int = 4,
    expand: int = 4,
    max_steps: int = 32,
    choice: ChoiceRule = "best",
    answer: str = "auto",
    seed: int = 0,
) -> list[SearchResult]:
    """Grow chains by a step at a time, all prompts together.

    A round samples `expand` next steps for each of at most `width` chains (the first round
    `width * expand` first steps), scores the longer chains, and keeps the `width` best by the
    aggregated reward of their steps. Finished chains stay in the comparison and take up one of the
    places; those that lose it can still be chosen in the end. Equal chains of a round count once.

    Args:
        scorer: A process model. A `RewardScorer` is used through a session of its own, so that a
            grown chain costs only its new tokens; hand in a session to read its `stats`.
        generator: What samples steps.
        prompts: The prompts.
        width: Chains that are grown in a round, at least 1.
        expand: Next steps that are sampled for each of them, at least 1.
        max_steps: Rounds, at least 1; chains that are not finished then are incomplete.
        choice: How one of the finished chains is chosen; see `choose`.
        answer: How final answers are found; see `extractor`.
        seed: The samples of a prompt depend on it and on nothing else that is searched.

    Returns:
        One result per prompt, in order; its candidates are all chains of all rounds, each with the
        index of its parent.

    Raises:
        ConfigError: An option is wrong, or the model does not score steps.
        PrmError: The generator fails.

    Source:
        Snell et al. 2024 (arXiv 2408.03314), section 5.1.
    """
    for name, value in (("width", width), ("expand", expand), ("max_steps", max_steps)):
        if value < 1:
            raise ConfigError(f"{name} is wrong", expected="at least 1", got=value)
    judge = Judge(_remembering(scorer), extractor(answer), "steps")
    separator = scorer.spec.step_format.separator
    beams = [_Beams(prompt, width, expand, separator) for prompt in prompts]
    for _ in range(max_steps):
        asked = [(own, parent) for own in beams for parent in own.growing()]
        if not asked:
            break
        requests = [own.request(parent, seed) for own, parent in asked]
        found = zip(asked, generator.sample(requests, separator), strict=True)
        grown = [
            (own, draft) for (own, parent), samples in found for draft in own.grow(parent, samples)
        ]
        scored = judge.candidates([draft for _, draft in grown])
        for own in beams:
            own.keep([one for (of, _), one in zip(grown, scored, strict=True) if of is own])
    return [own.result(choice) for own in beams]


class _Beams:
    """The chains of one prompt.

    Args:
        prompt: The prompt.
        width: Chains that are kept.
        expand: Next steps of each.
        separator: What ends a step.
    """

    def __init__(self, prompt: Prompt, width: int, expand: int, separator: str) -> None:
        self.prompt = prompt
        self.width = width
        self.expand = expand
        self.separator = separator
        self.candidates: list[Candidate] = []
        self.kept: list[int] = []
        self.refusal = ""

    def growing(self) -> list[int | None]:
        """Return the kept chains that are not finished; `None` stands for the empty beginning."""
        if not self.candidates:
            return [] if self.refusal else [None]
        return [index for index in self.kept if self._can_grow(self.candidates[index])]

    def request(self, parent: int | None, seed: int) -> SamplingRequest:
        """Return what asks for the next steps of a chain."""
        number = self.width * self.expand if parent is None else self.expand
        prefix = self._response(parent)
        return SamplingRequest(self.prompt, prefix, number, derived_seed(seed, self.prompt, prefix))

    def grow(self, parent: int | None, samples: list[Sample] | DataError) -> list[Draft]:
        """Return the longer chains that samples make of one."""
        if isinstance(samples, DataError):
            self.refusal = str(samples)
            return []
        start = self._response(parent)
        return [
            Draft(
                self.prompt,
                start + sample.text + self.separator * (sample.end == "step"),
                sample.end,
                parent,
            )
            for sample in samples
        ]

    def keep(self, grown: Sequence[Candidate]) -> None:
        """Add the chains of a round, equal ones once, and keep the best of all that are left."""
        distinct: dict[object, Candidate] = {}
        for one in grown:
            distinct.setdefault((one.steps, one.end == "step"), one)
        finished = [index for index in self.kept if self.candidates[index].is_complete]
        first = len(self.candidates)
        self.candidates += distinct.values()
        new = [
            index
            for index, one in enumerate(self.candidates[first:], first)
            if one.is_complete or self._can_grow(one)
        ]
        self.kept = sorted([*finished, *new], key=self._reward, reverse=True)[: self.width]

    def result(self, choice: ChoiceRule) -> SearchResult:
        """Return all chains with one of them chosen: a complete one, or the best that was kept."""
        found = choose(self.prompt, self.candidates, choice)
        if found.chosen is not None and found.chosen.is_complete:
            return found
        if self.refusal:
            return SearchResult(self.prompt, found.candidates, reason=self.refusal)
        unfinished = [index for index in self.kept if self.candidates[index].reward is not None]
        return replace(found, best=unfinished[0]) if found.chosen and unfinished else found

    def _response(self, index: int | None) -> str:
        return "" if index is None else self.candidates[index].response

    def _reward(self, index: int) -> float:
        reward = self.candidates[index].reward
        return -math.inf if reward is None else reward

    def _can_grow(self, one: Candidate) -> bool:
        """Whether a chain is unfinished and was read whole; blank pieces alone may begin one."""
        scored = one.reward is not None or not one.steps
        is_blank = one.response.endswith(self.separator * (1 + MAX_BLANKS))
        return one.end == "step" and scored and one.num_truncated == 0 and not is_blank


def _remembering(scorer: Scorer) -> Scorer:
    """Return a session of a scorer that can have one and is none."""
    if isinstance(scorer, RewardScorer) and not isinstance(scorer, ScoringSession):
        return ScoringSession(scorer)
    return scorer
