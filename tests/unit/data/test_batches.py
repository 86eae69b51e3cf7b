"""Batches: labels beside the reads they belong to, and fillers that count for nothing."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_models import character_tokenizer

from prm.data.batches import micro_batch, optimizer_batch
from prm.data.items import LabeledChain
from prm.data.labels import Labeler, step_labels
from prm.data.planning import MicroBatchPlan, plan_micro_batches
from prm.records import Chain
from prm.spec import RewardSpec
from prm.trees.identity import add_marker
from prm.trees.tokenize import TreeBuilder

NAN = math.nan
OBJECTIVES = ("correctness", "clarity")
LABELER = Labeler(OBJECTIVES, [])

RECORDS = (
    Chain("ab", ["c", "", "def"], [1, None, 0]),
    Chain("ab", ["gh"], {"clarity": [0.25]}),
    Chain("xyz", ["a", "b", "c"], {"correctness": [None, 0.99, 1], "clarity": [0, 1, None]}),
)


@pytest.fixture(scope="module")
def chains() -> list[LabeledChain]:
    return labeled(RewardSpec())


def labeled(spec: RewardSpec) -> list[LabeledChain]:
    tokenizer = character_tokenizer()
    add_marker(tokenizer, spec)
    builder = TreeBuilder(tokenizer, spec)
    return [LabeledChain(chain, builder.build(chain)) for chain in RECORDS]


def same(actual: torch.Tensor, expected: list[list[float]]) -> None:
    torch.testing.assert_close(actual, torch.tensor(expected), equal_nan=True)


def test_labels_follow_the_reads(chains: list[LabeledChain]) -> None:
    labels = step_labels(chains, OBJECTIVES)
    same(labels.labels, [[1, NAN], [0, NAN], [NAN, 0.25], [NAN, 0], [0.99, 1], [1, NAN]])
    assert labels.chain.tolist() == [0, 0, 1, 2, 2, 2]
    assert labels.step.tolist() == [0, 2, 0, 0, 1, 2]
    assert labels.num_tokens.tolist() == [2, 4, 3, 2, 2, 2]


def test_soft_labels_stay_float(chains: list[LabeledChain]) -> None:
    labels = step_labels(chains, OBJECTIVES).labels
    assert labels.dtype == torch.float32
    assert labels[4, 0].item() == pytest.approx(0.99)


def test_truncated_steps_bring_no_label() -> None:
    labels = step_labels(labeled(RewardSpec(max_length=7)), ["correctness"])
    same(labels.labels, [[1], [NAN], [NAN]])


def test_no_chains_is_an_empty_table() -> None:
    assert step_labels([], OBJECTIVES).labels.shape == (0, 2)


def test_a_micro_batch_holds_its_records_in_order(chains: list[LabeledChain]) -> None:
    batch = micro_batch(MicroBatchPlan((2, 0)), chains, LABELER)
    assert batch.records == (2, 0)
    assert batch.labels.steps.step.tolist() == [0, 1, 2, 0, 2]
    assert batch.trees.read_tree.tolist() == batch.labels.steps.chain.tolist()
    markers = batch.trees.input_ids[batch.trees.reads]
    assert markers.unique().numel() == 1


def test_a_filler_is_computed_and_counts_for_nothing(chains: list[LabeledChain]) -> None:
    batch = micro_batch(MicroBatchPlan((0,), filler=True), chains, LABELER)
    assert batch.trees.num_tokens > 0
    assert batch.records == ()
    assert batch.labels.steps.labels.isnan().all()


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_ranks_share_a_batch_and_know_all_its_labels(
    chains: list[LabeledChain], num_ranks: int
) -> None:
    lengths = [item.tokens.tree.num_tokens for item in chains]
    plans = plan_micro_batches(range(3), lengths, 12, num_ranks)
    shares = [optimizer_batch(plans, chains, LABELER, rank, num_ranks) for rank in range(num_ranks)]
    assert len({len(share.micro_batches) for share in shares}) == 1
    records = [r for share in shares for batch in share.micro_batches for r in batch.records]
    assert sorted(records) == [0, 1, 2]
    for share in shares:
        assert share.num_records == 3
        assert share.labels.steps.labels.equal(shares[0].labels.steps.labels) or torch.allclose(
            share.labels.steps.labels, shares[0].labels.steps.labels, equal_nan=True
        )
    assert int((~shares[0].labels.steps.labels.isnan()).sum()) == 7


def test_moving_keeps_everything(chains: list[LabeledChain]) -> None:
    batch = optimizer_batch([MicroBatchPlan((0, 1))], chains, LABELER)
    moved = batch.to("cpu")
    assert moved.num_records == 2
    assert moved.micro_batches[0].records == (0, 1)
    assert moved.micro_batches[0].trees.input_ids.equal(batch.micro_batches[0].trees.input_ids)
