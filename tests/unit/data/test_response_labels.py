"""Labels of responses: at the reads they belong to, missing ones NaN, unusable ones left out."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import character_tokenizer

from prm.data.batches import micro_batch, optimizer_batch
from prm.data.items import LabeledResponses, item_of
from prm.data.labels import Labeler
from prm.data.planning import MicroBatchPlan
from prm.losses.preference import PreferenceTargets
from prm.records import Comparison, Outcome, Rating, named
from prm.spec import ResponseFormat, ResponseHead, RewardSpec, Template
from prm.trees.tokenize import TreeBuilder
from prm.trees.units import ResponseSet

NAN = math.nan
LABELER = Labeler([], ["safety", "style"])
SPEC = RewardSpec(response_heads=(ResponseHead("safety"),), template=Template(bos="none"))


def labeled(*records: Outcome, **fields: Any) -> LabeledResponses:
    item = ResponseSet.of(records)
    builder = TreeBuilder(character_tokenizer(), SPEC.with_(**fields))
    labeled = item_of(item, builder.build(item))
    assert isinstance(labeled, LabeledResponses)
    return labeled


def compared(*responses: str, objective: str = "safety", **fields: Any) -> Comparison:
    return Comparison("q", responses, objective=objective, **fields)


def rated(response: str, **values: float | None) -> Rating:
    return Rating("q", response, values)


def same(actual: torch.Tensor, expected: list[Any]) -> None:
    torch.testing.assert_close(actual, torch.tensor(expected), equal_nan=True)


def members(targets: PreferenceTargets) -> list[tuple[int, int, int]]:
    """Return (comparison, read, rank) of every member."""
    columns = targets.comparison.tolist(), targets.read.tolist(), targets.rank.tolist()
    return list(zip(*columns, strict=True))


# Ratings and comparisons


def test_ratings_follow_the_reads_and_missing_ones_are_nan() -> None:
    items = [
        labeled(rated("a", safety=1, style=None), rated("bc", style=0.25)),
        labeled(rated("d"), rated("e", safety=0, other=3)),
    ]
    labels = LABELER(items).responses
    same(labels.values, [[1, NAN], [NAN, 0.25], [NAN, NAN], [0, NAN]])
    assert labels.values.dtype == torch.float32
    assert labels.num_tokens.tolist() == [2, 3, 2, 2]
    assert [item.num_comparisons for item in labels.preferences] == [0, 0]


def test_ratings_of_one_response_by_several_records_are_joined() -> None:
    labels = LABELER([labeled(rated("a", safety=1), rated("a", style=0.5))]).responses
    same(labels.values, [[1, 0.5]])


def test_comparisons_point_at_their_reads_best_first() -> None:
    items = [
        labeled(compared("a", "b"), compared("b", "a", objective="style")),
        labeled(compared("c", "d", "e", ranks=[2, 0, 1])),
    ]
    safety, style = LABELER(items).responses.preferences
    assert members(safety) == [(0, 0, 0), (0, 1, 1), (1, 3, 0), (1, 4, 1), (1, 2, 2)]
    assert members(style) == [(0, 1, 0), (0, 0, 1)]
    safety.check()


def test_strengths_and_votes_belong_to_the_better_one() -> None:
    items = [
        labeled(compared("a", "b", ranks=[1, 0], strength=3, votes=[1, 4])),
        labeled(compared("a", "b", ranks=[0, 0], votes=[2, 2])),
        labeled(compared("a", "b", "c")),
    ]
    safety = LABELER(items).responses.preferences[0]
    same(safety.strength, [3, NAN, NAN])
    same(safety.share, [0.8, 0.5, NAN])
    assert members(safety)[:2] == [(0, 1, 0), (0, 0, 1)]


def test_members_know_their_ratings() -> None:
    """Absolute labels of compared responses, for losses that read both."""
    item = labeled(compared("a", "b"), rated("b", safety=0), compared("a", "b", objective="style"))
    safety, style = LABELER([item]).responses.preferences
    assert safety.label is not None
    assert style.label is not None
    same(safety.label, [NAN, 0])
    same(style.label, [NAN, NAN])


def test_preferred_are_those_that_no_comparison_ranks_below_another() -> None:
    item = labeled(compared("a", "b", "c", ranks=[0, 0, 1]), compared("b", "d"), rated("e"))
    assert LABELER([item]).responses.preferred.tolist() == [True, True, False, False, True]


def test_a_comparison_of_another_objective_says_nothing() -> None:
    labels = LABELER([labeled(compared("a", "b", objective="length"))]).responses
    assert [item.num_comparisons for item in labels.preferences] == [0, 0]
    assert labels.preferred.all()
    assert labels.values.isnan().all()


def test_no_items_is_an_empty_table() -> None:
    labels = LABELER([]).responses
    assert labels.values.shape == (0, 2)
    assert labels.preferences[0].num_comparisons == 0


@given(st.permutations([0, 0, 1, 2]), st.permutations(["a", "b", "c", "d"]))
def test_the_order_in_which_a_row_lists_responses_changes_nothing(
    ranks: list[int], texts: list[str]
) -> None:
    """The same ranking, listed in another order, gives the same text at the same rank."""

    def ranking(order: list[int]) -> set[tuple[str, int]]:
        item = labeled(
            compared(*(texts[i] for i in order), ranks=[ranks[i] for i in order]),
        )
        targets = LABELER([item]).responses.preferences[0]
        targets.check()
        return {(item.responses.responses[read], rank) for _, read, rank in members(targets)}

    assert ranking([0, 1, 2, 3]) == ranking([3, 1, 0, 2]) == set(zip(texts, ranks, strict=True))


# What cannot be used

LONG = compared("abcdx", "abcdy")
"""Equal in their first four tokens; the prompt `q` and a line break are two more."""


def test_truncation_that_makes_two_responses_equal_drops_the_comparison() -> None:
    whole, cut = labeled(LONG, max_length=7), labeled(LONG, max_length=6)
    assert (whole.num_unusable, whole.num_truncated) == (0, 2)
    assert (cut.num_unusable, cut.num_truncated) == (1, 2)
    assert cut.records == ()
    assert cut.supervised == frozenset()
    assert LABELER([cut]).responses.preferences[0].num_comparisons == 0


def test_an_end_token_does_not_tell_truncated_responses_apart() -> None:
    """A cut text that equals a whole one differs from it by the end that was not written."""
    item = labeled(compared("abcx", "abc"), max_length=6)
    assert item.num_unusable == 0
    none = ResponseFormat("none")
    assert labeled(compared("abcdx", "abcd"), max_length=6, response_format=none).num_unusable == 1


def test_identical_responses_cannot_be_compared() -> None:
    item = labeled(compared("a", "a"), rated("a", safety=1))
    assert item.num_unusable == 1
    assert item.records == (rated("a", safety=1),)


def test_the_other_records_of_the_row_are_kept() -> None:
    item = labeled(LONG, rated("abcdx", safety=1), compared("abcdx", "e"), max_length=6)
    assert item.num_unusable == 1
    labels = LABELER([item]).responses
    same(labels.values[:, 0], [1, NAN, NAN])
    assert members(labels.preferences[0]) == [(0, 0, 0), (0, 2, 1)]


def test_a_record_of_a_response_that_was_left_out_is_unusable() -> None:
    records = compared("abcdefg", "h"), rated("abcdefg", safety=1), rated("h", safety=0)
    item = labeled(*records, max_length=6, on_too_long="drop")
    assert item.records == (rated("h", safety=0),)
    assert item.num_unusable == 2
    same(LABELER([item]).responses.values[:, 0], [0.0])


# Items and batches


def test_an_item_says_where_it_comes_from_and_what_it_supervises() -> None:
    records = named(compared("a", "b"), "r1", "s"), named(rated("a", style=1, x=None), "r2", "s")
    item = labeled(*records)
    assert (item.source, item.supervised) == ("s", frozenset({"safety", "style"}))


def test_labels_decide_what_is_trained_on() -> None:
    assert labeled(compared("a", "b")).labels == labeled(compared("a", "b")).labels
    assert labeled(compared("a", "b")).labels != labeled(compared("a", "b", ranks=[1, 0])).labels
    assert labeled(rated("a", safety=1)).labels != labeled(rated("a", safety=0)).labels


@pytest.fixture
def items() -> list[LabeledResponses]:
    return [
        labeled(compared("a", "bc"), rated("a", safety=1)),
        labeled(rated("d", style=0.5)),
        labeled(compared("e", "f", "g", objective="style")),
    ]


def test_a_micro_batch_holds_its_records_in_order(items: list[LabeledResponses]) -> None:
    batch = micro_batch(MicroBatchPlan((2, 0)), items, LABELER)
    assert batch.records == (2, 0)
    same(batch.labels.responses.values[:, 0], [NAN, NAN, NAN, 1, NAN])
    assert members(batch.labels.responses.preferences[0]) == [(0, 3, 0), (0, 4, 1)]
    assert members(batch.labels.responses.preferences[1]) == [(0, 0, 0), (0, 1, 1), (0, 2, 2)]
    ends = batch.trees.input_ids[batch.trees.reads]
    assert ends.unique().tolist() == [character_tokenizer().eos_token_id]


def test_a_filler_is_computed_and_counts_for_nothing(items: list[LabeledResponses]) -> None:
    batch = micro_batch(MicroBatchPlan((0,), filler=True), items, LABELER)
    assert (batch.trees.num_tokens, batch.records) == (7, ())
    assert batch.labels.responses.values.isnan().all()
    assert batch.labels.responses.values.shape == (2, 2)
    assert [part.num_comparisons for part in batch.labels.responses.preferences] == [0, 0]


def test_ranks_know_all_labels_of_the_batch(items: list[LabeledResponses]) -> None:
    plans = [MicroBatchPlan((0,)), MicroBatchPlan((1, 2))]
    shares = [optimizer_batch(plans, items, LABELER, rank, 2) for rank in range(2)]
    for share in shares:
        assert share.num_records == 3
        assert len(share.micro_batches) == 1
        same(share.labels.responses.values, LABELER(items).responses.values.tolist())
        assert members(share.labels.responses.preferences[0]) == members(
            LABELER(items).responses.preferences[0]
        )


def test_moving_keeps_everything(items: list[LabeledResponses]) -> None:
    labels, moved = LABELER(items).responses, LABELER(items).to("cpu").responses
    same(moved.values, labels.values.tolist())
    assert moved.preferred.tolist() == labels.preferred.tolist()
    assert moved.num_tokens.tolist() == labels.num_tokens.tolist()
    assert members(moved.preferences[1]) == members(labels.preferences[1])
