"""Meters: by objective and source whatever their names, and one number to choose by."""

from __future__ import annotations

import pytest
import torch
from tiny_models import character_tokenizer

from prm.aggregation.objectives import WeightedSum
from prm.data.items import Facts, item_of
from prm.data.labels import Labeler
from prm.metrics.responses import ResponseMetrics
from prm.metrics.steps import StepMetrics
from prm.records import Chain, Comparison, Rating
from prm.spec import ResponseHead, RewardSpec, StepHead
from prm.training.meters import Meters, ResponseMeters, StepMeters
from prm.training.reads import Reads, ResponseReads, StepReads
from prm.trees.identity import add_marker
from prm.trees.tokenize import TreeBuilder
from prm.trees.units import ResponseSet

SOURCES = ["keys", "a.b/c"]
"""Names that a module could not have."""

NAMES = ("safety", "style.v2")
SPEC = RewardSpec(
    step_heads=(StepHead(),),
    response_heads=tuple(map(ResponseHead, NAMES)),
    objective_aggregation=WeightedSum(),
)


def items_of(*units):
    tokenizer = character_tokenizer()
    add_marker(tokenizer, SPEC)
    builder = TreeBuilder(tokenizer, SPEC)
    return [item_of(unit, builder.build(unit)) for unit in units]


def step_meters(sources, taken=()):
    items = items_of(*(Chain("q", ["a", "b"], [1, 0], source=name) for name in SOURCES))
    logits = torch.tensor([[2.0], [-2.0], [-1.0], [1.0]])
    index = torch.tensor([0, 0, 1, 1])
    reads = Reads(StepReads((0, 1), index, torch.tensor([0, 1, 0, 1]), logits), None)
    meters = StepMeters("correctness", 0, sources, taken)
    meters.count(items, reads)
    return meters.values()


def test_steps_are_measured_over_all_chains_and_by_source():
    values = step_meters(SOURCES)
    assert values["step_auroc"] == 0.75
    assert (values["keys/step_auroc"], values["a.b/c/step_auroc"]) == (1, 0)
    assert (values["keys/error_acc"], values["a.b/c/error_acc"]) == (1, 0)
    assert len(values) == 3 * len(StepMetrics.metrics)


def test_one_source_is_not_measured_twice():
    assert list(step_meters(["keys"])) == [metric.name for metric in StepMetrics.metrics]


def test_a_source_called_as_an_objective_keeps_its_metrics():
    values = step_meters(SOURCES, taken=("keys", "reward"))
    assert (values["steps/keys/step_auroc"], values["a.b/c/step_auroc"]) == (1, 0)
    assert "keys/step_auroc" not in values


def test_chains_that_cannot_be_read_count_as_wrong():
    short = RewardSpec(step_heads=(StepHead(),), chain_reward="correctness", max_length=8)
    tokenizer = character_tokenizer()
    add_marker(tokenizer, short)
    whole, cut = Chain("q", ["a"], [1], source="a"), Chain("q", ["a", "b" * 9], [1, 1], source="a")
    builder = TreeBuilder(tokenizer, short)
    items = [item_of(chain, builder.build(chain)) for chain in (whole, cut)]
    assert items[1].num_truncated == 1
    lost = Chain("too long", ["b" * 9], [0], source="b")
    meters = Meters(short, Facts.of(items), (), [lost])
    index = torch.tensor([0, 1])
    reads = StepReads((0, 1), index, torch.tensor([0, 0]), torch.tensor([[2.0], [2.0]]))
    meters.count(items, Reads(reads, None))
    values = meters.values()
    assert (values["correct_acc"], values["a/correct_acc"], values["b/error_acc"]) == (0.5, 0.5, 0)


def response_meters(sources=SOURCES):
    pair = Comparison("q", ["a", "b"], objective="safety", source="keys")
    ratings = [
        Rating(f"q{n}", "abc", {"style.v2": n % 2}, source="a.b/c" if n < 2 else "keys")
        for n in range(4)
    ]
    items = items_of(*(ResponseSet.of([record]) for record in (pair, *ratings)))
    labels = Labeler(["correctness"], NAMES)(items).responses
    scores = torch.tensor([[3.0, 0], [1, 0], [0, 1], [0, 2], [0, 4], [0, 3]])
    owner = torch.tensor([0, 0, 1, 2, 3, 4])
    reads = ResponseReads(tuple(range(5)), owner, scores, labels)
    meters = ResponseMeters(SPEC, sources)
    meters.count(items, Reads(None, reads))
    return meters.values()


def test_responses_are_measured_by_objective_and_source():
    values = response_meters()
    assert values["safety/pair_accuracy"] == values["safety/keys/pair_accuracy"] == 1
    assert values["reward/pair_accuracy"] == values["reward/keys/pair_accuracy"] == 1
    assert values["style.v2/auroc"] == 0.5
    assert (values["style.v2/a.b/c/auroc"], values["style.v2/keys/auroc"]) == (1, 0)
    undecided = ("safety/auroc", "safety/a.b/c/pair_accuracy", "style.v2/pair_accuracy")
    assert not set(undecided) & set(values)
    known = {metric.name for metric in ResponseMetrics.metrics} | {"ranking"}
    assert {name.rpartition("/")[2] for name in values} <= known


def test_ranking_is_the_mean_over_objectives():
    assert response_meters()["ranking"] == pytest.approx((1 + 0.5) / 2)
