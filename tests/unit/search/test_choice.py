from __future__ import annotations

import math

import pytest

from prm.generators.generator import End
from prm.scores.chains import ChainScore
from prm.scores.responses import ResponseScore
from prm.search.candidates import Candidate
from prm.search.choice import choose, count_votes


def candidate(
    reward: float | None, answer: str | None = None, end: End = "end", aggregation: str = "min"
) -> Candidate:
    score = ChainScore(
        "", {"correctness": ()}, {"correctness": reward}, reward, "correctness", aggregation
    )
    return Candidate("a", ("a",), end, score, answer, reason="" if reward is not None else "none")


def test_best_is_the_highest_reward_and_the_first_of_equals() -> None:
    found = choose("p", [candidate(0.2), candidate(0.7, "5"), candidate(0.7, "6")], "best")
    assert (found.best, found.answer, found.reason) == (1, "5", "")
    assert found.chosen is found.candidates[1]


def test_what_was_cut_off_counts_only_where_nothing_is_complete() -> None:
    cut = candidate(0.9, end="length")
    assert choose("p", [cut, candidate(0.1)], "best").best == 1
    assert choose("p", [cut, candidate(None)], "best").best == 0


def test_nothing_to_choose_says_why() -> None:
    found = choose("p", [candidate(None), candidate(None)], "best")
    assert (found.best, found.answer, found.reason) == (None, None, "none")
    assert choose("p", [], "best").reason == "no candidates"
    no_answer = choose("p", [candidate(0.5), candidate(0.9, end="length")], "majority")
    assert (no_answer.best, no_answer.reason) == (None, "no complete candidate has a final answer")


def test_majority_counts_and_weighted_vote_weighs() -> None:
    candidates = [candidate(0.1, "1"), candidate(0.8, "21"), candidate(0.2, "1"), candidate(0.3)]
    majority = choose("p", candidates, "majority")
    assert (majority.answer, majority.best, majority.votes) == ("1", 0, {"1": 2.0, "21": 1.0})
    weighted = choose("p", candidates, "weighted_vote")
    assert (weighted.answer, weighted.best) == ("21", 1)
    assert weighted.votes == pytest.approx({"21": 0.8, "1": 0.3})


def test_best_voter_of_a_weighted_answer_is_chosen() -> None:
    candidates = [candidate(0.3, "1"), candidate(0.5, "2"), candidate(0.4, "1")]
    assert choose("p", candidates, "weighted_vote").best == 2


def test_unscored_and_incomplete_candidates_have_no_weight() -> None:
    candidates = [candidate(None, "1"), candidate(0.1, "2"), candidate(0.9, "3", end="length")]
    assert choose("p", candidates, "weighted_vote").votes == {"2": 0.1}
    assert choose("p", candidates, "majority").votes == {"1": 1.0, "2": 1.0}


def test_weights_are_probabilities() -> None:
    assert candidate(0.25).vote == 0.25
    assert candidate(-1000.0, aggregation="mean_logit").vote == 0.0
    assert candidate(2.0, aggregation="mean_logit").vote == pytest.approx(1 / (1 + math.exp(-2)))
    outcome = ResponseScore("", "", 0, {}, None, {}, -1.0, "weighted_sum")
    vote = Candidate("a", ("a",), "end", outcome).vote
    assert vote == pytest.approx(1 / (1 + math.e))
    assert candidate(None).vote == 0.0


def test_votes_are_sorted_and_ties_keep_their_order() -> None:
    votes = count_votes(["b", "a", None, "c", "a"], [1, 1, 9, 2, 1])
    assert list(votes.items()) == [("a", 2), ("c", 2), ("b", 1)]
