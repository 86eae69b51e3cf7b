"""Configurations of outcome models that cannot be meant: one clear line, nothing is written."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.outcome_runs import (
    HELPFULNESS,
    LENGTH,
    SAFETY,
    outcome_source,
    sources,
    write_outcome_config,
    write_outcomes,
)
from tests.refusals import Case, refuse
from tests.runs import source


def model(**options: Any) -> dict[str, Any]:
    return {"model": options}


def helpfulness(**options: Any) -> dict[str, Any]:
    return model(responses=[HELPFULNESS | options, SAFETY, LENGTH])


def length(**options: Any) -> dict[str, Any]:
    return model(responses=[HELPFULNESS, SAFETY, LENGTH | options])


def named(name: str, **options: Any) -> dict[str, Any]:
    return {"class_path": name, "init_args": options}


def only_source(**options: Any) -> dict[str, Any]:
    return {"data": {"train": [outcome_source(**{"path": "pairs-train.jsonl"} | options)]}}


CONFIGURATIONS: dict[str, tuple[Mapping[str, Any], tuple[str, ...]]] = {
    "an objective aggregation with a typo": (
        model(objective_aggregation={"class_path": "WeightedSom"}),
        ("--objective_aggregation: there is no class WeightedSom. Did you mean WeightedSum?",),
    ),
    "a weight in words": (
        model(objective_aggregation=named("WeightedSum", weights={"safety": "much"})),
        ("expected a float, got much. See",),
    ),
    "an unknown policy for missing objectives": (
        model(objective_aggregation=named("WeightedSum", missing="zero")),
        ("--missing: expected one of 'renormalize', 'nan', 'error', got zero",),
    ),
    "a soft minimum of sharpness 0": (
        model(objective_aggregation=named("SoftMinimum", beta=0)),
        ("beta of soft_minimum", "above 0"),
    ),
    "gates before there are any": (
        model(objective_aggregation={"class_path": "Gated"}),
        ("needs a gate",),
    ),
    "quantiles without Pinball": (
        length(readout="quantile"),
        ("readout 'quantile' needs ratings with the loss Pinball",),
    ),
    "Pinball without quantiles": (
        length(rating=named("Pinball")),
        ("Pinball cannot train the readout of 'length'", "expected quantile, got value"),
    ),
    "levels of quantiles that fall": (
        length(readout="quantile", rating=named("Pinball", levels=[0.9, 0.1])),
        ("levels is wrong", "ascending"),
    ),
    "an unknown readout": (
        length(readout="gausian"),
        ("--readout: expected one of 'value', 'gaussian', 'quantile', got gausian",),
    ),
    "two objectives of one name": (
        model(responses=[HELPFULNESS, HELPFULNESS]),
        ("expected unique names", "['helpfulness', 'helpfulness']"),
    ),
    "an objective without a name": (model(responses=[{}]), ("required: name",)),
    "a typo in an objective": (
        model(responses=[{"nam": "helpfulness"}]),
        ("Option 'nam' is not accepted",),
    ),
    "no objective": (
        model(responses=[]),
        ("there is nothing to train", "Set model.steps, model.responses, or both"),
    ),
    "an unknown direction": (
        length(direction="down"),
        ("--direction: expected one of 'maximize', 'minimize', got down",),
    ),
    "an unknown normalizer": (
        length(normalizer="zscor"),
        ("--normalizer: expected one of 'none', 'zscore', 'quantile', got zscor",),
    ),
    "an unknown preference loss": (
        helpfulness(preference=named("BradleyTery")),
        ("--preference: there is no class BradleyTery. Did you mean BradleyTerry?",),
    ),
    "a rating loss for comparisons": (
        helpfulness(preference=named("MeanSquaredError")),
        ("--preference: there is no class MeanSquaredError of this kind",),
    ),
    "a policy for ties that does not exist": (
        helpfulness(preference=named("BradleyTerry", ties="third")),
        ("--ties: expected one of 'drop', 'half', got third",),
    ),
    "a label smoothing of 1": (
        helpfulness(preference=named("BradleyTerry", label_smoothing=1.0)),
        ("label_smoothing is wrong", "[0, 1), got 1.0"),
    ),
    "a loss weight below 0": (
        helpfulness(loss_weight=-1.0),
        ("loss_weight of 'helpfulness' is wrong", "0 or more, got -1.0"),
    ),
    "one level": (
        length(rating=named("CumulativeLink", num_levels=1)),
        ("num_levels is wrong", "2 or more, got 1"),
    ),
    "a rating over the levels": (
        length(rating=named("CumulativeLink", num_levels=2)),
        ("objective 'length': a rating is out of range", "0 to 1, got 2.0"),
    ),
    "a decoder that is read at the pooler": (
        model(response_format={"read_at": "pooler"}),
        ("is a decoder", "read_at 'last', got pooler"),
    ),
    "a weighted source without a name": (
        only_source(weight=2.0),
        ("pairs-train.jsonl: a weighted source needs a name",),
    ),
    "a source of weight 0": (
        only_source(weight=0.0, name="pairs"),
        ("weight is wrong", "above 0, got 0.0"),
    ),
    "a format of responses that does not exist": (
        only_source(format={"class_path": "Outcome"}),
        ("--format: there is no class Outcome. Did you mean Outcomes?",),
    ),
    "chains for an outcome model": (
        {"data": {"train": [source("chains.jsonl")]}},
        ("the model has no objectives of steps", "chains.jsonl", "Set model.steps"),
    ),
    "no responses to train on": ({"data": {"train": []}}, ("no sources to train on",)),
    "responses that are missing": (
        {"data": {"train": sources("absent")}},
        ("there is no file pairs-absent.jsonl",),
    ),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_configuration_that_cannot_be_meant_is_one_clear_line(
    name: str, run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, says = CONFIGURATIONS[name]
    write_outcomes(run_dir)
    write_outcome_config(run_dir, **copy.deepcopy(dict(changes)))
    refuse(Case(name, "fit --config base.yaml", says), run_dir, monkeypatch, capsys)
