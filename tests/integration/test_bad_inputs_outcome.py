"""Bad comparisons, ratings, objectives and stored scores: refused with one clear line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.outcome_runs import (
    EQUAL,
    HELPFULNESS,
    LENGTH,
    SAFETY,
    write_outcome_config,
    write_outcomes,
)
from tests.refusals import Case, refuse
from tests.stored_scores import make_rows, make_spec, write_rows

CONVERT = "data convert --input rows.jsonl --output out.jsonl"
FILTER = "filter scores.jsonl --output out.jsonl"
REWARD = "reward scores.jsonl --output out.jsonl"
PAIR = {"prompt": "A prime?", "chosen": "7", "rejected": "8", "objective": "factuality"}
RATED = {"prompt": "A prime?", "response": "7", "ratings": {"factuality": 1}}


def rows(*found: Mapping[str, Any]) -> dict[str, str]:
    return {"rows.jsonl": "".join(json.dumps(row) + "\n" for row in found)}


def scores(folder: Path, patch: pytest.MonkeyPatch) -> None:
    write_rows(folder / "scores.jsonl", make_rows([("a", (1.0, None, 0.5))]), make_spec())


def no_spec(folder: Path, patch: pytest.MonkeyPatch) -> None:
    write_rows(folder / "scores.jsonl", make_rows([("a", (1.0, 2.0, 0.5))]), None)


RECORDS = [
    Case(
        "a comparison without objective",
        CONVERT,
        ("rows.jsonl:1", "objective"),
        rows({key: value for key, value in PAIR.items() if key != "objective"}),
    ),
    Case(
        "ranks that leave one out",
        CONVERT,
        ("rows.jsonl:2", "ranks"),
        rows(PAIR, {**PAIR, "responses": ["7", "5", "8"], "ranks": [0, 1, 3], "chosen": None}),
    ),
    Case(
        "a negative margin",
        CONVERT,
        ("rows.jsonl:1", "strength"),
        rows({**PAIR, "margin": -1}),
    ),
    Case(
        "a rating that is a word",
        CONVERT,
        ("rows.jsonl:2", "rating of 'factuality'"),
        rows(RATED, {**RATED, "ratings": {"factuality": "good"}}),
    ),
]

STORED = [
    Case("scores without their spec", REWARD, ("no spec beside the scores",), arrange=no_spec),
    Case(
        "weights of another objective",
        f"{REWARD} --aggregation.weights.honesty=2",
        ("weights of weighted_sum", "honesty"),
        arrange=scores,
    ),
    Case(
        "a parameter that the aggregation does not have",
        f"{REWARD} --aggregation WorstCase --aggregation.beta=2",
        ("worst_case has no parameter 'beta'",),
        arrange=scores,
    ),
    Case(
        "an unknown objective aggregation",
        f"{REWARD} --aggregation Median",
        ("unknown objective aggregation", "Median"),
        arrange=scores,
    ),
    Case(
        "a missing score where none may be",
        f"{REWARD} --aggregation.missing=error",
        ("objectives are missing", "safety missing in 1 rows"),
        arrange=scores,
    ),
    Case("no rule to filter by", FILTER, ("nothing to filter by",), arrange=scores),
    Case(
        "a threshold of another objective",
        f"{FILTER} --thresholds.honesty=0",
        ("honesty",),
        arrange=scores,
    ),
]

CONFIGURATIONS: dict[str, tuple[Mapping[str, Any], tuple[str, ...]]] = {
    "an objective that nothing supervises": (
        {"responses": [HELPFULNESS, SAFETY, LENGTH, {"name": "honesty"}]},
        ("no training record has a label of objective 'honesty'",),
    ),
    "ratings that no loss uses": (
        {"responses": [HELPFULNESS, {"name": "safety"}, LENGTH]},
        ("24 ratings of objective 'safety'", "no loss uses them"),
    ),
    "a rating that the loss is not made for": (
        {"responses": [HELPFULNESS, SAFETY, {**LENGTH, "rating": SAFETY["rating"]}]},
        ("a rating is out of range", "[0, 1]"),
    ),
    "objectives without an aggregation": (
        {"objective_aggregation": None},
        ("objective_aggregation is missing",),
    ),
    "weights that leave an objective out": (
        {
            "objective_aggregation": {
                **EQUAL,
                "init_args": {"weights": {"helpfulness": 1, "safety": 1}},
            }
        },
        ("weights of weighted_sum do not fit the objectives", "length"),
    ),
    "a readout that the loss cannot train": (
        {"responses": [{**HELPFULNESS, "readout": "gaussian"}, SAFETY, LENGTH]},
        ("BradleyTerry cannot train the readout of 'helpfulness'",),
    ),
}

CASES = [*RECORDS, *STORED]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_outcomes_are_one_clear_line(
    case: Case,
    run_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    refuse(case, run_dir, monkeypatch, capsys)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_bad_outcome_configuration_is_one_clear_line(
    name: str, run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, says = CONFIGURATIONS[name]
    write_outcomes(run_dir)
    write_outcome_config(run_dir, model=model)
    refuse(Case(name, "fit --config base.yaml", says), run_dir, monkeypatch, capsys)
