"""What must hold for every loss of outcome heads."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from comparisons import targets_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prm.errors import ConfigError
from prm.losses.cost import SignAwareCost
from prm.losses.plackett_luce import PlackettLuce
from prm.losses.preference import BradleyTerry, PreferenceLoss, PreferenceTargets
from prm.losses.probit import GaussianPreference
from prm.losses.rating import (
    BinaryCrossEntropy,
    CumulativeLink,
    GaussianLikelihood,
    MeanSquaredError,
    Pinball,
    RatingLoss,
)
from prm.losses.readouts import ResponseLoss
from prm.losses.ties import Davidson, RaoKupper

NAN = math.nan
PREFERENCE: list[Callable[[], PreferenceLoss]] = [
    BradleyTerry,
    lambda: BradleyTerry("half", 0.1, True, "margin", 0.01),
    lambda: BradleyTerry(strength="scale"),
    GaussianPreference,
    lambda: GaussianPreference("half", 0.1, True),
    Davidson,
    RaoKupper,
    PlackettLuce,
    SignAwareCost,
    lambda: SignAwareCost("half", 0.1, 0.5),
]
RATING: list[Callable[[], RatingLoss]] = [
    MeanSquaredError,
    BinaryCrossEntropy,
    lambda: BinaryCrossEntropy(0.1, 3.0),
    lambda: CumulativeLink(2),
    lambda: CumulativeLink(4),
    Pinball,
    GaussianLikelihood,
]
preference = pytest.mark.parametrize("make", PREFERENCE)
rating = pytest.mark.parametrize("make", RATING)
every = pytest.mark.parametrize("make", [*PREFERENCE, *RATING])

VALUES = torch.tensor([1.0, 0.0, NAN, 1.0, 0.0])
"""Ratings that every rating loss takes."""


def targets() -> PreferenceTargets:
    """Two pairs, a tie, a ranking of three; 9 members with some labels."""
    return targets_of(
        [0, 1],
        [0, 1],
        [0, 0],
        [0, 1, 1],
        strength=[2.0, NAN, NAN, NAN],
        share=[0.75, NAN, NAN, NAN],
        label=[1.0, 0.0, NAN, 0.0, NAN, NAN, 1.0, NAN, 0.0],
    )


def sum_of(loss: ResponseLoss, columns: Tensor) -> Tensor:
    if isinstance(loss, PreferenceLoss):
        return loss.sum(columns, loss.readouts[0], 1, targets())
    assert isinstance(loss, RatingLoss)
    return loss.sum(columns, loss.readouts[0], VALUES)


def columns_for(loss: ResponseLoss, size: float = 1.0) -> Tensor:
    num_reads = 9 if isinstance(loss, PreferenceLoss) else 5
    return torch.randn(num_reads, loss.num_columns) * size


def assert_finite_gradients(loss: ResponseLoss, columns: Tensor) -> None:
    total = sum_of(loss, columns.requires_grad_())
    total.backward()
    assert total.isfinite()
    for tensor in (columns, *loss.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


def subclasses(cls: type[Any]) -> set[type[Any]]:
    direct = set(cls.__subclasses__())
    return direct.union(*(subclasses(child) for child in direct))


def test_no_loss_is_forgotten() -> None:
    tested = {type(make()) for make in (*PREFERENCE, *RATING)}
    abstract = {"PreferenceLoss", "RatingLoss"}
    defined = {c for c in subclasses(ResponseLoss) if c.__module__.startswith("prm.")}
    assert {cls.__name__ for cls in defined - tested} == abstract


@every
def test_extremes_have_finite_loss_and_gradient(make: Callable[[], ResponseLoss]) -> None:
    loss = make()
    num_reads = len(columns_for(loss))
    for signs in itertools.product((-1e4, 0.0, 1e4), repeat=loss.num_columns):
        for alternate in (1.0, -1.0):
            columns = torch.tensor([signs]).repeat(num_reads, 1)
            columns[::2, 0] *= alternate
            assert_finite_gradients(loss, columns)


@every
def test_half_precision_and_autocast_are_computed_in_float32(
    make: Callable[[], ResponseLoss],
) -> None:
    loss = make()
    half = columns_for(loss).bfloat16()
    expected = sum_of(loss, half.float())
    torch.testing.assert_close(sum_of(loss, half), expected, rtol=0, atol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(sum_of(loss, half), expected, rtol=0, atol=0)


@every
def test_nothing_labeled_is_zero_with_a_graph(make: Callable[[], ResponseLoss]) -> None:
    """Every parameter gets a gradient of 0, so that no rank waits for one that never comes."""
    loss = make()
    for num_reads in (0, 3):
        columns = torch.full((num_reads, loss.num_columns), NAN, requires_grad=True)
        loss.zero_grad()
        if isinstance(loss, PreferenceLoss):
            total = loss.sum(columns, loss.readouts[0], 1, targets_of())
        else:
            assert isinstance(loss, RatingLoss)
            total = loss.sum(columns, loss.readouts[0], torch.full((num_reads,), NAN))
        total.backward()
        assert total.item() == 0.0
        for tensor in (columns, *loss.parameters()):
            assert tensor.grad is not None
            assert (tensor.grad == 0).all()


@pytest.mark.parametrize("junk", [NAN, math.inf, -math.inf, 1e30])
@preference
def test_reads_without_a_comparison_never_enter(
    make: Callable[[], PreferenceLoss], junk: float
) -> None:
    """Also those of a tie, if the loss does not count ties."""
    loss, labels = make(), targets_of([0, 1], [0, 0])
    used = torch.ones(4).bool()
    used[2:] = bool(loss.weights(labels)[1])
    columns = torch.randn(7, loss.num_columns)
    columns[4:], columns[:4][~used] = junk, junk
    columns.requires_grad_()
    total = loss.sum(columns, loss.readouts[0], 1, labels)
    total.backward()
    assert total.isfinite()
    assert columns.grad is not None
    assert columns.grad.isfinite().all()
    assert (columns.grad[4:] == 0).all()
    assert columns.grad[:2].any()


@pytest.mark.parametrize("junk", [NAN, math.inf, -math.inf, 1e30])
@rating
def test_reads_without_a_rating_never_enter(make: Callable[[], RatingLoss], junk: float) -> None:
    loss = make()
    columns = columns_for(loss)
    expected = sum_of(loss, columns)
    columns[2] = junk
    columns.requires_grad_()
    total = sum_of(loss, columns)
    total.backward()
    torch.testing.assert_close(total, expected, rtol=0, atol=0)
    assert columns.grad is not None
    assert columns.grad.isfinite().all()
    assert (columns.grad[2] == 0).all()
    assert columns.grad[[0, 1, 3, 4]].any(dim=1).all()


@preference
def test_one_value_per_comparison(make: Callable[[], PreferenceLoss]) -> None:
    """The value of a comparison depends on its own reads alone."""
    loss = make()
    columns = columns_for(loss).requires_grad_()
    values = loss.per_comparison(columns, loss.readouts[0], 1, targets())
    assert values.shape == loss.weights(targets()).shape == (4,)
    for number, value in enumerate(values):
        (gradient,) = torch.autograd.grad(value, columns, retain_graph=True)
        others = targets().comparison != number
        assert (gradient[others] == 0).all()


@preference
def test_permuting_the_losers_changes_the_loss(make: Callable[[], PreferenceLoss]) -> None:
    loss, labels = make(), targets_of([0, 1], [0, 1])
    columns = columns_for(loss)[:4]
    whole = loss.sum(columns, loss.readouts[0], 1, labels)
    permuted = loss.sum(columns[[0, 3, 2, 1]], loss.readouts[0], 1, labels)
    assert not torch.isclose(whole, permuted)


@preference
def test_a_read_can_be_compared_twice(make: Callable[[], PreferenceLoss]) -> None:
    loss, labels = make(), targets_of([0, 1], [0, 1])
    shared = replace(labels, read=torch.tensor([0, 1, 0, 2]))
    columns = columns_for(loss)[:3]
    torch.testing.assert_close(
        loss.sum(columns, loss.readouts[0], 1, shared),
        loss.sum(columns[[0, 1, 0, 2]], loss.readouts[0], 1, labels),
    )


@preference
def test_gradients_raise_what_is_better(make: Callable[[], PreferenceLoss]) -> None:
    loss, labels = make(), targets_of([0, 1])
    for sign in (1, -1):
        columns = torch.zeros(2, loss.num_columns, requires_grad=True)
        loss.sum(columns, loss.readouts[0], sign, labels).backward()
        assert columns.grad is not None
        assert sign * columns.grad[0, 0] < 0 < sign * columns.grad[1, 0]


rankings = st.lists(
    st.lists(st.integers(0, 1), min_size=1, max_size=3).map(
        lambda steps: [0, *itertools.accumulate(steps)]
    ),
    min_size=2,
    max_size=5,
)


@given(st.sampled_from(PREFERENCE), rankings, st.data())
@settings(max_examples=60)
def test_preference_sums_over_micro_batches_are_the_whole(
    make: Callable[[], PreferenceLoss], ranks: list[list[int]], data: st.DataObject
) -> None:
    loss = make()
    bins = data.draw(st.lists(st.integers(0, 2), min_size=len(ranks), max_size=len(ranks)))
    columns = [torch.randn(len(r), loss.num_columns) for r in ranks]
    total, weight = torch.zeros(()), torch.zeros(())
    for name in set(bins):
        members = [i for i, b in enumerate(bins) if b == name]
        part = targets_of(*(ranks[i] for i in members))
        reads = torch.cat([columns[i] for i in members])
        total = total + loss.sum(reads, loss.readouts[0], 1, part)
        weight = weight + loss.weights(part).sum()
    whole = targets_of(*ranks)
    expected = loss.sum(torch.cat(columns), loss.readouts[0], 1, whole)
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(weight, loss.weights(whole).sum())


@given(
    st.sampled_from(RATING),
    st.lists(st.sampled_from([0.0, 1.0, NAN]), min_size=2, max_size=8),
    st.data(),
)
def test_rating_sums_over_micro_batches_are_the_whole(
    make: Callable[[], RatingLoss], ratings: list[float], data: st.DataObject
) -> None:
    loss, values = make(), torch.tensor(ratings)
    cut = data.draw(st.integers(0, len(ratings)))
    columns = torch.randn(len(ratings), loss.num_columns)
    parts = [(columns[:cut], values[:cut]), (columns[cut:], values[cut:])]
    total = sum(loss.sum(c, loss.readouts[0], v) for c, v in parts)
    expected = loss.sum(columns, loss.readouts[0], values)
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-5)
    weight = sum(loss.weights(v).sum() for _, v in parts)
    torch.testing.assert_close(weight, loss.weights(values).sum())


@every
def test_another_readout_or_width_is_refused(make: Callable[[], ResponseLoss]) -> None:
    loss = make()
    with pytest.raises(ConfigError, match=r"reads \d column"):
        sum_of(loss, torch.zeros(len(columns_for(loss)), loss.num_columns + 1))
    other = "value" if loss.readouts[0] != "value" else "gaussian"
    with pytest.raises(ConfigError, match="cannot train this readout"):
        loss.check_columns(columns_for(loss), other)  # type: ignore[arg-type]


@preference
def test_an_unknown_direction_is_refused(make: Callable[[], PreferenceLoss]) -> None:
    loss = make()
    for sign in (0, 2):
        with pytest.raises(ConfigError, match="sign is wrong"):
            loss.sum(columns_for(loss), loss.readouts[0], sign, targets())


@every
def test_what_was_learned_survives_saving(make: Callable[[], ResponseLoss]) -> None:
    loss, other = make(), make()
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter.add_(0.3)
    other.load_state_dict(loss.state_dict())
    columns = columns_for(loss)
    torch.testing.assert_close(sum_of(other, columns), sum_of(loss, columns))
