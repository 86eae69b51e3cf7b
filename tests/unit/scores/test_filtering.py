"""Which rows fail which rule."""

from __future__ import annotations

import numpy as np
import pytest
from stored_scores import make_rows, make_spec, write_rows

from prm.errors import ConfigError, DataError
from prm.scores.filtering import Rules, failures
from prm.scores.stored import read_scores

SCORES = [
    ("a", (3.0, 2.0, 0.5)),
    ("a", (1.0, 0.0, 0.0)),
    ("b", (0.0, -4.0, 2.0)),
    ("b", (0.5, None, 0.0)),
    ("b", (0.25, 1.0, 0.0)),
]


@pytest.fixture
def table(tmp_path):
    return read_scores(write_rows(tmp_path / "s.jsonl", make_rows(SCORES), make_spec()))


def failing(table, **rules):
    found = failures(table, table.stored_rewards, Rules(**rules))
    return {reason: np.flatnonzero(rows).tolist() for reason, rows in found.items()}


def test_rewards(table):
    np.testing.assert_allclose(table.stored_rewards, [3.75, 1.0, -3.0, np.nan, 0.75])
    expected = {"reward below 0.8": [2, 4], "reward above 3": [0], "no reward": [3]}
    assert failing(table, min_reward=0.8, max_reward=3) == expected


def test_a_threshold_on_a_score_follows_the_direction(table):
    found = failing(table, thresholds={"safety": 0.0, "verbosity": 0.25})
    assert found["safety: score below 0"] == [2]
    assert found["verbosity: score above 0.25"] == [0, 2]
    assert found["no score of safety"] == [3]


@pytest.mark.parametrize(("unit", "threshold"), [("utility", -0.5), ("probability", 0.3775)])
def test_more_utility_is_always_better(table, unit, threshold):
    found = failing(table, thresholds={"verbosity": threshold}, unit=unit)
    assert found[f"verbosity: {unit} below {threshold:g}"] == [2]


def test_the_best_share_is_rounded_up(table):
    assert failing(table, top_share=0.5)["not in the best 0.5 of all rows"] == [2, 4]
    found = failing(table, top_share=0.5, within="group")
    assert found["not in the best 0.5 of their group"] == [1, 2]


def test_the_policy_for_missing_numbers(table):
    assert "no reward" not in failing(table, min_reward=0, missing="keep")
    with pytest.raises(DataError, match=r"row 'r-3': the row has no reward"):
        failing(table, min_reward=0, missing="error")
    assert failing(table, thresholds={"verbosity": 9}, missing="error")


def test_wrong_rules_are_refused(table):
    with pytest.raises(ConfigError, match="nothing to filter by"):
        Rules()
    with pytest.raises(ConfigError, match="--top_share is wrong"):
        Rules(top_share=0)
    with pytest.raises(
        ConfigError, match=r"expected helpfulness \| safety \| verbosity, got saftey"
    ):
        failing(table, thresholds={"saftey": 1})
