"""Stored scores: read into columns, aggregated, written back."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from stored_scores import NAMES, make_rows, make_spec, read_lines, write_rows

from prm.aggregation.normalize import Quantile
from prm.aggregation.objectives import Gated, WeightedSum, WorstCase
from prm.errors import ConfigError, DataError, OutputError
from prm.scores.rewrite import check_outputs, read_rows, write_scores
from prm.scores.stored import read_scores
from prm.scores.tables import spec_path
from prm.spec import ResponseHead, RewardSpec

SCORES = [("a", (1.0, 2.0, 0.5)), ("b", (0.0, None, 0.0)), ("a", (2.0, -4.0, 1.0))]


@pytest.fixture
def path(tmp_path):
    return write_rows(tmp_path / "scores.jsonl", make_rows(SCORES, spread=0.5), make_spec())


def everything(table):
    return np.arange(table.num_rows)


def test_columns_are_those_of_the_rows(path):
    table = read_scores(path)
    assert table.objectives == NAMES
    assert table.ids.tolist() == ["r-0", "r-1", "r-2"]
    assert (table.groups.tolist(), table.group_names) == ([0, 1, 0], ("a", "b"))
    np.testing.assert_array_equal(table.scores, [[1, 2, 0.5], [0, np.nan, 0], [2, -4, 1]])
    np.testing.assert_array_equal(table.spreads, np.full((3, 3), 0.5))
    assert table.gates is None
    assert table.place(1) == f"{path}:2, row 'r-1'"


def test_rewards_are_directed_normalized_and_missing_where_a_score_is(path):
    table = read_scores(path)
    np.testing.assert_allclose(table.utilities(), [[1, 1, -0.5], [0, np.nan, 0], [2, -2, -1]])
    np.testing.assert_allclose(
        table.with_aggregation(make_spec().objective_aggregation).rewards(), table.stored_rewards
    )
    np.testing.assert_allclose(table.stored_rewards, [1.75, np.nan, -0.5])
    np.testing.assert_allclose(table.with_aggregation(WorstCase()).rewards(), [-0.5, np.nan, -2])


def test_deviation_of_a_weighted_sum_by_hand(path):
    deviations = (
        read_scores(path)
        .with_aggregation(WeightedSum({"helpfulness": 1, "safety": 2, "verbosity": 0}))
        .deviations()
    )
    expected = 0.5 * np.sqrt(1**2 + (2 / 2) ** 2)
    np.testing.assert_allclose(deviations, [expected, np.nan, expected])


@pytest.mark.parametrize("reason", ["no spreads", "not linear", "curved normalizer"])
def test_deviation_is_unknown_where_it_is_not_exact(tmp_path, reason):
    spec = make_spec()
    if reason == "curved normalizer":
        points = [[0.0, 0.25], [1.0, 0.75]]
        spec = spec.with_(normalizers={"safety": Quantile(points)})
    rows = make_rows(SCORES, spread=None if reason == "no spreads" else 0.5)
    table = read_scores(write_rows(tmp_path / "s.jsonl", rows, spec))
    aggregation = WorstCase() if reason == "not linear" else WeightedSum()
    assert table.with_aggregation(aggregation).deviations() is None


def test_gates_are_used_where_they_are_stored(tmp_path):
    rows = make_rows(SCORES)
    for row in rows:
        row["gates"] = {"helpfulness": 0.5, "safety": 0.5, "verbosity": 0.0}
    table = read_scores(write_rows(tmp_path / "s.jsonl", rows, make_spec()))
    np.testing.assert_allclose(table.with_aggregation(Gated()).rewards(), [1.0, np.nan, 0.0])


def test_gates_that_are_missing_are_asked_for(path):
    with pytest.raises(ConfigError, match="gated needs the gates of each row"):
        read_scores(path).with_aggregation(Gated()).rewards()


@pytest.mark.parametrize(("first", "second"), [(".jsonl", ".parquet"), (".parquet", ".jsonl")])
def test_rows_survive_both_formats(path, tmp_path, first, second):
    table = read_scores(path)
    one, two = tmp_path / f"one{first}", tmp_path / f"two{second}"
    write_scores(path, one, everything(table), {}, table.spec)
    write_scores(one, two, everything(table), {}, table.spec)
    assert list(read_rows(two, everything(table))) == read_lines(path)
    again = read_scores(two)
    np.testing.assert_array_equal(again.scores, table.scores)
    assert again.spec == table.spec


def test_lines_without_a_change_are_copied_byte_by_byte(tmp_path):
    first, last = '{"id": "x",  "scores": {"s": 1e0}}', '{"id": "z", "scores": {"s": null}}'
    text = f'{first}\n\n{{"id":"y", "scores": {{"s": 2}}}}\n  \n{last}'
    source = tmp_path / "s.jsonl"
    source.write_text(text)
    write_scores(source, tmp_path / "t.jsonl", np.array([2, 0]), {}, None)
    assert (tmp_path / "t.jsonl").read_text() == f"{last}\n{first}\n"
    assert not spec_path(tmp_path / "t.jsonl").exists()


def test_a_reward_is_replaced_at_the_top_only(tmp_path):
    rows = [
        {
            "id": "a",
            "scores": {},
            "reward": 1.0,
            "aggregation": "old",
            "text": '"reward": 3, "aggregation": "x"',
        },
        {"id": "b", "scores": {}, "reward": None, "aggregation": "old"},
        {
            "id": "c",
            "scores": {},
            "inner": {"reward": 5, "aggregation": "x"},
            "reward": 2,
            "aggregation": "old",
        },
        {"id": "d", "scores": {}},
    ]
    source = write_rows(tmp_path / "s.jsonl", rows, None)
    new = {"reward": [0.1, None, 0.3, 0.4], "aggregation": ["new"] * 4}
    write_scores(source, tmp_path / "t.jsonl", np.arange(4), new, None)
    expected = [
        row | {"reward": new["reward"][i], "aggregation": "new"} for i, row in enumerate(rows)
    ]
    assert read_lines(tmp_path / "t.jsonl") == expected


def test_parquet_columns_are_replaced_and_added(path, tmp_path):
    columns = {"reward": [0.5, None], "rank": [0, None], "margin": [None, None]}
    write_scores(path, tmp_path / "t.parquet", np.array([2, 0]), columns, make_spec())
    rows = pq.read_table(tmp_path / "t.parquet").to_pylist()
    assert [(row["id"], row["reward"], row["rank"]) for row in rows] == [
        ("r-2", 0.5, 0),
        ("r-0", None, None),
    ]
    assert rows[0]["response_text"] == "answer 2, 2024-01-01"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"scores": {"helpfulness": "high"}},
            "field 'scores.helpfulness' is wrong: expected a number",
        ),
        ({"id": 7}, "field 'id' is wrong: expected text, got 7"),
        ({"reward": "1"}, "field 'reward' is wrong"),
        ({"scores": 3}, "field 'scores' is wrong"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, change, message):
    rows = make_rows(SCORES)
    rows[1] |= change
    path = write_rows(tmp_path / "s.jsonl", rows, make_spec())
    with pytest.raises(DataError, match=message) as caught:
        read_scores(path)
    assert f"{path}:2" in str(caught.value)


def test_a_broken_line_is_named(path):
    path.write_text(path.read_text()[:-40])
    with pytest.raises(DataError, match=r"scores.jsonl:3: the JSON ends in the middle"):
        read_scores(path)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="not a file of scores"):
        read_scores(tmp_path / "scores.csv")
    with pytest.raises(DataError, match="there is no such file"):
        read_scores(tmp_path / "scores.jsonl")
    other = tmp_path / "chains.jsonl"
    other.write_text(json.dumps({"prompt": "1?", "completions": ["1"]}) + "\n")
    with pytest.raises(DataError, match="the row holds no scores"):
        read_scores(other)


def test_scores_of_other_objectives_are_refused(tmp_path):
    rows = make_rows(SCORES)
    rows[0]["scores"] = {"style": 1.0}
    with pytest.raises(DataError, match="not those of the spec: expected helpfulness, safety"):
        read_scores(write_rows(tmp_path / "s.jsonl", rows, make_spec()))


def test_the_spec_comes_from_beside_or_from_the_model(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "prm_config.json").write_text(make_spec().to_json())
    bare = write_rows(tmp_path / "bare.jsonl", make_rows(SCORES), None)
    assert read_scores(bare, tmp_path / "model").spec == make_spec()
    with pytest.raises(ConfigError, match=r"no spec beside the scores.*--model"):
        read_scores(bare).with_aggregation(WorstCase()).rewards()
    with_spec = write_rows(tmp_path / "s.jsonl", make_rows(SCORES), make_spec())
    with pytest.raises(ConfigError, match="--model contradicts"):
        read_scores(with_spec, tmp_path / "model")


def test_rows_without_a_group_are_named(tmp_path):
    rows = make_rows(SCORES)
    rows[2]["group"] = None
    table = read_scores(write_rows(tmp_path / "s.jsonl", rows, make_spec()))
    with pytest.raises(DataError, match=r":3, row 'r-2': the row has no group"):
        table.check_groups()


def test_existing_outputs_are_refused(path, tmp_path):
    check_outputs(None, tmp_path / "new.jsonl", overwrite=False)
    with pytest.raises(OutputError, match="the output exists"):
        check_outputs(path, overwrite=False)
    (tmp_path / "new.jsonl.spec.json").write_text("{}")
    with pytest.raises(OutputError, match="the output's spec exists"):
        check_outputs(tmp_path / "new.jsonl", overwrite=False)
    check_outputs(tmp_path / "new.jsonl", overwrite=True)


QUANTILES = RewardSpec(
    step_heads=(),
    chain_reward="",
    response_heads=(ResponseHead("help", "quantile", 2, levels=(0.1, 0.9)),),
    objective_aggregation=WeightedSum(),
)


def quantile_file(tmp_path, spec, **changes):
    path = write_rows(tmp_path / "q.jsonl", make_rows([("a", (1.0,))], spec, spread=0.5), None)
    spec_path(path).write_text(json.dumps(spec.to_dict() | changes))
    return path


def test_half_widths_of_older_files_are_no_deviations(tmp_path):
    assert read_scores(quantile_file(tmp_path, QUANTILES)).deviations() == pytest.approx([0.5])
    assert read_scores(quantile_file(tmp_path, QUANTILES, version=4)).spreads is None


def test_a_score_off_its_center_has_no_deviation(tmp_path):
    skewed = ResponseHead("help", "quantile", 2, levels=(0.5, 0.9))
    spec = QUANTILES.with_(response_heads=(skewed,))
    assert read_scores(quantile_file(tmp_path, spec)).deviations() is None
