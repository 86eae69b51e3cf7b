"""Which candidate answers the prompt: the best one, or one whose answer most others share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from prm.records import Prompt
from prm.search.candidates import Candidate, SearchResult

ChoiceRule = Literal["best", "weighted_vote", "majority"]


def choose(prompt: Prompt, candidates: Sequence[Candidate], choice: ChoiceRule) -> SearchResult:
    """Return the candidates with one of them chosen.

    `best` takes the highest reward; one that was cut off counts only where none is complete. The
    votes ask complete candidates alone: `majority` gives each answer one vote per candidate,
    `weighted_vote` the candidate's probability (its reward, through sigmoid where it is none). Ties
    go to what came first.

    Args:
        prompt: The prompt.
        candidates: Everything that was scored.
        choice: How to choose.

    Source:
        Weighted vote: Wang et al. 2023 (arXiv 2312.08935); majority: Wang et al. 2022
        (arXiv 2203.11171).
    """
    if choice == "best":
        return _best(prompt, tuple(candidates))
    return _vote(prompt, tuple(candidates), weighted=choice == "weighted_vote")


def count_votes(answers: Sequence[str | None], weights: Sequence[float]) -> dict[str, float]:
    """Return the sum of the weights of each answer, the heaviest first; `None` has no vote.

    Example:
        >>> count_votes(["21", "1", None, "1"], [0.5, 0.25, 1.0, 0.125])
        {'21': 0.5, '1': 0.375}
    """
    votes: dict[str, float] = {}
    for answer, weight in zip(answers, weights, strict=True):
        if answer is not None:
            votes[answer] = votes.get(answer, 0.0) + weight
    return dict(sorted(votes.items(), key=lambda item: -item[1]))


def _best(prompt: Prompt, candidates: tuple[Candidate, ...]) -> SearchResult:
    best = _highest(candidates, [i for i, one in enumerate(candidates) if one.reward is not None])
    if best is None:
        reasons = dict.fromkeys(one.reason for one in candidates)
        return SearchResult(prompt, candidates, reason="; ".join(reasons) or "no candidates")
    return SearchResult(prompt, candidates, best, candidates[best].answer)


def _vote(prompt: Prompt, candidates: tuple[Candidate, ...], *, weighted: bool) -> SearchResult:
    answers = [one.answer if one.is_complete else None for one in candidates]
    if weighted:
        answers = [
            None if one.reward is None else answer
            for one, answer in zip(candidates, answers, strict=True)
        ]
    votes = count_votes(answers, [one.vote if weighted else 1.0 for one in candidates])
    if not votes:
        reason = "no complete candidate has a final answer"
        return SearchResult(prompt, candidates, votes=votes, reason=reason)
    winner = next(iter(votes))
    voters = [index for index, answer in enumerate(answers) if answer == winner]
    best = _highest(candidates, voters) if weighted else voters[0]
    return SearchResult(prompt, candidates, best, winner, votes)


def _highest(candidates: Sequence[Candidate], indices: Sequence[int]) -> int | None:
    return max(indices, key=lambda index: candidates[index].rank_key, default=None)
