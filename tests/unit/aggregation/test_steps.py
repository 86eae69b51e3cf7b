"""Step aggregations: golden values, missing steps, extremes and the orders they keep."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prm.aggregation.steps import (
    STEP_AGGREGATIONS,
    Last,
    Mean,
    MeanLogit,
    Min,
    Product,
    SoftMin,
    StepAggregation,
    from_dict,
    softmin,
    step_aggregation,
    to_dict,
)
from prm.errors import ConfigError, DataError

ALL = [cls() for cls in STEP_AGGREGATIONS.values()] + [SoftMin(0.5)]
every = pytest.mark.parametrize("aggregation", ALL, ids=repr)

GOLDEN_PROBABILITIES = torch.tensor([0.9, 0.8, 0.3, 0.6], dtype=torch.float64)

chains = st.lists(st.floats(-30, 30), min_size=1, max_size=6)
aggregations = st.sampled_from(ALL)


def logits_of(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.golden
@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        (Product(), 0.1296),
        (Min(), 0.3),
        (Last(), 0.6),
        (Mean(), 0.65),
        (MeanLogit(), 3.14168619 / 4),
        (SoftMin(10.0), -math.log(sum(math.exp(-10 * p) for p in (0.9, 0.8, 0.3, 0.6)) / 4) / 10),
    ],
    ids=repr,
)
def test_golden_values(aggregation: StepAggregation, expected: float) -> None:
    assert aggregation(GOLDEN_PROBABILITIES.logit()).item() == pytest.approx(expected, abs=1e-8)


@pytest.mark.golden
def test_golden_softmin() -> None:
    values = torch.tensor([0.9, 0.8, -0.7, 0.6], dtype=torch.float64)
    present = torch.ones(4, dtype=torch.bool)
    assert softmin(values, present, 10.0).item() == pytest.approx(-0.56137083, abs=1e-8)


@every
def test_missing_steps_are_left_out(aggregation: StepAggregation) -> None:
    with_gaps = logits_of([math.nan, 0.3, math.nan, -1.2, math.nan])
    assert aggregation(with_gaps).item() == pytest.approx(
        aggregation(logits_of([0.3, -1.2])).item(), abs=1e-12
    )


@every
def test_a_chain_without_a_scored_step_is_nan_and_never_zero(
    aggregation: StepAggregation,
) -> None:
    assert aggregation(logits_of([math.nan, math.nan])).isnan()
    assert aggregation(torch.zeros(3, 0)).isnan().tolist() == [True, True, True]


@every
def test_a_row_without_steps_leaves_the_gradient_of_the_others_alone(
    aggregation: StepAggregation,
) -> None:
    logits = torch.tensor([[math.nan, math.nan], [0.3, -0.2]], requires_grad=True)
    aggregation(logits)[1].backward()
    assert logits.grad is not None
    assert logits.grad[0].tolist() == [0.0, 0.0]
    assert logits.grad[1].isfinite().all()
    assert logits.grad[1].any()


@every
@pytest.mark.parametrize("values", [[1e4, 1e4], [-1e4, -1e4], [1e4, -1e4], [-1e4, 1e4, 0.0]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extremes_are_finite(
    aggregation: StepAggregation, values: list[float], dtype: torch.dtype
) -> None:
    logits = torch.tensor(values, dtype=dtype, requires_grad=True)
    result = aggregation(logits)
    result.backward()
    assert result.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    if aggregation.unit == "probability":
        assert 0 <= result.item() <= 1


@pytest.mark.parametrize("beta", [0.1, 0.5, 10.0])
@pytest.mark.parametrize("value", [30.0, -30.0])
def test_softmin_of_certain_steps_is_a_probability(beta: float, value: float) -> None:
    for num_steps in range(1, 40):
        result = SoftMin(beta)(torch.full((num_steps,), value)).item()
        assert 0 <= result <= 1
        assert result == pytest.approx(float(value > 0), abs=1e-5)


def test_steps_are_ranked_where_probabilities_saturate() -> None:
    close_to_one = torch.tensor([[20.0, 20.0], [40.0, 40.0]])
    assert close_to_one.sigmoid().unique().numel() == 1
    worse, better = MeanLogit()(close_to_one).tolist()
    assert worse < better


def test_product_of_many_steps_does_not_underflow_early() -> None:
    logits = torch.full((500,), 3.0)
    assert Product()(logits).item() == pytest.approx(torch.sigmoid(torch.tensor(3.0)) ** 500)


@every
def test_half_precision_is_computed_in_float32(aggregation: StepAggregation) -> None:
    logits = torch.tensor([0.5, -1.25, 2.0])
    result = aggregation(logits.to(torch.bfloat16))
    assert result.dtype == torch.float32
    assert result.item() == aggregation(logits).item()


@given(aggregations, st.lists(chains, min_size=1, max_size=4))
def test_a_batch_equals_its_rows(aggregation: StepAggregation, rows: list[list[float]]) -> None:
    width = max(map(len, rows))
    padded = logits_of([row + [math.nan] * (width - len(row)) for row in rows])
    alone = torch.stack([aggregation(logits_of(row)) for row in rows])
    torch.testing.assert_close(aggregation(padded), alone)
    torch.testing.assert_close(aggregation(padded[:, None, :])[:, 0], alone)


@given(chains, st.floats(0.01, 1000))
def test_min_is_at_most_softmin_is_at_most_mean(values: list[float], beta: float) -> None:
    logits = logits_of(values)
    low, middle, high = (f(logits).item() for f in (Min(), SoftMin(beta), Mean()))
    assert low - 1e-9 <= middle <= high + 1e-9


@given(chains)
def test_softmin_reaches_mean_and_min_in_its_limits(values: list[float]) -> None:
    logits = logits_of(values)
    assert SoftMin(1e-5)(logits).item() == pytest.approx(Mean()(logits).item(), abs=1e-5)
    assert SoftMin(1e6)(logits).item() == pytest.approx(Min()(logits).item(), abs=1e-5)


@given(chains)
def test_product_is_at_most_min(values: list[float]) -> None:
    logits = logits_of(values)
    assert Product()(logits).item() <= Min()(logits).item() + 1e-12


@given(aggregations, chains, st.data())
def test_a_better_step_never_lowers_the_score(
    aggregation: StepAggregation, values: list[float], data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(values) - 1))
    better = list(values)
    better[index] += data.draw(st.floats(0, 20))
    assert aggregation(logits_of(better)) >= aggregation(logits_of(values)) - 1e-9


@given(st.sampled_from([a for a in ALL if not isinstance(a, Last)]), chains, st.randoms())
def test_order_does_not_matter_except_for_last(
    aggregation: StepAggregation, values: list[float], random: np.random.Generator
) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)
    torch.testing.assert_close(aggregation(logits_of(shuffled)), aggregation(logits_of(values)))


@given(chains, chains)
def test_last_depends_on_the_last_step_only(first: list[float], second: list[float]) -> None:
    assert Last()(logits_of([*first, 0.7])) == Last()(logits_of([*second, 0.7]))


@given(aggregations, st.floats(-30, 30))
def test_a_single_step_is_its_own_score(aggregation: StepAggregation, value: float) -> None:
    result = aggregation(logits_of([value]))
    expected = logits_of([value])[0]
    torch.testing.assert_close(
        result, expected if aggregation.unit == "logit" else expected.sigmoid()
    )


@every
def test_the_spec_form_rebuilds_an_equal_aggregation(aggregation: StepAggregation) -> None:
    again = from_dict(to_dict(aggregation))
    assert again == aggregation
    assert hash(again) == hash(aggregation)


def test_parameters_change_the_result() -> None:
    logits = GOLDEN_PROBABILITIES.logit()
    assert SoftMin(1.0) != SoftMin(2.0)
    assert SoftMin(1.0)(logits) > SoftMin(2.0)(logits)


@pytest.mark.parametrize("beta", [0.0, -1.0, math.inf, math.nan])
def test_beta_must_be_a_positive_number(beta: float) -> None:
    with pytest.raises(ConfigError, match="beta"):
        SoftMin(beta)


def test_unknown_names_and_parameters_are_errors() -> None:
    with pytest.raises(ConfigError, match=r"unknown step aggregation: expected min \| product"):
        step_aggregation("median")
    with pytest.raises(ConfigError, match="'min' does not take these parameters"):
        step_aggregation("min", beta=2.0)
    with pytest.raises(ConfigError, match="unknown step aggregation"):
        from_dict({})


def test_the_mean_of_infinite_log_odds_is_refused():
    """As probabilities that were rounded to 0 or 1 have them; others take them as they are."""
    rounded = torch.tensor([1.0, 0.0, 0.9], dtype=torch.float64).logit()
    with pytest.raises(DataError, match="mean_logit has no value for steps with a probability of"):
        step_aggregation("mean_logit")(rounded)
    for name, expected in (("min", 0.0), ("product", 0.0), ("mean", 1.9 / 3), ("last", 0.9)):
        assert step_aggregation(name)(rounded).item() == pytest.approx(expected)
