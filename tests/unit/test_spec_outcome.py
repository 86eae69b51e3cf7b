"""Specs of outcome and joint models: names that must fit, rewards that survive the disk."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prm.aggregation.normalize import NORMALIZERS, Identity, Normalizer, Quantile, ZScore
from prm.aggregation.objectives import (
    OBJECTIVE_AGGREGATIONS,
    AugmentedChebyshev,
    Gated,
    GeometricMean,
    Lagrangian,
    LogSigmoidSum,
    ObjectiveAggregation,
    SafetyGate,
    SoftMinimum,
    Thresholded,
    WeightedSum,
    WorstCase,
)
from prm.errors import ConfigError, PrmError, SpecError
from prm.spec import (
    STEP_MARKER,
    GoldenResponse,
    ResponseFormat,
    ResponseHead,
    RewardSpec,
    StepHead,
    Template,
)

NAN = math.nan
OUTCOME = RewardSpec(
    template=Template(bos="one", suffix=""),
    response_format=ResponseFormat("eos", "sep", "!", "mean"),
    response_heads=(
        ResponseHead("helpfulness", "gaussian", 2),
        ResponseHead("harm", direction="minimize"),
        ResponseHead("style", "quantile", 3),
    ),
    normalizers={"helpfulness": ZScore(0.5, 2.0, num=10, source="validation")},
    objective_aggregation=WeightedSum({"helpfulness": 1, "harm": 2, "style": 1}),
    golden_responses=(GoldenResponse("q", "a", {"helpfulness": 0.25, "harm": -1.5, "style": 3.0}),),
)
JOINT = OUTCOME.with_(step_heads=(StepHead(),), chain_reward="correctness")
PROCESS = RewardSpec()


def outcome(**fields: Any) -> RewardSpec:
    """Return a spec of two objectives of responses, aggregated by their sum."""
    values: dict[str, Any] = {
        "step_heads": (),
        "response_heads": (ResponseHead("a"), ResponseHead("b")),
        "objective_aggregation": WeightedSum(),
    }
    return RewardSpec(**values | fields)


@pytest.mark.parametrize(
    ("spec", "kind"), [(PROCESS, "process"), (OUTCOME, "outcome"), (JOINT, "joint")]
)
def test_the_objectives_say_what_a_model_scores(spec: RewardSpec, kind: str) -> None:
    assert spec.kind == kind
    assert json.loads(spec.to_json())["kind"] == kind
    assert RewardSpec.from_json(spec.to_json()) == spec
    assert RewardSpec.from_json(spec.to_json()).to_json() == spec.to_json()


def test_columns_of_responses_follow_those_of_steps() -> None:
    assert JOINT.num_columns == 7
    assert JOINT.columns == {
        "correctness": slice(0, 1),
        "helpfulness": slice(1, 3),
        "harm": slice(3, 4),
        "style": slice(4, 7),
    }
    assert [name for head in OUTCOME.heads for name in head.column_names] == [
        *("helpfulness", "helpfulness_spread", "harm", "style_0", "style_1", "style_2")
    ]


def test_only_models_of_steps_mark_them() -> None:
    assert OUTCOME.marker is None
    assert JOINT.marker == STEP_MARKER


AGGREGATIONS: tuple[ObjectiveAggregation, ...] = (
    WeightedSum({"helpfulness": 1, "harm": -2, "style": 0.5}, missing="renormalize"),
    GeometricMean(floor=0.01),
    WorstCase(missing="error"),
    SoftMinimum(beta=3.0),
    AugmentedChebyshev(ideal=2.0, augmentation=0.1),
    Thresholded({"harm": 1.0}, floor=-5.0),
    SafetyGate(helpfulness="helpfulness", safety="harm", threshold=0.2),
    LogSigmoidSum(reference={"helpfulness": 0.0, "harm": 1.0, "style": -1.0}),
    Lagrangian(constrained="harm", multiplier=0.7),
    Gated(),
)
NORMALIZER_EXAMPLES: tuple[Normalizer, ...] = (
    Identity(),
    ZScore(-1.25, 0.5, floor=0.1, num=7, source="validation"),
    Quantile([[-1, -2.5], [0.5, 0.0], [3, 2]], num=9, source="train"),
)


def test_every_aggregation_and_normalizer_is_tried() -> None:
    assert {type(item) for item in AGGREGATIONS} == set(OBJECTIVE_AGGREGATIONS.values())
    assert {type(item) for item in NORMALIZER_EXAMPLES} == set(NORMALIZERS.values())


@pytest.mark.parametrize("aggregation", AGGREGATIONS, ids=lambda item: item.name)
@pytest.mark.parametrize("normalizer", NORMALIZER_EXAMPLES, ids=lambda item: item.name)
def test_what_rewards_depend_on_survives_json(
    aggregation: ObjectiveAggregation, normalizer: Normalizer
) -> None:
    """Not only equal: the same scores give the same rewards, bit by bit."""
    spec = OUTCOME.with_(
        objective_aggregation=aggregation, normalizers=dict.fromkeys(("harm", "style"), normalizer)
    )
    loaded = RewardSpec.from_json(spec.to_json())
    assert loaded == spec
    scores = torch.linspace(-3, 3, 12).reshape(4, 3)
    gates = torch.full((4, 3), 1 / 3) if aggregation.needs_gates else None
    assert loaded.rewards(scores, gates).equal(spec.rewards(scores, gates))


@given(
    st.lists(
        st.builds(
            ResponseHead,
            st.text(min_size=1, max_size=5),
            direction=st.sampled_from(["maximize", "minimize"]),
        ),
        min_size=1,
        max_size=4,
        unique_by=lambda objective: objective.name,
    ),
    st.builds(
        ResponseFormat,
        end=st.sampled_from(["eos", "turn", "none"]),
        start=st.sampled_from(["sep", "none"]),
        suffix=st.text(max_size=3),
        read_at=st.sampled_from(["last", "pooler", "mean"]),
    ),
)
def test_any_outcome_spec_survives_json(
    objectives: list[ResponseHead], response_format: ResponseFormat
) -> None:
    spec = outcome(response_heads=tuple(objectives), response_format=response_format)
    assert RewardSpec.from_json(spec.to_json()) == spec


def test_utilities_are_normalized_and_of_all_more_is_better() -> None:
    scores = torch.tensor([[2.5, 1.0, 4.0], [0.5, -3.0, NAN]])
    expected = torch.tensor([[1.0, -1.0, 4.0], [0.0, 3.0, NAN]])
    torch.testing.assert_close(OUTCOME.utilities(scores), expected, equal_nan=True)


def test_rewards_aggregate_utilities_by_name() -> None:
    rewards = OUTCOME.rewards(torch.tensor([[2.5, 1.0, 4.0], [0.5, -3.0, NAN]]))
    torch.testing.assert_close(rewards, torch.tensor([3.0, NAN]), equal_nan=True)


def test_the_only_objective_is_the_reward_whatever_its_direction() -> None:
    spec = RewardSpec(response_heads=(ResponseHead("cost", direction="minimize"),))
    assert spec.objective_aggregation == WeightedSum()
    assert spec.rewards(torch.tensor([[2.0], [-1.0]])).tolist() == [-2.0, 1.0]


def test_several_objectives_need_a_declared_aggregation() -> None:
    with pytest.raises(SpecError, match=r"objective_aggregation is missing.*of a, b.*WeightedSum"):
        outcome(objective_aggregation=None)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        (
            {"response_heads": (), "objective_aggregation": WeightedSum({"a": 1})},
            "there are no objectives of responses",
        ),
        ({"response_heads": (ResponseHead("a"),) * 2}, "objectives are wrong"),
        ({"step_heads": (StepHead("a"),)}, "objectives are wrong"),
        ({"normalizers": {"c": Identity()}}, r"normalizers are wrong: .*'a', 'b'.*got \['c'\]"),
        ({"objective_aggregation": WeightedSum({"a": 1, "c": 1})}, "weights of weighted_sum.*c"),
        ({"objective_aggregation": SafetyGate(helpfulness="a", safety="c")}, "c"),
        ({"chain_reward": "a"}, "chain_reward is unknown"),
    ],
)
def test_specs_that_name_what_is_not_there_are_refused(
    fields: dict[str, Any], problem: str
) -> None:
    with pytest.raises((SpecError, ConfigError), match=problem):
        outcome(**fields)


@pytest.mark.parametrize("aggregation", [WeightedSum(), WorstCase()])
def test_a_process_model_has_no_objectives_to_aggregate(
    aggregation: ObjectiveAggregation,
) -> None:
    with pytest.raises(PrmError):
        RewardSpec(objective_aggregation=aggregation)


@pytest.mark.parametrize(
    ("readout", "num_columns"),
    [("value", 2), ("gaussian", 1), ("gaussian", 3), ("quantile", 1)],
)
def test_columns_that_do_not_fit_the_readout_are_refused(readout: Any, num_columns: int) -> None:
    with pytest.raises(SpecError, match="num_columns of 'a' does not fit its readout"):
        ResponseHead("a", readout, num_columns)


def test_levels_of_quantiles_are_part_of_the_spec() -> None:
    spec = outcome(response_heads=(ResponseHead("a", "quantile", 2, levels=(0.25, 0.75)),))
    assert RewardSpec.from_json(spec.to_json()) == spec
    assert json.loads(spec.to_json())["response_heads"][0]["levels"] == [0.25, 0.75]


def test_older_specs_have_evenly_spaced_levels() -> None:
    old = outcome(response_heads=(ResponseHead("a", "quantile", 3),)).to_dict()
    del old["response_heads"][0]["levels"]
    spec = RewardSpec.from_dict(old | {"version": 4})
    assert spec.response_heads[0].levels == (0.1, 0.5, 0.9)


@pytest.mark.parametrize("levels", [(0.5,), (0.9, 0.1), (0.0, 0.5), (0.5, 1.0), ("a", "b")])
def test_levels_that_do_not_fit_are_refused(levels: Any) -> None:
    with pytest.raises(SpecError, match="levels of 'a' do not fit its readout: expected 2 numbers"):
        ResponseHead("a", "quantile", 2, levels=levels)
    with pytest.raises(SpecError, match="levels of 'a' do not fit its readout: expected none"):
        ResponseHead("a", levels=levels)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"kind": "process"}, "kind does not fit the objectives: expected outcome, got process"),
        ({"kind": None}, "kind does not fit the objectives"),
        ({"response_format": {"end": "stop"}}, "end is wrong"),
        ({"response_format": {"read_at": "first"}}, "read_at is wrong"),
        ({"response_format": {"ends": "eos"}}, "unknown fields of ResponseFormat: ends"),
        ({"response_heads": [{"name": "a", "direction": -1}]}, "direction is wrong"),
        ({"response_heads": [{"name": "a", "readout": "sigmoid"}]}, "readout is wrong"),
        ({"normalizers": {"harm": {"name": "robust"}}}, "robust"),
        ({"normalizers": {"harm": {"name": "z_score", "men": 1}}}, "does not take"),
        ({"objective_aggregation": {"name": "average"}}, "average"),
        ({"objective_aggregation": {"name": "worst_case", "beta": 1}}, "beta"),
        ({"objective_aggregation": None}, "objective_aggregation is missing"),
        ({"golden_responses": [{"prompt": "q"}]}, "malformed|missing"),
    ],
)
def test_a_malformed_outcome_spec_is_refused(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(PrmError, match=problem):
        RewardSpec.from_dict({**json.loads(OUTCOME.to_json()), **fields})
