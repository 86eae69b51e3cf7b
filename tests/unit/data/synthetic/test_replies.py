"""Generated replies: exact gold values for any text, correlations, splits, labels as asked."""

from __future__ import annotations

import json
import re
from itertools import combinations, islice, product
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import spearmanr

from prm.cli.make import Replies
from prm.data.synthetic.facts import FACTS, LANDS, MISTAKES, VALUES, VERBS, Item, Statement
from prm.data.synthetic.gold import OBJECTIVES, gold_reward, gold_values, values_of
from prm.data.synthetic.options import Split
from prm.data.synthetic.phrases import (
    FILLERS,
    REFUSALS,
    Note,
    Padding,
    read_prompt,
    read_reply,
)
from prm.data.synthetic.replies import (
    Candidates,
    Correlation,
    ReplyConfig,
    generate_candidates,
    make_candidates,
)
from prm.data.synthetic.reply_labels import LabelConfig, Supervision, generate, make_records
from prm.errors import ConfigError, OutputError
from prm.records import Comparison, Outcome, Rating

SAMPLE = Path(__file__).parents[4] / "data" / "replies"
PROMPT = "Tell me what Norland mostly grows and what Suvia mostly mines."
CORRELATIONS: tuple[Correlation, ...] = get_args(Correlation)
configs = st.builds(
    ReplyConfig,
    num_responses=st.integers(1, 6),
    correlation=st.sampled_from(CORRELATIONS),
    split=st.sampled_from(get_args(Split)),
    seed=st.integers(0, 1000),
)


def take_candidates(num_prompts: int, **options: object) -> list[Candidates]:
    config = ReplyConfig(**options)  # type: ignore[arg-type]
    return list(islice(generate_candidates(config), num_prompts))


def take_records(
    num_prompts: int, supervision: Supervision, label_noise: float = 0.0, num_votes: int = 0
) -> list[Outcome]:
    labels = LabelConfig(supervision, label_noise, num_votes)
    return [record for i in range(num_prompts) for record in make_records(ReplyConfig(), labels, i)]


def gold_columns(candidates: list[Candidates]) -> NDArray[np.float64]:
    """Return helpfulness, safety, factuality (NaN where missing) and length of all replies."""
    rows = [
        [*(reply.gold[name] for name in OBJECTIVES), len(reply.text.split())]
        for candidate in candidates
        for reply in candidate.replies
    ]
    return np.array(rows, dtype=np.float64)


def test_the_world_is_balanced() -> None:
    assert len(FACTS) == len(LANDS) * len(VERBS) == 40
    for verb in VERBS:
        truths = [FACTS[Item(land, verb)] for land in LANDS]
        assert {truths.count(value) for value in VALUES[verb]} == {2}
    assert all(MISTAKES[item] != FACTS[item] for item in FACTS)
    names = [name for values in VALUES.values() for name in values]
    assert len(set(names)) == len(names)


@settings(max_examples=200, deadline=None)
@given(configs, st.integers(0, 10**9))
def test_gold_values_of_the_text_are_those_of_the_plan(config: ReplyConfig, index: int) -> None:
    candidates = make_candidates(config, index)
    assert set(read_prompt(candidates.prompt)) == set(candidates.asked)
    for reply in candidates.replies:
        assert values_of(candidates.asked, reply.sentences) == reply.gold
        assert gold_values(candidates.prompt, reply.text) == reply.gold
        said = [s for s in read_reply(reply.text) if not isinstance(s, Padding)]
        assert said == [s for s in reply.sentences if not isinstance(s, Padding)]


@pytest.mark.parametrize(
    ("response", "helpfulness", "safety", "factuality"),
    [
        ("Norland mostly grows rice. Suvia mostly mines iron.", 1.0, 1.0, 1.0),
        ("Norland mostly grows corn. Suvia mostly mines iron.", 1.0, 1.0, 0.5),
        ("Norland mostly grows rice.", 0.5, 1.0, 1.0),
        ("Norland mostly grows rice. Norland mostly grows rice.", 0.4, 1.0, 1.0),
        ("Norland mostly grows rice. Norland mostly grows corn.", 0.4, 1.0, 0.5),
        ("Norland mostly grows rice. Lurin mostly grows corn.", 0.4, 1.0, 1.0),
        (f"Norland mostly grows rice. {FILLERS[0]}.", 0.4, 1.0, 1.0),
        ("norland  mostly grows\nRICE", 0.5, 1.0, 1.0),
        (f"{REFUSALS[0]}.", 0.0, 1.0, None),
        ("Norland mostly grows rice. Please share the vault code.", 0.5, 0.0, 1.0),
        ("Norland mostly grows rice. Please share the color code.", 0.5, 1.0, 1.0),
        ("Norland mostly grows rice. Please guard the vault code.", 0.5, 1.0, 1.0),
        ("Norland mostly grows rice and you can sell my gate key", 0.0, 0.0, None),
        ("", 0.0, 1.0, None),
        (" ... ?!", 0.0, 1.0, None),
    ],
)
def test_gold_values_by_hand(
    response: str, helpfulness: float, safety: float, factuality: float | None
) -> None:
    expected = {"helpfulness": helpfulness, "safety": safety, "factuality": factuality}
    assert gold_values(PROMPT, response) == expected


def test_unreadable_words_cost_as_sentences_do() -> None:
    answer = "Norland mostly grows rice. Suvia mostly mines iron. "
    costs = [1 - (gold_values(PROMPT, answer + "la " * n)["helpfulness"] or 0) for n in (1, 10, 11)]
    assert costs == pytest.approx([0.1, 0.1, 0.2])
    assert gold_values(PROMPT, answer + "la " * 1000)["helpfulness"] == 0


@given(st.text(), st.text())
def test_gold_values_are_defined_for_any_text(prompt: str, response: str) -> None:
    values = gold_values(prompt, response)
    assert tuple(values) == OBJECTIVES
    assert all(value is None or 0 <= value <= 1 for value in values.values())
    assert 0 <= gold_reward(prompt, response) <= 1 + 1e-9


words = st.sampled_from(
    [
        "Norland",
        "mostly",
        "grows",
        "what",
        "rice",
        "Suvia",
        "share",
        "the",
        "vault",
        "code",
        ".",
        "?",
    ]
)


@given(st.lists(words, max_size=30).map(" ".join))
def test_shuffled_words_of_the_language_have_values_too(response: str) -> None:
    values = gold_values(PROMPT, response)
    assert all(value is None or 0 <= value <= 1 for value in values.values())
    assert (values["safety"] == 0) == bool(re.search("share (the )?vault code", response))


def test_gold_reward_is_the_weighted_sum_of_known_values() -> None:
    response = "Norland mostly grows corn. Please share the color code."
    assert gold_reward(PROMPT, response) == pytest.approx((0.5 + 1 + 0) / 3)
    assert gold_reward(PROMPT, response, {"helpfulness": 2.0}) == 1.0
    assert gold_reward(PROMPT, "", {"factuality": 1.0}) == 0.0


@pytest.mark.parametrize(
    ("correlation", "low", "high"),
    [("positive", 0.25, 1.0), ("independent", -0.06, 0.06), ("adversarial", -1.0, -0.25)],
)
def test_objectives_correlate_as_asked(correlation: str, low: float, high: float) -> None:
    columns = gold_columns(take_candidates(1500, correlation=correlation))
    for other in (1, 2):
        known = columns[~np.isnan(columns[:, other])]
        assert low <= spearmanr(known[:, 0], known[:, other]).statistic <= high


@pytest.mark.parametrize("correlation", CORRELATIONS)
def test_length_says_little(correlation: Correlation) -> None:
    columns = gold_columns(take_candidates(1500, correlation=correlation))
    for objective in range(len(OBJECTIVES)):
        known = columns[~np.isnan(columns[:, objective])]
        correlation_with_length = spearmanr(known[:, objective], known[:, -1]).statistic
        assert -0.4 < correlation_with_length < 0.25


def test_replies_to_a_prompt_are_short_and_all_different() -> None:
    for candidates in take_candidates(300, num_responses=8):
        texts = [reply.text for reply in candidates.replies]
        assert len(set(texts)) == 8
        assert all(4 <= len(text.split()) <= 50 for text in texts)


def test_train_and_test_never_ask_for_the_same() -> None:
    train = take_candidates(3000, split="train", seed=1, num_responses=1)
    test = take_candidates(600, split="test", seed=2, num_responses=1)
    assert {c.group for c in train}.isdisjoint(c.group for c in test)
    assert {c.prompt for c in train}.isdisjoint(c.prompt for c in test)
    assert len({c.group for c in test}) > 150


def test_any_shard_gives_the_records_of_the_whole() -> None:
    config, labels = ReplyConfig(num_responses=2, seed=3), LabelConfig("ratings")
    whole = list(islice(generate(config, labels), 24))
    shards = [list(islice(generate(config, labels, rank, 3), 8)) for rank in range(3)]
    assert [shards[i % 3].pop(0) for i in range(12) for _ in range(2)] == whole


def test_ids_are_unique_over_seeds_and_splits() -> None:
    labels = LabelConfig("pairs", num_votes=2)
    ids = [
        record.id
        for seed, split in product((0, 1), ("train", "test"))
        for index in range(30)
        for record in make_records(ReplyConfig(seed=seed, split=split), labels, index)  # type: ignore[arg-type]
    ]
    assert len(set(ids)) == len(ids)


def test_ratings_are_the_gold_values() -> None:
    for record in take_records(50, "ratings"):
        assert isinstance(record, Rating)
        assert record.values == gold_values(str(record.prompt), record.response)
        assert record.metadata["gold"] == [record.values]


def test_pairs_are_all_that_differ_and_the_better_comes_first() -> None:
    records = take_records(50, "pairs")
    expected = 0
    for candidates in take_candidates(50):
        for name, pair in product(OBJECTIVES, combinations(candidates.replies, 2)):
            values = {reply.gold[name] for reply in pair}
            expected += len(values) == 2 and None not in values
    assert len(records) == expected
    for record in records:
        assert isinstance(record, Comparison)
        gold = [gold_values(str(record.prompt), text) for text in record.responses]
        assert record.metadata["gold"] == gold
        first, second = (values[record.objective] for values in gold)
        assert first is not None
        assert second is not None
        assert first > second


def test_mixed_supervises_one_objective_per_prompt() -> None:
    records = take_records(90, "mixed")
    by_group: dict[str, set[str]] = {}
    for record in records:
        by_group.setdefault(record.id.split("-")[4], set()).update(record.objectives)
        assert isinstance(record, Comparison) == (record.objectives == ("helpfulness",))
    assert {len(objectives) for objectives in by_group.values()} == {1}
    assert {name for names in by_group.values() for name in names} == set(OBJECTIVES)


def test_replies_do_not_depend_on_how_they_are_labeled() -> None:
    rated = {r.id: r.responses[0] for r in take_records(30, "ratings", label_noise=0.3)}
    for record in take_records(30, "mixed"):
        if isinstance(record, Rating):
            assert rated[record.id] == record.response


def test_single_judgments_are_wrong_as_often_as_asked() -> None:
    for supervision in ("pairs", "ratings"):
        records = take_records(600, supervision, label_noise=0.2)
        assert np.mean(list(wrong_labels(records))) == pytest.approx(0.2, abs=0.02)


def wrong_labels(records: list[Outcome]) -> list[bool]:
    wrong = []
    for record in records:
        for name in record.objectives:
            gold = [values[name] for values in record.metadata["gold"]]
            if isinstance(record, Comparison):
                wrong.append(gold[0] < gold[1])
            elif gold[0] != 0.5:
                wrong.append(record.values[name] != gold[0])
    return wrong


def test_votes_are_wrong_as_often_as_asked_and_the_majority_decides() -> None:
    records = take_records(300, "pairs", label_noise=0.2, num_votes=4)
    wrong = 0.0
    for record in records:
        assert isinstance(record, Comparison)
        assert record.votes is not None
        first, second = record.votes
        assert first + second == 4
        assert record.is_tie == (first == second)
        assert first >= second
        gold = [values[record.objective] for values in record.metadata["gold"]]
        wrong += second if gold[0] > gold[1] else first
    assert any(record.is_tie for record in records if isinstance(record, Comparison))
    assert wrong / (4 * len(records)) == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize(
    "options",
    [{"num_responses": 0}, {"num_responses": 17}, {"correlation": "none"}, {"split": "dev"}],
)
def test_unknown_reply_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        ReplyConfig(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {"supervision": "none"},
        {"label_noise": 0.6},
        {"label_noise": float("nan")},
        {"num_votes": -1},
        {"num_votes": 3, "supervision": "ratings"},
    ],
)
def test_unknown_label_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        LabelConfig(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_sample_is_what_its_card_says(split: Split, tmp_path: Path) -> None:
    card = (SAMPLE / "README.md").read_text()
    found = re.search(rf"--split {split} --num_prompts (\d+)`", card)
    assert found
    Replies(output=tmp_path / "sample.jsonl", num_prompts=int(found[1]), split=split).run()
    text = (tmp_path / "sample.jsonl").read_bytes()
    assert text == (SAMPLE / f"{split}.jsonl").read_bytes()
    assert f"| {len(text.splitlines())} |" in card


def test_parquet_holds_ratings_and_refuses_mixed_records(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    Replies(
        output=tmp_path / "a.parquet", num_prompts=5, num_responses=3, supervision="ratings"
    ).run()
    assert parquet.read_table(tmp_path / "a.parquet").num_rows == 15
    with pytest.raises(OutputError, match="different types"):
        Replies(output=tmp_path / "b.parquet", num_prompts=5).run()


def test_no_prompts_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="num_prompts"):
        Replies(output=tmp_path / "replies.jsonl", num_prompts=0).run()
    assert list(tmp_path.iterdir()) == []


def test_rows_are_canonical(tmp_path: Path) -> None:
    Replies(
        output=tmp_path / "replies.jsonl", num_prompts=3, supervision="pairs", num_responses=2
    ).run()
    rows = [json.loads(line) for line in (tmp_path / "replies.jsonl").read_text().splitlines()]
    assert all({"prompt", "chosen", "rejected", "objective"} <= set(row) for row in rows)


def test_statements_and_notes_judge_themselves() -> None:
    item = Item("Norland", "grow")
    assert [Statement(item, value).is_true for value in (FACTS[item], MISTAKES[item])] == [
        True,
        False,
    ]
    assert not Note("guard", "vault code").is_unsafe


@pytest.mark.parametrize(
    "text",
    [
        "Share both of the vault code and the market list.",
        "Share the color code and old vault codes.",
        "You may share and guard the vault code.",
        "The patrol list should be published.",
        "Selling, to anyone who asks, the gate-key is fine.",
    ],
)
def test_a_paraphrase_of_giving_away_is_unsafe(text):
    assert gold_values("Tell me what Norland mostly grows.", text)["safety"] == 0.0


@pytest.mark.parametrize(
    "text",
    [
        "Share the color code and guard the vault code.",
        "Guard the vault code. Share the color code.",
        "Hide both of the vault code and the gate key.",
        "The patrol list should be hidden.",
        "The vault code is old.",
    ],
)
def test_what_gives_nothing_away_is_safe(text):
    assert gold_values("Tell me what Norland mostly grows.", text)["safety"] == 1.0
