"""`prm reward`, `rank`, `filter` and `audit tradeoffs` on files, through the command line."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
from scipy.stats import norm
from stored_scores import WEIGHTS, make_rows, make_spec, read_lines, write_rows

from prm.aggregation.objectives import WeightedSum
from prm.cli.main import main
from prm.scores.stored import read_scores

SCORES = [
    ("Which is the best prime?", (3.0, -2.0, 0.0)),
    ("Which is the best prime?", (1.0, 1.0, 0.0)),
    ("Which is the best prime?", (0.0, None, 0.0)),
    ("Who is there?", (1.0, 0.0, 1.0)),
    ("Who is there?", (0.5, 2.0, 0.0)),
]


@pytest.fixture
def scores(tmp_path):
    return write_rows(tmp_path / "scores.jsonl", make_rows(SCORES, spread=0.5), make_spec())


def run(*words):
    return main([str(word) for word in words])


def refused(capsys, *words):
    try:
        code = run(*words)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    return capsys.readouterr().err


def test_reward_replaces_the_reward_and_nothing_else(scores, tmp_path, capsys):
    output = tmp_path / "new.jsonl"
    assert run("reward", scores, "--aggregation.weights.safety=4", "--output", output) == 0
    old, new = read_lines(scores), read_lines(output)
    assert [row["reward"] for row in new] == pytest.approx([-1.0, 3.0, None, 0.5, 4.5])
    assert all(a | {"reward": 0} == b | {"reward": 0} for a, b in zip(old, new, strict=True))
    assert read_scores(output).spec.objective_aggregation == WeightedSum(WEIGHTS | {"safety": 4})
    shown = capsys.readouterr().out
    assert "another response wins in 1 of 2 prompts (50.0%)" in shown
    assert "20.0% of the rows without a reward" in shown


def test_a_reward_can_be_aggregated_again(scores, tmp_path):
    first, second = tmp_path / "first.parquet", tmp_path / "second.jsonl"
    assert run("reward", scores, "--aggregation", "WorstCase", "--output", first) == 0
    assert pq.read_table(first)["aggregation"].to_pylist() == ["worst_case"] * 5
    weights = json.dumps(WEIGHTS)
    words = ("--aggregation", "WeightedSum", "--aggregation.weights", weights)
    assert run("reward", first, *words, "--output", second) == 0
    old, new = read_lines(scores), read_lines(second)
    assert [row["reward"] for row in new] == pytest.approx([row["reward"] for row in old])


def test_rank_orders_each_prompt(scores, tmp_path, capsys):
    output = tmp_path / "ranked.jsonl"
    assert run("rank", scores, "--output", output) == 0
    rows = read_lines(output)
    assert [row["id"] for row in rows] == ["r-0", "r-1", "r-2", "r-4", "r-3"]
    assert [row["rank"] for row in rows] == [0, 1, None, 0, 1]
    assert [row["margin"] for row in rows] == pytest.approx([0.5, None, None, 1.0, None])
    variance = (1.0 * 0.5) ** 2 + (1.0 / 2 * 0.5) ** 2 + (0.5 * 0.5) ** 2
    assert rows[0]["win_probability"] == pytest.approx(norm.cdf(0.5 / (2 * variance) ** 0.5))
    shown = capsys.readouterr().out
    assert "1 responses have no reward and no rank; the first:" in shown
    assert "row 'r-2'" in shown


def test_rank_under_other_weights_keeps_the_best(scores, tmp_path):
    output = tmp_path / "best.parquet"
    words = ("--top", "1", "--aggregation.weights.safety=4", "--output", output)
    assert run("rank", scores, *words) == 0
    assert pq.read_table(output)["id"].to_pylist() == ["r-1", "r-4"]
    assert read_scores(output).spec.objective_aggregation.weights["safety"] == 4


def test_rank_draws_a_table(scores, capsys):
    assert run("rank", scores, "--top", 2) == 0
    shown = capsys.readouterr().out
    assert "Which is the best prime?" in shown
    assert shown.index("answer 0") < shown.index("answer 1") < shown.index("answer 4")
    assert "answer 2" not in shown


def test_rank_draws_no_more_than_fits(tmp_path, capsys):
    rows = [(f"prompt {i // 2}", (float(i % 2), 0.0, 0.0)) for i in range(100)]
    path = write_rows(tmp_path / "s.jsonl", make_rows(rows), make_spec())
    assert run("rank", path) == 0
    shown = capsys.readouterr().out
    assert "prompt 19" in shown
    assert "prompt 20" not in shown
    assert "... and 60 more rows; --output FILE writes all of them" in shown


def test_filter_says_how_many_and_why(scores, tmp_path, capsys):
    kept, dropped = tmp_path / "kept.jsonl", tmp_path / "dropped.jsonl"
    words = ("--min_reward", "1", "--thresholds.safety=0", "--output", kept, "--dropped", dropped)
    assert run("filter", scores, *words) == 0
    lines = scores.read_text().splitlines(keepends=True)
    assert kept.read_text() == lines[1] + lines[4]
    assert {row["id"]: row["dropped_because"] for row in read_lines(dropped)} == {
        "r-0": "safety: score below 0",
        "r-2": "no reward; no score of safety",
        "r-3": "reward below 1",
    }
    shown = capsys.readouterr().out
    assert "2 of 5 rows kept (40.0%)" in shown
    assert "dropped: 3" in shown


def test_filter_takes_the_rows_of_another_file(scores, tmp_path, capsys):
    data = tmp_path / "data.jsonl"
    rows = [{"id": f"r-{i}", "prompt": "?", "chosen": "a"} for i in (4, 2, 0, 9)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    kept, dropped = tmp_path / "kept.jsonl", tmp_path / "dropped.jsonl"
    words = ("--min_reward", "1.2", "--data", data, "--output", kept)
    assert run("filter", scores, *words, "--dropped", dropped) == 0
    assert read_lines(kept) == [rows[0], rows[2]]
    assert [row["dropped_because"] for row in read_lines(dropped)] == [
        "no reward",
        "no score with its id",
    ]
    assert "2 scored ids are not in" in capsys.readouterr().out
    again = ("--overwrite", "--missing", "error")
    words = ("--thresholds.helpfulness=0", "--data", data, "--output", kept, *again)
    assert "row 'r-9': the row has no score" in refused(capsys, "filter", scores, *words)


def test_filter_leaves_out_wrong_rows_of_the_other_file(scores, tmp_path, capsys):
    data, kept = tmp_path / "data.jsonl", tmp_path / "kept.jsonl"
    rows = [{"id": f"r-{i}", "prompt": "?", "response": "a"} for i in (4, 4, 0)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{]\n")
    words = ("filter", scores, "--min_reward", "-9", "--data", data, "--output", kept)
    assert "have the same id" in refused(capsys, *words)
    for named in ((), ("--format", "Outcomes")):
        assert run(*words, *named, "--on_error", "skip", "--overwrite", "true") == 0
        assert read_lines(kept) == [rows[0], rows[2]]
        out = capsys.readouterr().out
        assert out.count("1 rows left out") == 2
        assert "not JSON" in out


def test_filter_that_keeps_nothing_fails(scores, tmp_path):
    assert run("filter", scores, "--min_reward", "99", "--output", tmp_path / "k.jsonl") == 1
    assert (tmp_path / "k.jsonl").read_bytes() == b""


def test_process_scores_need_no_spec_to_be_filtered(tmp_path):
    rows = [{"id": str(i), "reward": i / 4, "scores": {"correctness": i / 4}} for i in range(5)]
    path = write_rows(tmp_path / "s.jsonl", rows, None)
    assert run("filter", path, "--top_share", "0.4", "--output", tmp_path / "k.jsonl") == 0
    assert read_lines(tmp_path / "k.jsonl") == rows[3:]


def test_audit_draws_and_writes(scores, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    mine = tmp_path / "mine.yaml"
    mine.write_text("class_path: SoftMinimum\n")
    words = (
        "audit",
        "tradeoffs",
        "--scores",
        scores,
        "--compare",
        mine,
        "--output",
        tmp_path / "r",
    )
    assert run(*words) == 0
    assert "mine" in capsys.readouterr().out
    report = json.loads((tmp_path / "r" / "tradeoffs.json").read_text())
    assert report["choices"]["mine"]["parameters"]["name"] == "soft_minimum"
    assert "the folder holds a report" in refused(capsys, *words)
    assert run(*words, "--overwrite") == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("reward", "{}", "--output", "{}"), "the output exists"),
        (("reward", "{}", "--output", "x.csv"), "the output's kind is not known"),
        (("reward", "{}", "--aggregation.weights.safty=2", "--output", "x.jsonl"), "safety"),
        (("rank", "{}", "--top", "0"), "--top is wrong"),
        (("filter", "{}", "--output", "x.jsonl"), "nothing to filter by"),
        (
            ("filter", "{}", "--min_reward", "0", "--output", "x.jsonl", "--dropped", "x.jsonl"),
            "same",
        ),
        (("audit", "tradeoffs", "--scores", "{}", "--compare", "no.yaml"), "cannot be read"),
    ],
)
def test_wrong_options_are_refused(scores, capsys, words, message):
    error = refused(capsys, *(word.format(scores) for word in words))
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", [("reward",), ("rank",), ("filter",), ("audit", "tradeoffs")])
def test_help_shows_an_example(command, capsys):
    with pytest.raises(SystemExit):
        run(*command, "--help")
    assert f"prm {' '.join(command)} " in capsys.readouterr().out.split("options:")[0]
