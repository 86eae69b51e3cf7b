"""Candidates: responses, finished or growing, with what a reward model says about them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from prm.aggregation.steps import STEP_AGGREGATIONS
from prm.generators.generator import End
from prm.records import Prompt
from prm.scores.chains import ChainScore
from prm.scores.responses import ResponseScore
from prm.scores.rows import RECORD_COLUMNS
from prm.spec import RewardSpec
from prm.texts.answers import Extractor
from prm.texts.completions import Completion, RewardFrom, choose_reward_from

EMPTY = "the response is empty"


class Scorer(Protocol):
    """Scores records: a `RewardScorer`, a session of one, or a client of a server."""

    @property
    def spec(self) -> RewardSpec:
        """The spec, with the aggregations that are used."""

    def score(self, records: Sequence[Any]) -> list[Any]:
        """Return one `ChainScore` or `ResponseScore` per record."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A response before it is scored.

    Args:
        prompt: What it answers.
        response: Its text so far.
        end: Why it ends there; `step` if it can grow.
        parent: Index of the candidate that it continues, if there is one.
    """

    prompt: Prompt
    response: str
    end: End
    parent: int | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A response with its score.

    Args:
        response: Its text.
        steps: Its steps, as the reward model reads them.
        end: Why it ends there; `step` if it could grow.
        score: What the reward model says; `None` if it was not asked.
        answer: Canonical final answer, if it came to its end and has one.
        parent: Index of the candidate that it continues, if there is one.
        reason: Why there is no reward. Empty if there is one.
    """

    response: str
    steps: tuple[str, ...]
    end: End
    score: ChainScore | ResponseScore | None
    answer: str | None = None
    parent: int | None = None
    reason: str = ""

    @property
    def reward(self) -> float | None:
        """The reward; `None` if there is none."""
        return None if self.score is None else self.score.reward

    @property
    def num_truncated(self) -> int:
        """Steps, or responses, that the reward model cut off at its `max_length`."""
        return 0 if self.score is None else self.score.num_truncated

    @property
    def is_complete(self) -> bool:
        """Whether it came to its end, and was read to its end."""
        return self.end == "end" and self.num_truncated == 0

    @property
    def rank_key(self) -> tuple[bool, float]:
        """What is larger for a better one: complete before incomplete, then by reward."""
        return self.is_complete, -math.inf if self.reward is None else self.reward

    @property
    def vote(self) -> float:
        """The weight of its vote, in [0, 1]: what is no probability goes through sigmoid.

        A candidate without a reward has no weight.
        """
        if self.score is None or self.score.reward is None:
            return 0.0
        if isinstance(self.score, ResponseScore):
            return _sigmoid(self.score.reward)
        value = self.score.scores[self.score.reward_objective]
        assert value is not None
        is_logit = STEP_AGGREGATIONS[self.score.aggregation].unit == "logit"
        return _sigmoid(value) if is_logit else value

    def to_row(self) -> dict[str, Any]:
        """Return the candidate as one JSON object."""
        score = {} if self.score is None else self.score.to_row()
        about = {name: score[name] for name in score if name not in (*RECORD_COLUMNS, "response")}
        return {
            "response": self.response,
            "steps": list(self.steps),
            "end": self.end,
            "parent": self.parent,
            "answer": self.answer,
            "reward": self.reward,
            **about,
            "reason": self.reason,
        }


class Judge:
    """Turns drafts into candidates, many in one call of the scorer.

    Args:
        scorer: The reward model.
        extract: What finds final answers.
        reward_from: Whether chains or whole responses are scored; by default chains for a process
            model, and responses for an outcome or a joint model.

    Raises:
        ConfigError: The model does not score that.
    """

    def __init__(
        self, scorer: Scorer, extract: Extractor, reward_from: RewardFrom | None = None
    ) -> None:
        self.scorer = scorer
        self.extract = extract
        self.reward_from = choose_reward_from(scorer.spec, reward_from)

    def candidates(self, drafts: Sequence[Draft]) -> list[Candidate]:
        """Return each draft with its score; an empty one has none."""
        step_format = self.scorer.spec.step_format
        read = [Completion.read(draft.prompt, draft.response, step_format) for draft in drafts]
        records = [one.record(self.reward_from) for one in read if one.steps]
        scores = iter(self.scorer.score(records) if records else [])
        return [
            self._candidate(draft, one.step_texts, next(scores) if one.steps else None)
            for draft, one in zip(drafts, read, strict=True)
        ]

    def _candidate(
        self, draft: Draft, steps: tuple[str, ...], score: ChainScore | ResponseScore | None
    ) -> Candidate:
        return Candidate(
            response=draft.response,
            steps=steps,
            end=draft.end,
            score=score,
            answer=self.extract(draft.response) if draft.end == "end" else None,
            parent=draft.parent,
            reason=EMPTY if score is None else score.reason,
        )


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search found for one prompt.

    Args:
        prompt: The prompt.
        candidates: Everything that was scored, in the order it came.
        best: Index of the chosen candidate; `None` if there is none.
        answer: The final answer that was chosen.
        votes: Weight of each answer, the heaviest first; empty unless there was a vote.
        reason: Why nothing was chosen. Empty if something was.
    """

    prompt: Prompt
    candidates: tuple[Candidate, ...]
    best: int | None = None
    answer: str | None = None
    votes: Mapping[str, float] | None = None
    reason: str = ""

    @property
    def chosen(self) -> Candidate | None:
        """The chosen candidate."""
        return None if self.best is None else self.candidates[self.best]

    def to_row(self) -> dict[str, Any]:
        """Return the result as one JSON row."""
        chosen = self.chosen
        return {
            "prompt": self.prompt if isinstance(self.prompt, str) else list(self.prompt),
            "response": chosen and chosen.response,
            "answer": self.answer,
            "reward": chosen and chosen.reward,
            "best": self.best,
            "votes": None if self.votes is None else dict(self.votes),
            "reason": self.reason,
            "candidates": [candidate.to_row() for candidate in self.candidates],
        }


def _sigmoid(value: float) -> float:
    return 0.5 * (1 + math.tanh(value / 2))
