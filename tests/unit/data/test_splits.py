"""Splits by group, and the control that permutes labels and nothing else."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prm.data.splits import shuffled, split_by_group
from prm.records import Chain, Comparison, Rating
from prm.trees.units import ResponseSet

Unit = Chain | ResponseSet


def unit(group: str, is_chain: bool) -> Unit:
    if is_chain:
        return Chain("q", ["1"], [1], group=group)
    return ResponseSet.of([Rating("q", "a", {"safety": 1}, group=group)])


units = st.lists(st.builds(unit, st.sampled_from("abcdefghij"), st.booleans()), max_size=30)
shares = st.fixed_dictionaries(
    {"validation": st.sampled_from([0.0, 0.1, 0.4]), "test": st.sampled_from([0.0, 0.3])}
)


@given(units, shares, st.integers(0, 5))
def test_a_group_is_in_one_part_and_no_unit_is_lost(
    items: list[Unit], parts: dict[str, float], seed: int
) -> None:
    found = split_by_group(items, parts, seed)
    assert list(found) == [*parts, "train"]
    owner = {item.group: name for name, members in found.items() for item in members}
    for name, members in found.items():
        assert members == [item for item in items if owner[item.group] == name]
    assert sum(map(len, found.values())) == len(items)


@given(units, shares, st.integers(0, 5))
def test_a_split_depends_on_the_groups_and_the_seed_only(
    items: list[Unit], parts: dict[str, float], seed: int
) -> None:
    found = split_by_group(items, parts, seed)
    again = split_by_group(items[::-1], parts, seed)
    assert {name: members[::-1] for name, members in again.items()} == found


def test_shares_are_shares_of_groups() -> None:
    items = [unit(str(index % 20), index % 2 == 0) for index in range(100)]
    found = split_by_group(items, {"validation": 0.1, "test": 0.25}, 0)
    groups = {name: len({item.group for item in members}) for name, members in found.items()}
    assert groups == {"validation": 2, "test": 5, "train": 13}


def test_a_share_above_0_is_at_least_one_group() -> None:
    found = split_by_group([unit("a", True), unit("b", False)], {"validation": 0.01}, 0)
    assert [len(members) for members in found.values()] == [1, 1]


# The control with shuffled labels

RANKED = [
    ResponseSet.of([Comparison(f"q{i}", ["good", "bad"], objective="safety", votes=[3, 1])])
    for i in range(200)
]
RATED = [
    ResponseSet.of(
        [
            Rating(f"q{i}", "a", {"safety": i % 2, "style": i}),
            Rating(f"q{i}", "b", {"safety": None, "style": -i - 1}),
        ]
    )
    for i in range(50)
]
CHAINS = [Chain(f"q{i}", ["1", "2"], [1, i / 100]) for i in range(50)]


def ratings(sets: list[Unit], name: str) -> list[float | None]:
    return [
        record.values[name]
        for item in sets
        for record in item.records
        if isinstance(record, Rating)
    ]


@pytest.mark.parametrize("name", ["safety", "style"])
def test_ratings_are_permuted_within_their_objective(name: str) -> None:
    found = shuffled(RATED, 0)
    before, after = ratings(list(RATED), name), ratings(found, name)
    assert before != after
    assert Counter(before) == Counter(after)
    assert [value is None for value in before] == [value is None for value in after]


def test_a_comparison_is_tossed_and_keeps_its_ranks_and_votes() -> None:
    found = shuffled(RANKED, 0)
    assert {record.ranks for item in found for record in item.records} == {(0, 1)}  # type: ignore[union-attr]
    assert {record.votes for item in found for record in item.records} == {(3, 1)}  # type: ignore[union-attr]
    flipped = sum(item.records[0].responses == ("bad", "good") for item in found)  # type: ignore[union-attr]
    assert 70 < flipped < 130


def test_prompts_and_responses_stay_where_they_were() -> None:
    for old, new in zip(RATED + RANKED, shuffled(RATED + RANKED, 3), strict=True):
        assert isinstance(new, ResponseSet)
        assert new.prompt == old.prompt
        assert set(new.responses) == set(old.responses)


def test_labels_of_chains_stay_among_chains() -> None:
    mixed = [item for pair in zip(CHAINS, RATED, strict=True) for item in pair]
    found = shuffled(mixed, 0)
    assert [type(item) for item in found] == [type(item) for item in mixed]
    chains = [item for item in found if isinstance(item, Chain)]
    assert chains == shuffled(CHAINS, 0) != CHAINS
    labels = [value for chain in chains for value in chain.labels["correctness"]]
    assert Counter(labels) == Counter(
        value for chain in CHAINS for value in chain.labels["correctness"]
    )


def test_the_control_is_the_same_for_every_rank() -> None:
    assert shuffled(RATED + RANKED, 5) == shuffled(RATED + RANKED, 5) != shuffled(RATED + RANKED, 6)
