"""One batch, one update: however it is cut, and whatever labels are missing."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from prm.aggregation.objectives import WeightedSum
from prm.data.batches import micro_batch
from prm.data.items import LabeledItem, item_of
from prm.data.labels import Labeler
from prm.data.planning import MicroBatchPlan, plan_micro_batches
from prm.losses.cost import SignAwareCost
from prm.losses.plackett_luce import PlackettLuce
from prm.losses.preference import BradleyTerry
from prm.losses.probit import GaussianPreference
from prm.losses.rating import (
    BinaryCrossEntropy,
    CumulativeLink,
    GaussianLikelihood,
    MeanSquaredError,
    Pinball,
)
from prm.losses.ties import Davidson, RaoKupper
from prm.models.reward_model import RewardModel
from prm.records import Comparison, Outcome, Rating
from prm.training.losses import BatchLoss, ResponseLosses
from prm.training.objectives import ResponseObjective
from prm.trees.units import ResponseSet
from tests.outcome_models import outcome_model
from tests.tolerance import assert_same_gradients

VALUES = (1.0, 0.0, 0.0, 1.0)


def pair(index: int, name: str, tied: bool = False) -> list[Outcome]:
    """Return a comparison, and ratings of both of its responses for the same objective."""
    texts = [f"Yes, {index}.", f"No, it is {index * 7} and not {index}."]
    prompt = f"Is it {index % 3}?"
    decided = [0, 0] if tied else [index % 2, 1 - index % 2]
    ratings = [
        Rating(prompt, text, {name: VALUES[(index + i) % 4]}) for i, text in enumerate(texts)
    ]
    strength = None if tied else 1.0 + index
    return [Comparison(prompt, texts, decided, objective=name, strength=strength), *ratings]


def ranking(index: int, name: str) -> list[Outcome]:
    """Return a ranking of four responses with a tie in the middle."""
    texts = [f"{word} {index}" for word in ("one", "two or three", "four", "five, six, seven")]
    return [Comparison(f"Count {index}!", texts, [1, 0, 2, 1], objective=name)]


def sets(*names: str) -> list[ResponseSet]:
    """Return response sets of different lengths, some of which label each of the objectives."""
    return [
        ResponseSet.of(records)
        for name in names
        for records in (
            *(pair(index, name, tied=index == 2) for index in range(5)),
            *(ranking(index, name) for index in range(2)),
        )
    ]


OBJECTIVES: dict[str, dict[str, Any]] = {
    "BradleyTerry": {"preference": BradleyTerry()},
    "BradleyTerry-scaled": {
        "preference": BradleyTerry(strength="scale", ties="half", center=0.01, label_smoothing=0.1)
    },
    "BradleyTerry-minimized": {"preference": BradleyTerry(), "direction": "minimize"},
    "PlackettLuce": {"preference": PlackettLuce()},
    "Davidson": {"preference": Davidson()},
    "RaoKupper": {"preference": RaoKupper()},
    "SignAwareCost": {"preference": SignAwareCost(), "direction": "minimize"},
    "GaussianPreference": {"preference": GaussianPreference(), "readout": "gaussian"},
    "BinaryCrossEntropy": {"rating": BinaryCrossEntropy(0.1, 3.0)},
    "MeanSquaredError": {"rating": MeanSquaredError()},
    "CumulativeLink": {"rating": CumulativeLink(3)},
    "Pinball": {"rating": Pinball(), "readout": "quantile"},
    "GaussianLikelihood": {"rating": GaussianLikelihood(), "readout": "gaussian"},
    "both": {"preference": Davidson(), "rating": CumulativeLink(2), "loss_weight": 0.3},
}


def objective(kind: str, name: str = "main") -> ResponseObjective:
    return ResponseObjective(name, **copy.deepcopy(OBJECTIVES[kind]))


def model_for(objectives: Sequence[ResponseObjective]) -> RewardModel:
    specs = tuple(item.spec for item in objectives)
    return outcome_model(response_heads=specs, objective_aggregation=WeightedSum())


@functools.cache
def _shared_model() -> RewardModel:
    return outcome_model()


def labeled(units: Sequence[ResponseSet]) -> list[LabeledItem]:
    """Return tokenized response sets; all tiny models have the same tokenizer."""
    tokens = [_shared_model().builder.build(unit) for unit in units]
    return [item_of(unit, item) for unit, item in zip(units, tokens, strict=True)]


def gradients(
    objectives: Sequence[ResponseObjective],
    units: Sequence[ResponseSet],
    max_tokens: int = 10_000,
    learn_weights: bool = False,
    fillers: int = 0,
) -> dict[str, Tensor]:
    """Return the gradient of one optimizer step, as `RewardTask.training_step` makes it."""
    model = model_for(objectives)
    loss = BatchLoss([ResponseLosses(objectives, model.spec)], learn_weights)
    if loss.uncertainty is not None:
        nn.init.normal_(loss.uncertainty.log_variances, generator=torch.Generator().manual_seed(0))
    both = nn.ModuleDict({"model": model, "loss": loss})
    both.zero_grad()
    labeler = Labeler([], [item.name for item in objectives])
    items = labeled(units)
    lengths = [item.tree.num_tokens for item in items]
    plans = plan_micro_batches(range(len(items)), lengths, max_tokens)
    plans += [MicroBatchPlan((0,), filler=True)] * fillers
    totals = loss.totals(labeler(items))
    for plan in plans:
        batch = micro_batch(plan, items, labeler)
        sums = loss.sums(batch, model(batch.trees), None)
        loss.mean(sums, totals, 1 / len(plans)).backward()
    return {name: value.grad for name, value in both.named_parameters() if value.grad is not None}


def assert_close(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    assert_same_gradients([actual[name] for name in expected], list(expected.values()))


@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize("learn_weights", [False, True], ids=["fixed", "learned"])
def test_the_update_does_not_depend_on_how_the_batch_is_cut(kind: str, learn_weights: bool) -> None:
    objectives, units = [objective(kind)], sets("main")
    whole = gradients(objectives, units, learn_weights=learn_weights)
    assert whole["model.heads.layers.weight"].abs().max() > 1e-4
    assert all(grad.any() for name, grad in whole.items() if name.startswith("loss."))
    longest = max(item.tree.num_tokens for item in labeled(units))
    for max_tokens in (longest, 2 * longest):
        assert_close(gradients(objectives, units, max_tokens, learn_weights), whole)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_fillers_add_nothing(kind: str) -> None:
    objectives, units = [objective(kind)], sets("main")
    expected = gradients(objectives, units, learn_weights=True)
    assert_close(gradients(objectives, units, learn_weights=True, fillers=3), expected)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_a_filler_alone_gives_every_parameter_a_gradient_of_zero(kind: str) -> None:
    """Ranks exchange gradients after every pass, so that even a filler needs all of them."""
    objectives = [objective(kind)]
    model = model_for(objectives)
    loss = BatchLoss([ResponseLosses(objectives, model.spec)], learn_weights=True)
    items, labeler = labeled(sets("main")), Labeler([], ["main"])
    batch = micro_batch(MicroBatchPlan((0,), filler=True), items, labeler)
    both = nn.ModuleDict({"model": model, "loss": loss})
    both.zero_grad()
    totals = loss.totals(labeler(items))
    loss.mean(loss.sums(batch, model(batch.trees), None), totals, share=0.0).backward()
    for name, parameter in both.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


@given(order=st.permutations(range(7)))
@settings(max_examples=4)
def test_the_order_of_a_batch_does_not_matter(order: list[int]) -> None:
    objectives, units = [objective("both")], sets("main")
    expected = gradients(objectives, units)
    assert_close(gradients(objectives, [units[index] for index in order], 120), expected)


def rows(found: dict[str, Tensor], names: Sequence[ResponseObjective]) -> dict[str, Tensor]:
    """Return the gradient of the head's rows of each objective."""
    weight = found["model.heads.layers.weight"]
    sizes = [item.spec.num_columns for item in names]
    return dict(zip([item.name for item in names], weight.split(sizes), strict=True))


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_missing_labels_give_a_head_exactly_no_gradient(kind: str) -> None:
    objectives = [objective(kind, "a"), objective("BradleyTerry", "b"), objective(kind, "c")]
    found = rows(gradients(objectives, sets("b")), objectives)
    assert not found["a"].any()
    assert not found["c"].any()
    assert found["b"].any()


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_records_of_other_objectives_leave_a_heads_gradient_as_it_is(kind: str) -> None:
    """The mean over an objective's labels does not count records that lack it."""
    objectives = [objective(kind, "a"), objective("MeanSquaredError", "b")]
    alone = rows(gradients(objectives, sets("a")), objectives)
    mixed = rows(gradients(objectives, sets("a", "b"), 120), objectives)
    assert_same_gradients([mixed["a"]], [alone["a"]])
    assert mixed["b"].any()


def test_a_learned_weight_without_labels_stays() -> None:
    objectives = [objective("BradleyTerry", "a"), objective("MeanSquaredError", "b")]
    found = gradients(objectives, sets("b"), learn_weights=True)["loss.uncertainty.log_variances"]
    assert found[0] == 0.0
    assert found[1] != 0.0


def test_a_null_rating_is_no_label() -> None:
    known = Rating("1 + 1?", "2", {"a": 1.0, "b": None})
    objectives = [objective("MeanSquaredError", "a"), objective("MeanSquaredError", "b")]
    found = rows(gradients(objectives, [ResponseSet.of([known])]), objectives)
    assert found["a"].any()
    assert not found["b"].any()


def reversed_pairs(units: Sequence[ResponseSet]) -> list[ResponseSet]:
    """Return the comparisons of pairs with better and worse exchanged."""
    compared = [unit.records[0] for unit in units if isinstance(unit.records[0], Comparison)]
    return [
        ResponseSet.of(
            [Comparison(found.prompt, found.responses, found.ranks[::-1], objective="main")]
        )
        for found in compared
        if len(found.responses) == 2
    ]


def test_minimize_is_maximize_of_the_opposite() -> None:
    units = reversed_pairs(sets("main"))
    low = gradients([objective("BradleyTerry-minimized")], units)
    high = gradients([objective("BradleyTerry")], reversed_pairs(units))
    assert_close(low, high)
