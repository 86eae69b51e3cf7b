"""Process losses against independent references, at extremes, and on what carries no label."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import expit, log_expit, log_softmax
from torch import Tensor

from prm.errors import ConfigError
from prm.losses.steps import (
    BCE,
    MSE,
    CrossEntropy,
    QValueRanking,
    StepLoss,
    StepTargets,
    log_odds,
    num_columns,
)

NAN = math.nan
LOSSES: list[type[StepLoss]] = [BCE, CrossEntropy, MSE, QValueRanking]
every = pytest.mark.parametrize("cls", LOSSES)


def targets_of(*chains: list[float]) -> StepTargets:
    """Return the targets of chains given as lists of labels."""
    labels = [label for chain in chains for label in chain]
    return StepTargets(
        torch.tensor(labels, dtype=torch.float32),
        torch.tensor([i for i, chain in enumerate(chains) for _ in chain], dtype=torch.int64),
    )


def columns_for(loss: StepLoss | type[StepLoss], num_reads: int, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    columns = torch.randn(num_reads, num_columns(loss.readout), generator=generator) * scale
    return columns.requires_grad_()


def mean(loss: StepLoss, columns: Tensor, targets: StepTargets) -> float:
    return (loss.sum(columns, targets) / loss.weights(targets).sum()).item()


# Values


def test_bce_of_a_soft_label_by_hand() -> None:
    value = BCE().per_step(torch.tensor([[2.0]]), targets_of([0.99])).item()
    by_hand = -0.99 * math.log(expit(2.0)) - 0.01 * math.log(expit(-2.0))
    assert value == pytest.approx(by_hand, rel=1e-6)
    hard = BCE().per_step(torch.tensor([[2.0]]), targets_of([1.0])).item()
    assert abs(value - hard) > 0.01


@given(st.lists(st.tuples(st.floats(-50, 50), st.floats(0, 1)), min_size=1, max_size=6))
def test_bce_and_mse_equal_numpy(rows: list[tuple[float, float]]) -> None:
    logits, labels = np.float64(np.float32(rows)).T
    targets, columns = targets_of(labels.tolist()), torch.tensor(logits)[:, None].float()
    bce = -labels * log_expit(logits) - (1 - labels) * log_expit(-logits)
    rounding = 1e-5  # of logits of 50 in float32, which a small loss is the difference of
    np.testing.assert_allclose(BCE().per_step(columns, targets), bce, rtol=1e-5, atol=rounding)
    mse = (expit(logits) - labels) ** 2
    np.testing.assert_allclose(MSE().per_step(columns, targets), mse, rtol=1e-5, atol=1e-6)


@given(
    st.lists(
        st.tuples(st.floats(-50, 50), st.floats(-50, 50), st.floats(0, 1)), min_size=1, max_size=6
    )
)
def test_cross_entropy_equals_numpy(rows: list[tuple[float, float, float]]) -> None:
    table = np.float64(np.float32(rows))
    columns, labels = table[:, :2], table[:, 2]
    log_p = log_softmax(columns, axis=1)
    expected = -(1 - labels) * log_p[:, 0] - labels * log_p[:, 1]
    actual = CrossEntropy().per_step(torch.tensor(columns).float(), targets_of(labels.tolist()))
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_cross_entropy_equals_bce_on_the_log_odds() -> None:
    targets = targets_of([1, 0, 0.3, NAN])
    columns = columns_for(CrossEntropy, 4)
    odds = log_odds(columns, "softmax")[:, None]
    assert CrossEntropy().sum(columns, targets).item() == pytest.approx(
        BCE().sum(odds, targets).item(), rel=1e-6
    )


def ranking_by_loops(q: NDArray[Any], labels: list[float], zeta: float) -> float:
    """Equation 10 of arXiv 2410.11287, one rival after the other; the first state has Q = 0."""
    wrong = [q[i] + zeta for i, y in enumerate(labels) if y < 0.5]
    states = [0.0, *(q[i] for i, y in enumerate(labels) if y >= 0.5)]
    terms = []
    for t, own in enumerate(states):
        rivals = [*states[: t + 1], *wrong]
        top = max(rivals)
        terms.append(top + math.log(sum(math.exp(r - top) for r in rivals)) - own)
    counted = terms if wrong else terms[1:]  # without a wrong step the first state has no rival
    return sum(counted) / len(counted) if counted else 0.0


@pytest.mark.parametrize(
    ("values", "labels", "expected"),
    [
        ([1, 2, -1], [1, 1, 0], 2.2195),
        ([11, 12, 9], [1, 1, 0], 5.5115),
        ([-1, -3], [0, NAN], math.log1p(math.exp(3))),
        ([2], [1], math.log1p(math.exp(-2))),
        ([2, 1], [NAN, NAN], 0.0),
    ],
    ids=["paper", "moved", "wrong from the start", "clean", "unlabeled"],
)
def test_ranking_by_hand(values: list[float], labels: list[float], expected: float) -> None:
    loss = QValueRanking(4.0).sum(torch.tensor(values).float()[:, None], targets_of(labels))
    assert loss.item() == pytest.approx(expected, abs=1e-4)


def test_the_first_state_fixes_the_zero_of_ranking() -> None:
    """Gradient descent on values alone ends with 0 between right and wrong steps."""
    targets = targets_of([1, 1, 0], [0], [1, 1])
    columns = torch.full((6, 1), 20.0, requires_grad=True)
    optimizer = torch.optim.Adam([columns], lr=0.5)
    for _ in range(400):
        optimizer.zero_grad()
        QValueRanking().sum(columns, targets).backward()
        optimizer.step()
    found = columns.detach().squeeze(-1)
    assert (found > 0).tolist() == [True, True, False, False, True, True]


label_chains = st.lists(st.sampled_from([0.0, 1.0, 0.2, 0.7, NAN]), min_size=1, max_size=6)


@given(
    st.lists(label_chains, min_size=1, max_size=4), st.sampled_from([0.0, 4.0]), st.floats(0.1, 50)
)
@settings(max_examples=60)
def test_ranking_equals_explicit_loops(
    chains: list[list[float]], zeta: float, scale: float
) -> None:
    targets = targets_of(*chains)
    loss = QValueRanking(zeta)
    columns = columns_for(loss, targets.labels.numel(), scale)
    values = columns.detach().double().numpy()[:, 0]
    pieces = np.split(values, np.cumsum([len(chain) for chain in chains])[:-1])
    expected = sum(ranking_by_loops(q, c, zeta) for q, c in zip(pieces, chains, strict=True))
    assert loss.sum(columns, targets).item() == pytest.approx(expected, rel=2e-5, abs=2e-5)


def test_each_chain_counts_once_in_ranking() -> None:
    weights = QValueRanking().weights(targets_of([1, 1, 0, 1], [0, 0], [1, NAN]))
    torch.testing.assert_close(weights, torch.tensor([1 / 3, 1 / 3, 0, 1 / 3, 0.5, 0.5, 1, 0]))


@pytest.mark.parametrize("loss", [BCE(), CrossEntropy(), MSE(), QValueRanking()], ids=repr)
def test_gradients_are_right(loss: StepLoss) -> None:
    targets = targets_of([1, 0, 0.3, NAN], [NAN, 1, 1])
    columns = columns_for(loss, 7)
    loss.sum(columns, targets).backward()
    assert columns.grad is not None
    for index in range(columns.numel()):
        shift = torch.zeros(columns.numel())
        shift[index] = 1e-2
        high, low = (
            loss.sum(columns.detach() + s * shift.view_as(columns), targets) for s in (1, -1)
        )
        slope = ((high - low) / 2e-2).item()
        assert columns.grad.flatten()[index].item() == pytest.approx(slope, abs=2e-3)


# What must never matter


@every
@pytest.mark.parametrize("scale", [1.0, -1.0])
@pytest.mark.parametrize("labels", [[1, 1, 1], [0, 0, 0], [0, 1, 0.5], [1, 0, NAN]])
def test_losses_and_gradients_are_finite_at_1e4(
    cls: type[StepLoss], scale: float, labels: list[float]
) -> None:
    loss = cls()
    columns = torch.tensor([[1e4], [-1e4], [1e4]]) * scale
    if loss.readout == "softmax":
        columns = torch.cat([columns, -columns], dim=1)
    columns.requires_grad_()
    value = loss.sum(columns, targets_of(labels))
    value.backward()
    assert value.isfinite()
    assert columns.grad is not None
    assert columns.grad.isfinite().all()


@every
def test_a_batch_without_labels_is_exactly_zero(cls: type[StepLoss]) -> None:
    loss = cls()
    targets = targets_of([NAN, NAN], [NAN])
    columns = columns_for(loss, 3)
    value = loss.sum(columns, targets)
    value.backward()
    assert value.item() == 0.0
    assert loss.weights(targets).sum() == 0
    assert columns.grad is not None
    assert not columns.grad.any()


@every
def test_an_empty_batch_is_zero(cls: type[StepLoss]) -> None:
    loss = cls()
    empty = StepTargets(torch.zeros(0), torch.zeros(0).long())
    assert loss.sum(torch.zeros(0, num_columns(loss.readout)), empty).item() == 0.0


@every
@pytest.mark.parametrize("filling", [NAN, math.inf, -math.inf, 1e4, -1e30])
def test_what_unlabeled_reads_say_never_matters(cls: type[StepLoss], filling: float) -> None:
    loss = cls()
    targets = targets_of([1, NAN, 0], [NAN, 1])
    clean, dirty = columns_for(loss, 5), columns_for(loss, 5).detach().clone()
    dirty[[1, 3]] = filling
    dirty.requires_grad_()
    value, expected = loss.sum(dirty, targets), loss.sum(clean, targets)
    value.backward()
    expected.backward()
    assert value.item() == expected.item()
    assert dirty.grad is not None
    assert clean.grad is not None
    torch.testing.assert_close(dirty.grad, clean.grad)
    assert not dirty.grad[[1, 3]].any()


def test_half_precision_columns_are_computed_in_float32() -> None:
    columns = torch.tensor([[9.0]], dtype=torch.bfloat16, requires_grad=True)
    value = BCE().sum(columns, targets_of([0]))
    value.backward()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(9.0001234)
    assert columns.grad is not None
    assert columns.grad.item() == pytest.approx(1.0, rel=1e-2)


# Options


@pytest.mark.parametrize("cls", [BCE, CrossEntropy, MSE])
def test_step_weighting_changes_the_result(cls: type[StepLoss]) -> None:
    targets = targets_of([1, 0, 1, NAN], [0])
    columns = columns_for(cls, 5)
    by_step, by_chain = cls(step_weighting="step"), cls(step_weighting="chain")
    assert by_step.weights(targets).tolist() == [1, 1, 1, 0, 1]
    torch.testing.assert_close(by_chain.weights(targets), torch.tensor([1 / 3, 1 / 3, 1 / 3, 0, 1]))
    assert mean(by_step, columns, targets) != pytest.approx(mean(by_chain, columns, targets))


@pytest.mark.parametrize("cls", [BCE, CrossEntropy, MSE])
def test_error_weight_changes_the_result(cls: type[StepLoss]) -> None:
    targets = targets_of([1, 0, 0.25, NAN])
    columns = columns_for(cls, 4)
    heavy = cls(error_weight=5.0)
    assert heavy.weights(targets).tolist() == [1, 5, 4, 0]
    assert mean(heavy, columns, targets) != pytest.approx(mean(cls(), columns, targets))


def test_balanced_makes_both_classes_count_the_same() -> None:
    loss = BCE(error_weight="balanced")
    targets = targets_of([1, 1, 1, 0], [1, 1, 0.5, NAN])
    with pytest.raises(ConfigError, match="was not fitted"):
        loss.weights(targets)
    loss.fit_balance(targets.labels)
    assert loss.error_weight == pytest.approx(5.5 / 1.5)
    weights = loss.weights(targets)
    labels = targets.labels.nan_to_num(1.0)
    wrong = ((1 - labels) * float(loss.error_weight)).sum()
    assert wrong.item() == pytest.approx(5.5)
    assert weights.sum().item() == pytest.approx(11.0)


@pytest.mark.parametrize("labels", [[1.0, 1.0], [0.0], [NAN], []])
def test_balanced_needs_both_classes(labels: list[float]) -> None:
    with pytest.raises(ConfigError, match="needs both classes"):
        BCE(error_weight="balanced").fit_balance(torch.tensor(labels))


def test_fit_balance_leaves_a_given_weight_alone() -> None:
    loss = BCE(error_weight=2.0)
    loss.fit_balance(torch.tensor([1.0, 1.0, 0.0]))
    assert loss.error_weight == 2.0


@pytest.mark.parametrize("cls", [BCE, CrossEntropy])
def test_label_smoothing_moves_labels_towards_one_half(cls: type[Any]) -> None:
    columns = columns_for(cls, 2)
    smooth = cls(label_smoothing=0.2).per_step(columns, targets_of([1, 0]))
    torch.testing.assert_close(smooth, cls().per_step(columns, targets_of([0.9, 0.1])))
    assert not torch.allclose(smooth, cls().per_step(columns, targets_of([1, 0])))


def test_zeta_changes_the_result() -> None:
    targets, columns = targets_of([1, 0]), columns_for(BCE, 2)
    assert QValueRanking(0.0).sum(columns, targets) < QValueRanking(4.0).sum(columns, targets)


@pytest.mark.parametrize(
    "options",
    [
        {"error_weight": 0.0},
        {"error_weight": -1.0},
        {"error_weight": NAN},
        {"error_weight": math.inf},
        {"error_weight": "balance"},
        {"step_weighting": "token"},
        {"label_smoothing": 1.0},
        {"label_smoothing": -0.1},
        {"label_smoothing": NAN},
    ],
)
def test_wrong_options_are_errors(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        BCE(**options)


@pytest.mark.parametrize("zeta", [-1.0, NAN, math.inf])
def test_zeta_must_be_a_number_of_at_least_0(zeta: float) -> None:
    with pytest.raises(ConfigError, match="zeta"):
        QValueRanking(zeta)


@every
def test_a_head_of_another_width_is_refused(cls: type[StepLoss]) -> None:
    loss = cls()
    wrong = torch.zeros(2, 3 - num_columns(loss.readout))
    with pytest.raises(ConfigError, match="column"):
        loss.sum(wrong, targets_of([1, 0]))


# Sums


chain_lists = st.lists(label_chains, min_size=2, max_size=5)


@given(
    st.sampled_from([BCE(), BCE(0.1, "chain", 3.0), CrossEntropy(), MSE("chain"), QValueRanking()]),
    chain_lists,
    st.data(),
)
def test_the_sum_over_micro_batches_is_the_whole(
    loss: StepLoss, chains: list[list[float]], data: st.DataObject
) -> None:
    """However chains are split, sums of losses and of weights are those of the whole batch."""
    bins = data.draw(
        st.lists(st.integers(0, 2), min_size=len(chains), max_size=len(chains)), label="bins"
    )
    columns = [columns_for(loss, len(chain)).detach() * (i + 1) for i, chain in enumerate(chains)]
    whole = targets_of(*chains)
    total, weight = torch.zeros(()), torch.zeros(())
    for name in set(bins):
        members = [i for i, b in enumerate(bins) if b == name]
        part = targets_of(*[chains[i] for i in members])
        total = total + loss.sum(torch.cat([columns[i] for i in members]), part)
        weight = weight + loss.weights(part).sum()
    torch.testing.assert_close(total, loss.sum(torch.cat(columns), whole), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(weight, loss.weights(whole).sum(), rtol=1e-5, atol=1e-5)


def test_swapping_logits_between_chains_changes_the_ranking_loss() -> None:
    targets = targets_of([1, 0], [1, 0])
    columns = torch.tensor([[3.0], [1.0], [0.0], [-2.0]])
    swapped = columns[[0, 3, 2, 1]]
    assert QValueRanking().sum(columns, targets) != QValueRanking().sum(swapped, targets)


def test_log_odds() -> None:
    columns = torch.tensor([[0.5, 2.0], [1.0, -1.0]])
    assert log_odds(columns, "softmax").tolist() == [1.5, -2.0]
    assert log_odds(columns[:, :1], "sigmoid").tolist() == [0.5, 1.0]
    torch.testing.assert_close(log_odds(columns, "softmax").sigmoid(), columns.softmax(-1)[:, 1])
    assert log_odds(columns.bfloat16(), "softmax").dtype == torch.float32
