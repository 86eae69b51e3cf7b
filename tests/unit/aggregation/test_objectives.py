"""Objective aggregations: golden values, names, missing objectives, extremes, JSON, overrides."""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

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
    from_config,
    from_dict,
    objective_aggregation,
    to_dict,
)
from prm.errors import ConfigError, DataError

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "aggregation"
NAMES = ("helpfulness", "safety", "factuality")
WEIGHTS = {"helpfulness": 0.5, "safety": 0.3, "factuality": 0.2}
NAN = math.nan

ALL: list[ObjectiveAggregation] = [
    WeightedSum(),
    WeightedSum(WEIGHTS),
    GeometricMean(WEIGHTS),
    WorstCase(),
    SoftMinimum(2.0),
    AugmentedChebyshev(WEIGHTS, ideal={"helpfulness": 1.0, "safety": 2.0, "factuality": 3.0}),
    AugmentedChebyshev(smoothing=0.3),
    LogSigmoidSum(WEIGHTS, reference=0.5),
    Thresholded({"safety": 0.0}, WEIGHTS),
    SafetyGate(),
    Lagrangian(multiplier=2.0),
    Gated(),
    Gated({"helpfulness": 0.3}, against="factuality"),
]
every = pytest.mark.parametrize("aggregation", ALL, ids=repr)


def rows(*values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def reward(aggregation: ObjectiveAggregation, utilities: Tensor, missing: str = "nan") -> Tensor:
    gates = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).expand_as(utilities)
    return aggregation.with_overrides({"missing": missing})(utilities, NAMES, gates)


def test_every_aggregation_is_under_contract() -> None:
    assert {type(aggregation) for aggregation in ALL} == set(OBJECTIVE_AGGREGATIONS.values())
    assert len(OBJECTIVE_AGGREGATIONS) == 10


GOLDEN = torch.tensor([0.9, 0.8, -0.7, 0.6], dtype=torch.float64)


@pytest.mark.golden
@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        (SoftMinimum(1), 0.15710334),
        (SoftMinimum(10), -0.56137083),
        (SoftMinimum(100), -0.68613706),
        (AugmentedChebyshev(ideal=1, augmentation=0), -0.425),
        (AugmentedChebyshev(ideal=1), -0.455),
        (AugmentedChebyshev(ideal=1, augmentation=0, smoothing=0.1), -0.43275235),
        (WeightedSum(), 0.4),
        (WorstCase(), -0.7),
        (GeometricMean(), math.prod(1 / (1 + math.exp(-u)) for u in GOLDEN.tolist()) ** 0.25),
        (LogSigmoidSum(), -sum(math.log1p(math.exp(-u)) for u in GOLDEN.tolist())),
    ],
    ids=repr,
)
def test_golden_values(aggregation: ObjectiveAggregation, expected: float) -> None:
    assert aggregation(GOLDEN, "abcd").item() == pytest.approx(expected, abs=1e-8)


@every
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_extremes_are_finite_in_float32(aggregation: ObjectiveAggregation, size: float) -> None:
    for utilities in ([size, size, size], [size, -size, 0.0], [-size, 0.0, size]):
        values = torch.tensor([utilities], requires_grad=True)
        result = reward(aggregation, values)
        result.sum().backward()
        assert result.dtype == torch.float32
        assert result.isfinite().all()
        assert values.grad is not None
        assert values.grad.isfinite().all()


@every
def test_half_precision_is_computed_in_float32(aggregation: ObjectiveAggregation) -> None:
    utilities = torch.tensor([[0.5, -1.25, 2.0]])
    result = reward(aggregation, utilities.to(torch.bfloat16))
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, reward(aggregation, utilities))


@every
def test_a_row_without_any_objective_is_nan_and_never_zero(
    aggregation: ObjectiveAggregation,
) -> None:
    for missing in ("nan", "renormalize"):
        assert reward(aggregation, rows([NAN] * 3, [0.0] * 3), missing).isnan().tolist() == [1, 0]


@every
def test_a_missing_row_leaves_the_gradient_of_the_others_alone(
    aggregation: ObjectiveAggregation,
) -> None:
    for missing in ("nan", "renormalize"):
        utilities = rows([NAN, NAN, NAN], [NAN, 0.4, NAN], [0.3, 0.4, -0.2]).requires_grad_()
        reward(aggregation, utilities, missing)[2].backward()
        assert utilities.grad is not None
        assert not utilities.grad[:2].any()
        assert utilities.grad[2].isfinite().all()
        assert utilities.grad[2].any()


@every
def test_missing_objectives_follow_the_policy(aggregation: ObjectiveAggregation) -> None:
    read = [name in aggregation.reads(NAMES) for name in NAMES]
    for column in range(3):
        utilities = rows([0.4, 0.9, -0.3], [0.4, 0.9, -0.3])
        utilities[1, column] = NAN
        assert reward(aggregation, utilities).isnan().tolist() == [False, read[column]]
        if read[column]:
            with pytest.raises(DataError, match=f"{NAMES[column]} missing in 1 rows"):
                reward(aggregation, utilities, "error")
        required = NAMES[column] in aggregation.requires(NAMES)
        if required:
            assert reward(aggregation, utilities, "renormalize")[1].isnan()


@pytest.mark.parametrize(
    ("aggregation", "present"),
    [
        (WeightedSum(WEIGHTS), WeightedSum({"helpfulness": 0.625, "safety": 0.375})),
        (WeightedSum(), WeightedSum()),
        (GeometricMean(WEIGHTS), GeometricMean({"helpfulness": 5, "safety": 3})),
        (WorstCase(), WorstCase()),
        (SoftMinimum(), SoftMinimum()),
        (AugmentedChebyshev(), AugmentedChebyshev()),
        (AugmentedChebyshev(smoothing=0.5), AugmentedChebyshev(smoothing=0.5)),
        (LogSigmoidSum(), LogSigmoidSum({"helpfulness": 1.5, "safety": 1.5})),
        (Thresholded({"safety": 0}), Thresholded({"safety": 0})),
        (Lagrangian(), Lagrangian()),
    ],
    ids=repr,
)
def test_renormalized_rewards_are_those_of_the_present_objectives(
    aggregation: ObjectiveAggregation, present: ObjectiveAggregation
) -> None:
    expected = present(rows([0.4, 0.9]), NAMES[:2])
    torch.testing.assert_close(reward(aggregation, rows([0.4, 0.9, NAN]), "renormalize"), expected)


def test_negative_weights_keep_their_magnitude_when_renormalized() -> None:
    verbosity = WeightedSum({"helpfulness": 1, "verbosity": -1}, missing="renormalize")
    result = verbosity(rows([NAN, 2.0], [3.0, NAN]), ("helpfulness", "verbosity"))
    assert result.tolist() == [-4.0, 6.0]
    assert not verbosity.monotone


def test_an_objective_of_weight_zero_is_not_read() -> None:
    weights = {"helpfulness": 1.0, "safety": 1.0, "factuality": 0.0}
    for cls in (WeightedSum, GeometricMean, AugmentedChebyshev, LogSigmoidSum):
        aggregation = cls(weights)
        results = aggregation(rows([5.0, 4.0, NAN], [5.0, 4.0, -9.0]), NAMES)
        assert results.isfinite().all()
        torch.testing.assert_close(results[0], results[1])


@every
@pytest.mark.parametrize("names", [(), ("safety", "safety", "helpfulness")])
def test_objectives_must_be_different_names(
    aggregation: ObjectiveAggregation, names: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError):
        aggregation.check(names)


@every
def test_utilities_must_have_a_column_for_each_objective(
    aggregation: ObjectiveAggregation,
) -> None:
    with pytest.raises(ConfigError, match="expected 3 columns: helpfulness, safety, factuality"):
        aggregation(torch.zeros(3, 2), NAMES)


@pytest.mark.parametrize(
    ("aggregation", "message"),
    [
        (WeightedSum({"helpfulness": 1}), "each of helpfulness, safety, factuality, got helpful"),
        (GeometricMean({**WEIGHTS, "style": 1}), "got helpfulness, safety, factuality, style"),
        (AugmentedChebyshev(ideal={"style": 1}), "ideal of augmented_chebyshev do not fit"),
        (LogSigmoidSum(reference={"safety": 1}), "reference of log_sigmoid_sum do not fit"),
        (Thresholded({"style": 0}), "no such objective: expected some of helpfulness, .* got styl"),
        (SafetyGate(safety="harmless"), "safety_gate: no such objective.* got harmless"),
        (Lagrangian("cost"), "lagrangian: no such objective.* got cost"),
        (Lagrangian(weights=WEIGHTS), "an entry for each of helpfulness, factuality, got"),
        (Gated({"style": 1}, against="safety"), "penalties of gated: no such objective.* got styl"),
        (Gated({"safety": 1}, against="length"), "penalties of gated: no such objective.* length"),
    ],
    ids=repr,
)
def test_names_are_checked(aggregation: ObjectiveAggregation, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        aggregation.check(NAMES)


@pytest.mark.parametrize(
    ("cls", "parameters"),
    [
        (WeightedSum, {"weights": {"safety": 0.0}}),
        (WeightedSum, {"weights": {"safety": math.inf}}),
        (WeightedSum, {"weights": {"safety": "high"}}),
        (WeightedSum, {"weights": {"safety": True}}),
        (WeightedSum, {"weights": [1.0]}),
        (WeightedSum, {"missing": "zero"}),
        (GeometricMean, {"weights": {"safety": -1.0, "style": 2.0}}),
        (GeometricMean, {"floor": 0.0}),
        (SoftMinimum, {"beta": 0.0}),
        (AugmentedChebyshev, {"weights": {"safety": -1.0}}),
        (AugmentedChebyshev, {"augmentation": -0.1}),
        (AugmentedChebyshev, {"smoothing": NAN}),
        (LogSigmoidSum, {"weights": {"safety": -1.0}}),
        (LogSigmoidSum, {"reference": NAN}),
        (Thresholded, {"thresholds": {}}),
        (Thresholded, {"thresholds": {"safety": 0.0}, "weights": {"safety": -1.0}}),
        (Thresholded, {"thresholds": {"safety": NAN}}),
        (SafetyGate, {"threshold": 1.0}),
        (SafetyGate, {"safety": "helpfulness"}),
        (Lagrangian, {"multiplier": -1.0}),
        (Lagrangian, {"weights": {"helpfulness": -1.0}}),
        (Gated, {"penalties": {"safety": -0.1}, "against": "style"}),
        (Gated, {"penalties": {"safety": 0.1}, "against": "safety"}),
        (Gated, {"penalties": {"safety": 0.1}}),
        (Gated, {"against": "safety"}),
    ],
)
def test_parameters_are_checked(
    cls: type[ObjectiveAggregation], parameters: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError):
        cls(**parameters)


CHANGED_PARAMETERS = [
    (WeightedSum(), "weights", WEIGHTS),
    (GeometricMean(), "weights", WEIGHTS),
    (GeometricMean(), "floor", 0.3),
    (SoftMinimum(), "beta", 2.0),
    (AugmentedChebyshev(), "weights", WEIGHTS),
    (AugmentedChebyshev(), "ideal", 2.0),
    (AugmentedChebyshev(), "augmentation", 0.1),
    (AugmentedChebyshev(), "smoothing", 0.1),
    (LogSigmoidSum(), "weights", WEIGHTS),
    (LogSigmoidSum(), "reference", 0.3),
    (Thresholded({"safety": 2.0}), "thresholds", {"safety": 1.0}),
    (Thresholded({"safety": -1.0}), "weights", WEIGHTS),
    (Thresholded({"safety": 2.0}), "floor", -5.0),
    (SafetyGate(), "helpfulness", "factuality"),
    (SafetyGate(safety="factuality"), "safety", "safety"),
    (SafetyGate(safety="factuality"), "threshold", 0.05),
    (Lagrangian(), "constrained", "factuality"),
    (Lagrangian(), "multiplier", 2.0),
    (Lagrangian(), "weights", {"helpfulness": 1.0, "factuality": 0.0}),
    (Gated({"safety": 0.1}, "factuality"), "penalties", {"safety": 0.2}),
    (Gated({"safety": 0.1}, "factuality"), "against", "helpfulness"),
]


@pytest.mark.parametrize(("aggregation", "parameter", "value"), CHANGED_PARAMETERS, ids=repr)
def test_every_parameter_changes_the_reward(
    aggregation: ObjectiveAggregation, parameter: str, value: object
) -> None:
    utilities = rows([0.5, 0.8, -2.0])
    changed = aggregation.with_overrides({parameter: value})
    assert changed != aggregation
    assert reward(changed, utilities) != reward(aggregation, utilities)


def test_every_parameter_is_listed_above() -> None:
    listed = {(type(aggregation), parameter) for aggregation, parameter, _ in CHANGED_PARAMETERS}
    for cls in OBJECTIVE_AGGREGATIONS.values():
        parameters = set(inspect.signature(cls).parameters) - {"missing"}
        assert {(cls, parameter) for parameter in parameters} <= listed


@every
def test_linear_weights_give_the_reward(aggregation: ObjectiveAggregation) -> None:
    weights = aggregation.linear_weights(NAMES)
    assert (weights is not None) == isinstance(aggregation, WeightedSum | Lagrangian)
    if weights is not None:
        utilities = rows([0.5, 0.8, -2.0], [3.0, -1.0, 0.2])
        folded = utilities @ torch.tensor([weights[name] for name in NAMES], dtype=torch.float64)
        torch.testing.assert_close(reward(aggregation, utilities), folded)


@every
def test_the_spec_form_rebuilds_an_equal_aggregation(aggregation: ObjectiveAggregation) -> None:
    again = from_dict(to_dict(aggregation))
    assert again == aggregation
    assert hash(again) == hash(aggregation)
    assert again != aggregation.with_overrides({"missing": "error"})


def test_parameters_are_a_copy() -> None:
    aggregation = WeightedSum({"safety": 1.0})
    aggregation.parameters()["weights"]["safety"] = 5.0
    assert aggregation == WeightedSum({"safety": 1.0})


@pytest.mark.parametrize(
    "config",
    [
        "SoftMinimum",
        "soft_minimum",
        "prm.aggregation.objectives.SoftMinimum",
        {"class_path": "SoftMinimum"},
        {"class_path": "SoftMinimum", "init_args": {"beta": 1}},
        {"class_path": "prm.aggregation.objectives.SoftMinimum", "init_args": None},
        {"name": "soft_minimum"},
        {"name": "SoftMinimum", "beta": 1.0},
    ],
)
def test_a_configuration_builds_the_aggregation(config: Any) -> None:
    assert from_config(config) == SoftMinimum(1.0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("median", "unknown objective aggregation: expected weighted_sum | geometric_mean"),
        ({}, "a mapping with class_path"),
        ({"name": "gated", "class_path": "Gated"}, "a mapping with class_path"),
        ({"class_path": "Gated", "against": "style"}, "expected class_path and init_args"),
        ({"class_path": "WorstCase", "init_args": {"beta": 1}}, "parameters of WorstCase.*'beta'"),
        ({"name": "thresholded"}, "missing a required argument: 'thresholds'"),
    ],
)
def test_wrong_configurations_are_errors(config: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_config(config)


def test_every_class_has_a_configuration_file() -> None:
    files = sorted(CONFIGS.rglob("*.yaml"))
    built = [from_config(yaml.safe_load(path.read_text(encoding="utf-8"))) for path in files]
    assert [path.stem for path in files] == [each.name.replace("_", "-") for each in built]
    assert {type(each) for each in built} == set(OBJECTIVE_AGGREGATIONS.values())
    for path, aggregation in zip(files, built, strict=True):
        aggregation.check(NAMES)
        command = f"# prm reward scores.jsonl --aggregation configs/aggregation/{path.name}\n"
        assert path.read_text(encoding="utf-8").startswith(command)


def test_overrides_change_one_entry() -> None:
    aggregation = WeightedSum(WEIGHTS)
    expected = WeightedSum({**WEIGHTS, "safety": 2.0})
    assert aggregation.with_overrides({"weights.safety": 2}) == expected
    assert aggregation.with_overrides({"weights": {"safety": 2}}) == expected
    assert aggregation == WeightedSum(WEIGHTS)
    dotted = WeightedSum({"code.style": 1.0}).with_overrides({"weights.code.style": 3.0})
    assert dotted == WeightedSum({"code.style": 3.0})


def test_overrides_spell_out_what_is_the_same_for_all() -> None:
    changed = WeightedSum().with_overrides({"weights.safety": 1.0}, NAMES)
    assert changed == WeightedSum({"helpfulness": 1 / 3, "safety": 1.0, "factuality": 1 / 3})
    ideal = AugmentedChebyshev().with_overrides({"ideal.safety": 5.0}, NAMES)
    assert ideal.ideal == {"helpfulness": 3.0, "safety": 5.0, "factuality": 3.0}
    reference = LogSigmoidSum().with_overrides({"reference.safety": 1.0}, NAMES)
    assert reference.weights == dict.fromkeys(NAMES, 1.0)
    assert reference.reference == {"helpfulness": 0.0, "safety": 1.0, "factuality": 0.0}


def test_overrides_can_add_a_constraint() -> None:
    added = Thresholded({"safety": 1.0}).with_overrides({"thresholds.factuality": 0.0}, NAMES)
    assert added.thresholds == {"safety": 1.0, "factuality": 0.0}


@pytest.mark.parametrize(
    ("aggregation", "overrides", "message"),
    [
        (WeightedSum(WEIGHTS), {"weight": 1}, "no parameter 'weight': expected weights | missing"),
        (WeightedSum(WEIGHTS), {"weights.style": 1}, "weights of weighted_sum do not fit"),
        (WeightedSum(), {"weights.style": 1}, "weights of weighted_sum do not fit"),
        (Thresholded({"safety": 1.0}), {"thresholds": {"style": 1}}, "got style"),
        (SoftMinimum(), {"beta": -1}, "beta of soft_minimum"),
        (SoftMinimum(), {"beta.safety": 1}, "beta of soft_minimum is wrong"),
    ],
)
def test_wrong_overrides_are_errors(
    aggregation: ObjectiveAggregation, overrides: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        aggregation.with_overrides(overrides, NAMES)


def test_the_geometric_mean_stays_a_probability_and_has_a_floor() -> None:
    heavy = GeometricMean({"a": 3.0, "b": 1.0})
    expected = (0.9**3 * 0.5) ** 0.25
    assert heavy(torch.tensor([0.9, 0.5]).logit(), "ab").item() == pytest.approx(expected)
    floored = GeometricMean(floor=1e-4)(torch.tensor([1e4, -1e4]), "ab")
    assert floored.item() == pytest.approx(1e-2)


def test_the_log_sigmoid_sum_is_the_log_probability_that_all_are_good() -> None:
    probabilities = torch.tensor([0.9, 0.8, 0.5])
    assert LogSigmoidSum()(probabilities.logit(), NAMES).exp().item() == pytest.approx(0.36)
    saturated = torch.tensor([[20.0] * 3, [40.0] * 3])
    worse, better = LogSigmoidSum()(saturated, NAMES).tolist()
    assert worse < better


def test_augmentation_rewards_what_the_worst_objective_hides() -> None:
    utilities = rows([0.0, 1.0, 1.0], [0.0, 1.0, 2.0])
    plain = AugmentedChebyshev(augmentation=0.0)(utilities, NAMES)
    augmented = AugmentedChebyshev()(utilities, NAMES)
    assert plain[0] == plain[1]
    assert augmented[0] < augmented[1]


def test_unknown_names_are_errors() -> None:
    with pytest.raises(ConfigError, match="unknown objective aggregation"):
        objective_aggregation("missing")
    with pytest.raises(ConfigError, match="unknown objective aggregation"):
        from_dict({})
