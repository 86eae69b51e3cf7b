"""Folding: one label that gives the aggregated reward, or an error that names what is bent."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prm.aggregation.normalize import Quantile, ZScore
from prm.aggregation.objectives import (
    Gated,
    Lagrangian,
    ObjectiveAggregation,
    WeightedSum,
    WorstCase,
)
from prm.errors import ModelError
from prm.models.fold import REWARD, LinearReward, dropped_constant, fold, is_linear
from prm.models.reward_model import RewardModel
from prm.spec import ResponseHead, RewardSpec, Shaping, StepHead
from tests.outcome_models import (
    RESPONSES,
    SPREAD_OBJECTIVES,
    columns_of,
    outcome_model,
    outcome_spec,
)
from tests.tiny_models import tiny_backbone, tiny_tokenizer

SCALES = {"helpfulness": ZScore(0.5, 2.0), "toxicity": ZScore(-1.0, 0.001)}
"""The second deviation is below the floor of 0.01."""


def rewards(model: RewardModel) -> torch.Tensor:
    return model.spec.rewards(model.response_scores(columns_of(model, RESPONSES)).double())


def states_and_heads(model: RewardModel) -> torch.Tensor:
    """Return some hidden states, on which the heads alone are compared."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(16, model.backbone.hidden_size, generator=generator)


@pytest.mark.parametrize(
    "aggregation",
    [
        WeightedSum(),
        WeightedSum({"helpfulness": 0.3, "toxicity": 2.5}),
        WeightedSum({"helpfulness": 1.0, "toxicity": -0.25}),
        WeightedSum({"helpfulness": 0.0, "toxicity": 1.0}),
        Lagrangian("toxicity", multiplier=3.0, weights={"helpfulness": 1.0}),
    ],
    ids=repr,
)
@pytest.mark.parametrize("normalizers", [{}, SCALES], ids=["raw", "z_score"])
def test_the_folded_head_is_the_reward(
    aggregation: ObjectiveAggregation, normalizers: dict[str, Any]
) -> None:
    """Equal to 1e-6 on the same states: relative, since a deviation at its floor scales by 100."""
    model = outcome_model(objective_aggregation=aggregation, normalizers=normalizers)
    folded = fold(model)
    states = states_and_heads(model)
    expected = model.spec.rewards(model.response_scores(model.heads(states)).double())
    got = folded.spec.rewards(folded.response_scores(folded.heads(states)).double())
    scale = LinearReward.of(model.spec).gain
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6 * max(1.0, scale))


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_shaping_that_is_a_line_is_folded(family: str) -> None:
    shaping = Shaping(center=0.5, scale=4.0)
    read_at = "pooler" if family == "bert" else "last"
    model = outcome_model(family, read_at, normalizers=SCALES, shaping=shaping)
    folded = fold(model)
    assert folded.spec.shaping == Shaping()
    torch.testing.assert_close(rewards(folded), rewards(model), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("shaping", [Shaping(squash="sigmoid"), Shaping(clip=(-5.0, 5.0))])
def test_shaping_that_bends_is_not_folded(shaping: Shaping) -> None:
    model = outcome_model(shaping=shaping)
    assert not is_linear(model.spec)
    with pytest.raises(ModelError, match="its shaping is not linear"):
        fold(model)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_the_folded_model_gives_the_rewards(family: str) -> None:
    read_at = "pooler" if family == "bert" else "last"
    model = outcome_model(family, read_at, normalizers=SCALES)
    torch.testing.assert_close(rewards(fold(model)), rewards(model), rtol=1e-5, atol=1e-4)


def test_readouts_of_several_columns_are_folded() -> None:
    weights = WeightedSum({"helpfulness": 1.0, "safety": 0.5, "length": 0.25})
    model = outcome_model(response_heads=SPREAD_OBJECTIVES, objective_aggregation=weights)
    torch.testing.assert_close(rewards(fold(model)), rewards(model), rtol=1e-6, atol=1e-5)


def test_a_joint_model_is_folded_without_its_steps() -> None:
    tokenizer = tiny_tokenizer()
    spec = outcome_spec(step_heads=(StepHead(),), normalizers=SCALES)
    model = RewardModel(tiny_backbone("qwen2", tokenizer), tokenizer, spec).eval()
    folded = fold(model)
    assert folded.spec.kind == "outcome"
    torch.testing.assert_close(rewards(folded), rewards(model), rtol=1e-5, atol=1e-4)


def test_decoders_lose_the_constant_and_say_so() -> None:
    decoder = fold(outcome_model("llama", normalizers=SCALES))
    constant = dropped_constant(decoder.spec)
    assert constant == pytest.approx(LinearReward.of(outcome_spec(normalizers=SCALES)).constant)
    assert "folded" in decoder.spec.normalizers[REWARD].source  # type: ignore[attr-defined]


def test_encoders_keep_the_constant_in_their_bias() -> None:
    folded = fold(outcome_model("bert", "pooler", normalizers=SCALES))
    assert dropped_constant(folded.spec) == 0
    assert folded.spec.normalizers == {}


def test_folding_changes_nothing_in_the_model() -> None:
    model = outcome_model(normalizers=SCALES)
    spec, before = model.spec, columns_of(model, RESPONSES)
    fold(model)
    assert model.spec == spec
    assert columns_of(model, RESPONSES).equal(before)


@pytest.mark.parametrize(
    ("aggregation", "name"), [(WorstCase(), "worst_case"), (Gated(), "gated")], ids=repr
)
def test_an_aggregation_that_is_not_linear_is_named(
    aggregation: ObjectiveAggregation, name: str
) -> None:
    with pytest.raises(ModelError, match=rf"aggregation is not linear.*got {name}"):
        fold(outcome_model(objective_aggregation=aggregation))


def test_a_normalizer_that_is_not_linear_is_named() -> None:
    bent = {"toxicity": Quantile([[0.0, -1.0], [1.0, 1.0], [2.0, 5.0]])}
    with pytest.raises(ModelError, match=r"normalizer of 'toxicity' is not linear.*quantile"):
        fold(outcome_model(normalizers=bent))
    unread = WeightedSum({"helpfulness": 1.0, "toxicity": 0.0})
    assert is_linear(outcome_spec(normalizers=bent, objective_aggregation=unread))


def test_heads_that_are_not_linear_are_named() -> None:
    with pytest.raises(ModelError, match=r"heads are not linear.*mlp"):
        fold(outcome_model(head="mlp"))


def test_a_process_model_has_nothing_to_fold() -> None:
    with pytest.raises(ModelError, match="no whole responses"):
        LinearReward.of(RewardSpec())


numbers = st.floats(-10, 10).map(lambda value: round(value, 3))


@given(
    weights=st.tuples(numbers, numbers).filter(any),
    means=st.tuples(numbers, numbers),
    stds=st.tuples(st.floats(0, 10), st.floats(0, 10)),
    scores=st.tuples(numbers, numbers),
)
def test_slopes_and_constant_give_the_reward(
    weights: tuple[float, float],
    means: tuple[float, float],
    stds: tuple[float, float],
    scores: tuple[float, float],
) -> None:
    names = ("helpfulness", "toxicity")
    spec = outcome_spec(
        response_heads=(
            ResponseHead("helpfulness"),
            ResponseHead("toxicity", direction="minimize"),
        ),
        objective_aggregation=WeightedSum(dict(zip(names, weights, strict=True))),
        normalizers={
            name: ZScore(mean, std) for name, mean, std in zip(names, means, stds, strict=True)
        },
    )
    linear = LinearReward.of(spec)
    by_hand = linear.constant + sum(
        linear.slopes.get(name, 0.0) * score for name, score in zip(names, scores, strict=True)
    )
    expected = spec.rewards(torch.tensor(scores, dtype=torch.float64)).item()
    assert by_hand == pytest.approx(expected, rel=1e-9, abs=1e-6)
