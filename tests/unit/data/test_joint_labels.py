"""Labels of chains and responses that are packed together: each kind at its own reads."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import character_tokenizer

from prm.data.batches import micro_batch
from prm.data.joint_labels import JointLabeler, response_part, step_part
from prm.data.planning import MicroBatchPlan
from prm.data.response_labels import LabeledResponses, ResponseLabeler, label
from prm.data.step_labels import LabeledChain, StepLabeler
from prm.records import Chain, Comparison, Rating
from prm.spec import ResponseHead, RewardSpec, StepHead
from prm.trees.identity import add_marker
from prm.trees.tokenize import TreeBuilder
from prm.trees.tokenize_responses import ResponseTreeBuilder
from prm.trees.units import ResponseSet

SPEC = RewardSpec(step_heads=(StepHead(),), response_heads=(ResponseHead("safety"),))
LABELER = JointLabeler(["correctness"], ["safety"])
Item = LabeledChain | LabeledResponses


def _items() -> list[Item]:
    tokenizer = character_tokenizer()
    add_marker(tokenizer, SPEC)
    chains, sets = TreeBuilder(tokenizer, SPEC), ResponseTreeBuilder(tokenizer, SPEC)
    pair = ResponseSet.of([Comparison("q", ["a", "b"], objective="safety")])
    rating = ResponseSet.of([Rating("q", "abc", {"safety": 0.25})])
    one, two = Chain("q", ["a", "b"], [1, 0]), Chain("q", ["c"], [0.5])
    return [
        label(pair, sets.build(pair)),
        LabeledChain(one, chains.build(one)),
        label(rating, sets.build(rating)),
        LabeledChain(two, chains.build(two)),
    ]


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
    labels = batch.targets
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


def test_parts_are_found_in_joint_labels_and_in_those_of_one_kind() -> None:
    joint = LABELER(ITEMS)
    assert step_part(joint) == (joint.steps, joint.step_reads)
    assert response_part(joint) == (joint.responses, joint.response_reads)
    steps = StepLabeler(["correctness"])([ITEMS[1]])
    responses = ResponseLabeler(["safety"])([ITEMS[0]])
    assert step_part(steps) == (steps, slice(None))
    assert response_part(responses) == (responses, slice(None))


def test_moving_keeps_everything() -> None:
    labels, moved = LABELER(ITEMS), LABELER(ITEMS).to("cpu")
    assert moved.step_reads.tolist() == labels.step_reads.tolist()
    assert moved.response_reads.tolist() == labels.response_reads.tolist()
    assert moved.steps.labels.equal(labels.steps.labels)
