"""Labels of chains and responses that are packed together: each kind at its own reads."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import character_tokenizer

from prm.data.batches import micro_batch
from prm.data.items import LabeledChain, LabeledItem, item_of
from prm.data.labels import Labeler
from prm.data.planning import MicroBatchPlan
from prm.records import Chain, Comparison, Rating
from prm.spec import ResponseHead, RewardSpec, StepHead
from prm.trees.identity import add_marker
from prm.trees.tokenize import TreeBuilder
from prm.trees.units import ResponseSet

SPEC = RewardSpec(step_heads=(StepHead(),), response_heads=(ResponseHead("safety"),))
LABELER = Labeler(["correctness"], ["safety"])


def _items() -> list[LabeledItem]:
    tokenizer = character_tokenizer()
    add_marker(tokenizer, SPEC)
    builder = TreeBuilder(tokenizer, SPEC)
    pair = ResponseSet.of([Comparison("q", ["a", "b"], objective="safety")])
    rating = ResponseSet.of([Rating("q", "abc", {"safety": 0.25})])
    one, two = Chain("q", ["a", "b"], [1, 0]), Chain("q", ["c"], [0.5])
    return [item_of(unit, builder.build(unit)) for unit in (pair, one, rating, two)]


ITEMS = _items()


def test_golden_reads_of_each_kind() -> None:
    labels = LABELER(ITEMS)
    assert labels.response_reads.tolist() == [0, 1, 4]
    assert labels.step_reads.tolist() == [2, 3, 5]
    assert labels.steps.labels[:, 0].tolist() == [1, 0, 0.5]
    assert labels.steps.chain.tolist() == [0, 0, 1]
    assert labels.responses.values[:, 0].isnan().tolist() == [True, True, False]
    assert labels.responses.preferences[0].read.tolist() == [0, 1]


@given(st.lists(st.sampled_from(range(4)), min_size=1, max_size=6))
def test_every_read_belongs_to_one_kind_and_to_its_item(records: list[int]) -> None:
    batch = micro_batch(MicroBatchPlan(tuple(records)), ITEMS, LABELER)
    labels = batch.labels
    reads = torch.cat([labels.step_reads, labels.response_reads])
    assert sorted(reads.tolist()) == list(range(len(batch.trees.reads)))
    kinds = [isinstance(ITEMS[record], LabeledChain) for record in records]
    owners = batch.trees.read_tree
    assert all(kinds[owner] for owner in owners[labels.step_reads])
    assert not any(kinds[owner] for owner in owners[labels.response_reads])
    sizes = batch.trees.token_read[batch.trees.token_read >= 0].bincount()
    assert sizes[labels.step_reads].tolist() == labels.steps.num_tokens.tolist()
    assert sizes[labels.response_reads].tolist() == labels.responses.num_tokens.tolist()


@pytest.mark.parametrize("records", [(0, 2), (1, 3)])
def test_a_batch_of_one_kind_has_no_reads_of_the_other(records: tuple[int, ...]) -> None:
    labels = LABELER([ITEMS[record] for record in records])
    none, some = (labels.step_reads, labels.response_reads)[:: 1 if 0 in records else -1]
    assert none.numel() == 0
    assert some.tolist() == [0, 1, 2]


def test_a_filler_counts_for_nothing() -> None:
    labels = LABELER(ITEMS[:2], filler=True)
    assert labels.steps.labels.isnan().all()
    assert labels.responses.values.isnan().all()
    assert labels.responses.preferences[0].num_comparisons == 0
    assert (labels.step_reads.numel(), labels.response_reads.numel()) == (2, 2)


def test_a_kind_without_objectives_has_no_columns() -> None:
    steps = Labeler(["correctness"], [])([ITEMS[1]])
    assert steps.steps.labels.shape == (2, 1)
    assert steps.responses.values.shape == (0, 0)
    assert steps.responses.preferences == ()
    responses = Labeler([], ["safety"])([ITEMS[0]])
    assert responses.steps.labels.shape == (0, 0)
    assert responses.responses.values.shape == (2, 1)


def test_moving_keeps_everything() -> None:
    labels, moved = LABELER(ITEMS), LABELER(ITEMS).to("cpu")
    assert moved.step_reads.tolist() == labels.step_reads.tolist()
    assert moved.response_reads.tolist() == labels.response_reads.tolist()
    assert moved.steps.labels.equal(labels.steps.labels)
