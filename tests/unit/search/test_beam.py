from __future__ import annotations

import pytest

from prm.errors import ConfigError
from prm.generators.generator import Sample
from prm.records import Chain
from prm.scoring.scorer import RewardScorer
from prm.scoring.session import ScoringSession
from prm.search.beam import beam_search
from prm.search.candidates import SearchResult
from tests.outcome_models import outcome_model
from tests.tiny_models import tiny_model
from tests.toy_generator import Continue, ToyGenerator, tree

PROMPT = "What is 1 + 0 + 1 + 2?"


@pytest.fixture(scope="module")
def scorer() -> RewardScorer:
    return RewardScorer(tiny_model(), step_aggregation="mean_logit")


def all_chains(follow: Continue, prefix: str = "") -> list[list[str]]:
    """Every finished chain of a toy generator, depth first."""
    found = []
    for sample in follow(prefix):
        text = prefix + sample.text
        if sample.end == "end":
            found.append(text.split("\n"))
        else:
            found += all_chains(follow, text + "\n")
    return found


def beams_by_hand(
    scorer: RewardScorer, follow: Continue, width: int, rounds: int
) -> list[set[tuple[str, ...]]]:
    """The chains that are kept in each round, from a scorer that remembers nothing."""
    kept: list[tuple[str, ...]] = [()]
    history = []
    for _ in range(rounds):
        longer = []
        for chain in kept:
            longer += [(*chain, s.text) for s in follow("".join(f"{step}\n" for step in chain))]
        scores = scorer.score([(PROMPT, list(chain)) for chain in longer])
        rewards = {chain: score.reward for chain, score in zip(longer, scores, strict=True)}
        kept = sorted(rewards, key=lambda chain: -rewards[chain])[:width]
        history.append(set(kept))
    return history


def search(scorer: RewardScorer, follow: Continue, **options: int) -> SearchResult:
    (found,) = beam_search(scorer, ToyGenerator(follow), [PROMPT], **options)
    return found


def test_wide_beam_finds_the_best_of_all_chains(scorer: RewardScorer) -> None:
    follow = tree(branches=3, depth=3)
    chains = all_chains(follow)
    rewards = [score.reward for score in scorer.score([(PROMPT, chain) for chain in chains])]
    found = search(scorer, follow, width=27, expand=3)
    assert found.chosen is not None
    assert found.chosen.is_complete
    assert list(found.chosen.steps) == chains[rewards.index(max(rewards))]
    assert found.chosen.reward == pytest.approx(max(rewards), abs=1e-5)
    complete = [one.steps for one in found.candidates if one.is_complete]
    assert sorted(complete) == sorted(map(tuple, chains))


@pytest.mark.parametrize("width", [1, 2, 4])
def test_narrow_beam_keeps_what_a_search_by_hand_keeps(scorer: RewardScorer, width: int) -> None:
    follow = tree(branches=3, depth=4)
    rounds = beams_by_hand(scorer, follow, width, 4)
    found = search(scorer, follow, width=width, expand=3)
    parents = {one.parent for one in found.candidates if one.parent is not None}
    grown = {found.candidates[index].steps for index in parents}
    assert grown == set.union(*rounds[:-1])
    assert found.chosen is not None
    assert found.chosen.steps in rounds[-1]


def test_scores_equal_the_offline_scores(scorer: RewardScorer) -> None:
    found = search(scorer, tree(branches=2, depth=3), width=3, expand=2)
    for one in found.candidates:
        offline = scorer.score((PROMPT, list(one.steps)))[0]
        assert one.reward == pytest.approx(offline.reward, abs=1e-5)
        assert one.score.probabilities == pytest.approx(offline.probabilities, abs=1e-5)


def test_a_grown_chain_costs_its_new_tokens(scorer: RewardScorer) -> None:
    """What is computed is every different beginning once, however many chains share it."""
    session = ScoringSession(scorer)
    found = search(session, tree(branches=2, depth=4), width=16, expand=2)
    trees = [scorer.builder.build(Chain(PROMPT, one.steps)).tree for one in found.candidates]
    paths = [[token for part in own.segments for token in part.input_ids] for own in trees]
    beginnings = {tuple(path[:end]) for path in paths for end in range(1, len(path) + 1)}
    assert session.stats.computed == len(beginnings)
    assert session.stats.requested > 4 * session.stats.computed


def test_equal_chains_of_a_round_count_once(scorer: RewardScorer) -> None:
    found = search(scorer, tree(branches=2, depth=2), width=3, expand=4)
    steps = [one.steps for one in found.candidates]
    assert len(steps) == len(set(steps)) == 2 + 4


def test_finished_chains_stay_in_the_comparison(scorer: RewardScorer) -> None:
    """One chain ends at once; the others go on and are worse, or better, than it."""

    def follow(prefix: str) -> list[Sample]:
        last = prefix.count("\n") == 2
        return [
            Sample("2", "end") if not prefix else Sample("so", "end" if last else "step"),
            Sample("3 * 4 = 12", "end" if last else "step"),
        ]

    found = search(scorer, follow, width=4, expand=2)
    complete = [one for one in found.candidates if one.is_complete]
    assert complete[0].steps == ("2",)
    assert found.chosen is max(complete, key=lambda one: one.reward)
    assert all(one.parent != found.candidates.index(complete[0]) for one in found.candidates)


def test_beginning_of_a_kept_chain_is_never_chosen() -> None:
    """By the weakest step a chain is at most as good as its beginnings."""
    scorer = RewardScorer(tiny_model(), step_aggregation="min")
    found = search(scorer, tree(branches=2, depth=9), width=2, expand=2, max_steps=4)
    assert found.chosen is not None
    assert len(found.chosen.steps) == 4
    last = [one.reward for one in found.candidates if len(one.steps) == 4]
    assert found.chosen.reward == max(last)
    assert found.chosen.reward < found.candidates[0].reward


def test_search_ends_after_max_steps(scorer: RewardScorer) -> None:
    found = search(scorer, tree(branches=2, depth=9), width=2, expand=2, max_steps=3)
    assert max(len(one.steps) for one in found.candidates) == 3
    assert found.chosen is not None
    assert (found.chosen.end, found.answer, len(found.chosen.steps)) == ("step", None, 3)


def test_blank_steps_are_passed_over_but_not_forever(scorer: RewardScorer) -> None:
    def follow(prefix: str) -> list[Sample]:
        if prefix == "\n":
            return [Sample("1 + 1 = 2", "step")]
        return [Sample("", "step")]

    generator = ToyGenerator(follow)
    (found,) = beam_search(scorer, generator, [PROMPT], width=1, expand=1)
    assert [one.response for one in found.candidates] == [
        "\n",
        "\n1 + 1 = 2\n",
        "\n1 + 1 = 2\n\n",
        "\n1 + 1 = 2\n\n\n",
    ]
    assert len(generator.requests) == 4


def test_end_without_new_text_finishes_the_chain(scorer: RewardScorer) -> None:
    def follow(prefix: str) -> list[Sample]:
        return [Sample("", "end") if prefix else Sample("1 + 1 = 2", "step")]

    found = search(scorer, follow, width=1, expand=1)
    assert found.chosen is not None
    assert (found.chosen.steps, found.answer) == (("1 + 1 = 2",), "2")
    assert found.chosen.reward == found.candidates[0].reward


def test_steps_that_the_model_cuts_off_are_not_grown(scorer: RewardScorer) -> None:
    def follow(prefix: str) -> list[Sample]:
        return [Sample("1 + 1 = 2 " * 100 if prefix else "1 + 1 = 2", "step")]

    short, long = search(scorer, follow, width=1, expand=1).candidates
    assert (short.num_truncated, long.num_truncated) == (0, 1)
    assert long.reward == pytest.approx(short.reward)


def test_step_that_leaves_no_room_for_the_prompt_is_dropped(scorer: RewardScorer) -> None:
    found = search(scorer, lambda prefix: [Sample("1 + 1 = 2 " * 100, "step")], expand=1)
    assert len(found.candidates) == 1
    assert found.best is None
    assert found.reason.startswith("prompt leaves no room")


def test_prompts_are_searched_together_and_apart_alike(scorer: RewardScorer) -> None:
    prompts = [PROMPT, "What is 2 + 3 * 4?", "1 + 1 = ?"]
    follow = tree(branches=2, depth=3)
    together = beam_search(scorer, ToyGenerator(follow, [prompts[1]]), prompts, width=2, expand=2)
    assert together[1].candidates == ()
    assert together[1].reason.startswith("no such prompt")
    for found in together[::2]:
        (alone,) = beam_search(scorer, ToyGenerator(follow), [found.prompt], width=2, expand=2)
        assert (alone.best, alone.answer) == (found.best, found.answer)


def test_refusal_on_the_way_is_the_reason(scorer: RewardScorer) -> None:
    generator = ToyGenerator(tree(branches=2, depth=3))
    first = generator.sample

    def once(requests, stop=None):
        found = first(requests, stop)
        generator.refused = [PROMPT]
        return found

    generator.sample = once
    (found,) = beam_search(scorer, generator, [PROMPT], width=1, expand=2)
    assert len(found.candidates) == 2
    assert (found.best, found.reason) == (None, f"no such prompt: got {PROMPT}")


def test_votes_among_finished_chains(scorer: RewardScorer) -> None:
    (found,) = beam_search(
        scorer, ToyGenerator(tree(2, 2)), [PROMPT], width=4, expand=2, choice="majority"
    )
    assert found.votes == {"3": 2.0, "2": 1.0, "4": 1.0}
    assert found.answer == "3"


def test_wrong_options(scorer: RewardScorer) -> None:
    for name in ("width", "expand", "max_steps"):
        with pytest.raises(ConfigError, match=f"{name} is wrong"):
            search(scorer, tree(1, 1), **{name: 0})
    with pytest.raises(ConfigError, match="does not score steps"):
        search(RewardScorer(outcome_model()), tree(1, 1))
