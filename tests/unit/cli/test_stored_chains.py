"""`prm reward`, `rank` and `filter` on stored scores of chains: what the model itself would say."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from prm.aggregation.steps import STEP_AGGREGATIONS, SoftMin, StepAggregation
from prm.cli.main import main
from prm.models.checkpoint import save
from prm.records import Chain
from prm.scores.stored import read_scores
from prm.scoring.batch import score_file, survey
from prm.scoring.scorer import RewardScorer
from prm.spec import RewardSpec, Shaping
from tests.outcome_models import save_joint_model
from tests.stored_scores import make_rows, make_spec, read_lines, write_rows
from tests.tiny_models import CHAINS, TWO_OBJECTIVES, tiny_model

SPEC = RewardSpec(step_heads=TWO_OBJECTIVES, chain_reward="correctness", max_length=32)
LINE = Shaping(center=0.5, scale=2.0)
RECORDS = [
    Chain(chain.prompt, chain.completions, id=f"c-{index}")
    for index, chain in enumerate(
        (*CHAINS, Chain("1 + 1 = ?", ["1", "", "2"]), Chain("long " * 20, ["no room for a step"]))
    )
]
"""Three are cut off, one has an empty step, and the last has no score."""

KEEP = ("--truncated", "keep")
"""The tests are about other rules."""

Row = dict[str, Any]


@pytest.fixture(scope="module")
def scorer() -> RewardScorer:
    return RewardScorer(tiny_model(spec=SPEC))


@pytest.fixture(params=[".jsonl", ".parquet"])
def scores(scorer: RewardScorer, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path = tmp_path / f"scores{request.param}"
    score_file(scorer, survey(RECORDS), path, keep_text=True)
    return path


def rows_of(path: Path) -> list[Row]:
    if path.suffix == ".jsonl":
        return read_lines(path)
    rows: list[Row] = pq.read_table(path).to_pylist()
    return rows


def expected_rows(scorer: RewardScorer, aggregation: StepAggregation, **options: Any) -> list[Row]:
    again = RewardScorer(scorer.model, aggregation, **options)
    return [score.to_row() for score in again.score(RECORDS)]


def is_close(value: float | None, expected: float | None) -> bool:
    if value is None or expected is None:
        return value is expected
    return math.isclose(value, expected, rel_tol=1e-12)


def check_rows(rows: list[Row], expected: list[Row]) -> None:
    """Compare all columns of a score, numbers up to rounding."""
    assert len(rows) == len(expected)
    for row, wanted in zip(rows, expected, strict=True):
        for name, value in wanted.items():
            if name == "reward":
                assert is_close(row[name], value), row["id"]
            elif name == "scores":
                assert row[name].keys() == value.keys()
                assert all(is_close(row[name][key], value[key]) for key in value), row["id"]
            elif name not in ("step_logits", "step_probabilities"):
                assert row[name] == value, (row["id"], name)


def run(*words: object) -> int:
    return main([str(word) for word in words])


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize("name", STEP_AGGREGATIONS)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_another_aggregation_is_that_of_the_model(
    scorer: RewardScorer, scores: Path, suffix: str, name: str
) -> None:
    output = scores.with_name(f"again{suffix}")
    assert run("reward", scores, "--aggregation", name, "--output", output) == 0
    check_rows(rows_of(output), expected_rows(scorer, STEP_AGGREGATIONS[name]()))
    assert read_scores(output).known_spec().step_aggregation == STEP_AGGREGATIONS[name]()


def test_nothing_else_changes(scores: Path) -> None:
    output = scores.with_name("again.jsonl")
    assert run("reward", scores, "--aggregation", "product", "--output", output) == 0
    changed = {"reward": 0, "aggregation": "", "scores": {}}
    for old, new in zip(rows_of(scores), rows_of(output), strict=True):
        assert {**old, **changed} == {**new, **changed}
        assert list(old) == list(new)


def test_parameters_and_shaping_can_be_given(scorer: RewardScorer, scores: Path) -> None:
    output = scores.with_name("soft.jsonl")
    words = ("--aggregation", "softmin", "--aggregation.beta=20", "--shaping.center=0.5")
    assert run("reward", scores, *words, "--shaping.scale=2", "--output", output) == 0
    check_rows(rows_of(output), expected_rows(scorer, SoftMin(20.0), shaping=LINE))
    again = scores.with_name("again.jsonl")
    assert run("reward", output, "--aggregation.beta=5", "--output", again) == 0
    check_rows(rows_of(again), expected_rows(scorer, SoftMin(5.0), shaping=LINE))


def test_the_summary_says_what_changes(scores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = scores.with_name("again.jsonl")
    assert run("reward", scores, "--aggregation", "last", "--output", output) == 0
    shown = capsys.readouterr().out
    assert f"{output}: 7 rows, aggregation last" in shown
    assert "another chain wins in" in shown
    assert "of the pairs of chains change their order" in shown


def test_chains_are_ranked_as_the_model_would(
    scorer: RewardScorer, scores: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = scores.with_name("ranked.jsonl")
    assert run("rank", scores, "--aggregation", "product", "--output", output, *KEEP) == 0
    rows = rows_of(output)
    by_id = {row["id"]: row for row in expected_rows(scorer, STEP_AGGREGATIONS["product"]())}
    for group in {row["group"] for row in rows}:
        mine = [row for row in rows if row["group"] == group]
        rewards = [by_id[row["id"]]["reward"] for row in mine]
        known = [reward for reward in rewards if reward is not None]
        assert [row["reward"] for row in mine] == pytest.approx(rewards)
        assert known == sorted(known, reverse=True)
        assert [row["rank"] for row in mine if row["reward"] is not None] == [*range(len(known))]
        margins = [row["margin"] for row in mine if row["margin"] is not None]
        assert margins == pytest.approx([a - b for a, b in itertools.pairwise(known)])
    assert all(row["win_probability"] is None for row in rows)
    shown = capsys.readouterr().out
    assert "3 prompts, 7 chains" in shown
    assert "3 chains were cut off at the model's max_length" in shown
    assert "1 chains have no reward and no rank; the first:" in shown


def test_the_best_chains_are_drawn(scores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("rank", scores, "--top", "1") == 0
    shown = capsys.readouterr().out
    assert "What is 7 - 5 + 1?" in shown
    assert "7 - 5 = 3 3 + 1 = 4 So: 4" in shown


def test_chains_are_filtered_by_reward_and_objective(
    scorer: RewardScorer, scores: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, dropped = scores.with_name("kept.jsonl"), scores.with_name("dropped.jsonl")
    aggregated = expected_rows(scorer, STEP_AGGREGATIONS["mean"]())
    known = [row for row in aggregated if row["reward"] is not None]
    reward = round(float(np.quantile([row["reward"] for row in known], 0.3)), 3)
    redundancy = round(float(np.quantile([row["scores"]["redundancy"] for row in known], 0.3)), 3)
    words = ("--aggregation", "mean", "--min_reward", reward, "--output", kept)
    words = (*words, f"--thresholds.redundancy={redundancy}", "--dropped", dropped)
    assert run("filter", scores, *words, *KEEP) == 0
    passes = {
        row["id"]: row["reward"] >= reward and row["scores"]["redundancy"] >= redundancy
        for row in known
    }
    assert 0 < sum(passes.values()) < len(passes)
    assert [row["id"] for row in rows_of(kept)] == [name for name, good in passes.items() if good]
    reasons = {row["id"]: row["dropped_because"] for row in rows_of(dropped)}
    assert reasons["c-6"] == "no reward; no score of redundancy"
    assert f"redundancy: score below {redundancy:g}" in " ".join(reasons.values())
    assert read_scores(kept).known_spec().step_aggregation.name == "mean"
    assert "3 chains were cut off at the model's max_length" in capsys.readouterr().out


def cut_before_its_mistake(tmp_path: Path, scorer: RewardScorer) -> Path:
    """Return scores of a complete chain, and of a better one that was not read to its end."""
    rows = expected_rows(scorer, STEP_AGGREGATIONS["min"]())[:2]
    for row, reward, num_cut in zip(rows, (0.526, 0.565), (0, 2), strict=True):
        row.update(group="q", reward=reward, scores=dict.fromkeys(row["scores"], reward))
        row.update(num_truncated=num_cut)
    return write_rows(tmp_path / "cut.jsonl", rows, SPEC)


def test_a_chain_cut_off_is_never_the_best_unseen(
    scorer: RewardScorer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, output = cut_before_its_mistake(tmp_path, scorer), tmp_path / "out.jsonl"
    words = ("rank", path, "--output", output, "--overwrite")
    for how, order in (("last", ["c-0", "c-1"]), ("keep", ["c-1", "c-0"])):
        assert run(*words, "--truncated", how) == 0
        assert [row["id"] for row in rows_of(output)] == order
        shown = capsys.readouterr().out
        assert "1 chains were cut off at the model's max_length: ranked" in shown
        assert f"first in {order.index('c-0')} of 1 prompts" in shown
    assert run(*words) == 0
    assert [(row["id"], row["margin"]) for row in rows_of(output)] == [("c-0", None), ("c-1", None)]
    assert f"{path}:2, row 'c-1'" in refused(capsys, *words, "--truncated", "error")


def test_a_chain_cut_off_is_not_kept_unseen(
    scorer: RewardScorer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, output = cut_before_its_mistake(tmp_path, scorer), tmp_path / "out.jsonl"
    words = ("filter", path, "--output", output, "--overwrite")
    for rule in (("--min_reward", "0.5"), ("--top_share", "0.5", "--within", "group")):
        assert run(*words, *rule) == 0
        assert [row["id"] for row in rows_of(output)] == ["c-0"]
        assert "cut off at the model's max_length: dropped" in capsys.readouterr().out
    assert run(*words, "--top_share", "0.5", "--truncated", "keep") == 0
    assert [row["id"] for row in rows_of(output)] == ["c-1"]
    assert "c-1" in refused(capsys, *words, "--min_reward", "0", "--truncated", "error")


def test_a_probability_of_chains_is_one_under_every_aggregation(
    scorer: RewardScorer, scores: Path
) -> None:
    for name, threshold in (("mean_logit", 0.0), ("min", 0.5)):
        output = scores.with_name(f"{name}.jsonl")
        words = ("--thresholds.correctness=0.5", "--unit", "probability", "--output", output)
        assert run("filter", scores, "--aggregation", name, *words, *KEEP) == 0
        aggregated = expected_rows(scorer, STEP_AGGREGATIONS[name]())
        known = [row for row in aggregated if row["reward"] is not None]
        good = [row["id"] for row in known if row["reward"] >= threshold]
        assert [row["id"] for row in rows_of(output)] == good
        assert 0 < len(good) < len(known)


def test_the_best_share_of_each_problem_and_the_rows_behind_it(
    scores: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(chain.to_row()) + "\n" for chain in RECORDS))
    output = tmp_path / "kept.jsonl"
    words = ("--top_share", "0.3", "--within", "group", "--data", data, "--output", output)
    assert run("filter", scores, *words, *KEEP) == 0
    known = [row for row in rows_of(scores) if row["reward"] is not None]
    worst_first = sorted(known, key=lambda row: row["reward"])
    best = {row["group"]: row["id"] for row in worst_first}
    assert {row["id"] for row in rows_of(output)} == set(best.values())
    assert all(row["prompt"] == row["group"] for row in rows_of(output))


def test_scores_without_a_spec_need_the_model_to_be_aggregated(
    scorer: RewardScorer, scores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(f"{scores}.spec.json").unlink()
    model = save(scorer.model, tmp_path / "model")
    output = tmp_path / "again.jsonl"
    words = ("reward", scores, "--aggregation", "product", "--output", output)
    assert "Name the model that gave the scores with --model" in refused(capsys, *words)
    assert run(*words, "--model", model) == 0
    check_rows(rows_of(output), expected_rows(scorer, STEP_AGGREGATIONS["product"]()))


def test_a_filter_can_score_chains_first(
    scorer: RewardScorer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = save(scorer.model, tmp_path / "model"), tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(chain.to_row()) + "\n" for chain in RECORDS))
    output = tmp_path / "kept.jsonl"
    words = ("filter", "--model", model, "--input", data, "--output", output)
    error = refused(capsys, *words, "--thresholds.safety=0")
    assert "expected correctness | redundancy, got safety" in error
    assert run(*words, "--thresholds.correctness=0.5", "--aggregation", "last", *KEEP) == 0
    rewards = [row["reward"] for row in expected_rows(scorer, STEP_AGGREGATIONS["last"]())]
    good = [f"c-{index}" for index, reward in enumerate(rewards) if (reward or 0) >= 0.5]
    assert [row["id"] for row in rows_of(output)] == good


def test_rows_say_what_a_joint_model_scored(tmp_path: Path) -> None:
    folder, data = save_joint_model(tmp_path / "model"), tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(chain.to_row()) + "\n" for chain in RECORDS[:5]))
    scores, output = tmp_path / "scores.jsonl", tmp_path / "again.jsonl"
    words = ("--input", data, "--format", "HFStepwise", "--output", scores)
    assert run("score", "--model", folder, *words) == 0
    assert run("reward", scores, "--aggregation", "product", "--output", output) == 0
    expected = RewardScorer.from_pretrained(folder, "cpu", step_aggregation="product").score(
        RECORDS[:5]
    )
    rewards = [row["reward"] for row in rows_of(output)]
    assert rewards == pytest.approx([score.reward for score in expected], abs=1e-6)


REFUSALS: list[tuple[tuple[str, ...], str]] = [
    (
        ("reward", "--aggregation", "WorstCase"),
        "chains, whose steps are aggregated: expected min |",
    ),
    (("reward", "--aggregation", "mine.yaml"), "expected min | product"),
    (("rank", "--aggregation.weights.safety=2"), "min of the steps of chains has no parameter"),
    (
        ("reward", "--aggregation.weights.safety=2"),
        "Weights and the like are for scores of responses",
    ),
    (("reward", "--aggregation", "softmin", "--aggregation.beta=0"), "beta of softmin is wrong"),
    (
        ("filter", "--thresholds.correctness=0", "--unit", "utility"),
        "chains, which have no utilities",
    ),
    (("filter", "--thresholds.safety=0"), "expected correctness | redundancy, got safety"),
]


@pytest.mark.parametrize(("words", "message"), REFUSALS)
def test_what_means_nothing_for_chains_is_refused(
    scores: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    command, *options = words
    output = scores.with_name("new.jsonl")
    assert message in refused(capsys, command, scores, *options, "--output", output)
    assert not output.exists()


def test_an_audit_of_trade_offs_is_for_responses(
    scores: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refused(capsys, "audit", "tradeoffs", "--scores", scores)
    assert "is for objectives of responses, and the scores are of chains" in error
    Path(f"{scores}.spec.json").unlink()
    assert refused(capsys, "audit", "tradeoffs", "--scores", scores) == error


@pytest.mark.parametrize("command", ["reward", "rank", "filter"])
def test_an_aggregation_of_steps_is_refused_for_responses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    path = write_rows(tmp_path / "s.jsonl", make_rows([("a", (1.0, 2.0, 0.5))]), make_spec())
    words = ("--aggregation", "product", "--output", tmp_path / "new.jsonl")
    rule = ("--min_reward", "0") if command == "filter" else ()
    error = refused(capsys, command, path, *words, *rule)
    assert "product aggregates the steps of chains, and the scores are of responses" in error


Edit = Callable[[Row], object]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda row: row["step_logits"].update(correctness=[0.5, "high"]),
            "field 'step_logits.correctness[1]' is wrong: expected a number or null, got high",
        ),
        (
            lambda row: row["step_logits"].update(correctness=0.5),
            "field 'step_logits.correctness' is wrong: expected a list of numbers, got 0.5",
        ),
        (
            lambda row: row["step_logits"].update(correctness=[float("inf")]),
            "the row holds a number that is not finite",
        ),
        (
            lambda row: row["step_logits"]["correctness"].__setitem__(0, float("nan")),
            "the row holds a number that is not finite",
        ),
        (
            lambda row: row.update(reason="cut off"),
            "the row has a reward, and a reason for having none",
        ),
        (
            lambda row: row["scores"].pop("redundancy"),
            "the row has a reward, and not all scores",
        ),
        (
            lambda row: row.update(scores={"helpfulness": 1.0}),
            "the row has a reward, and not all scores",
        ),
        (
            lambda row: row["step_logits"].update(redundancy=[0.5]),
            "the objectives have numbers for other steps",
        ),
        (
            lambda row: row.update(aggregation="mean"),
            "another aggregation: expected min, as the spec says, got mean",
        ),
    ],
)
def test_a_wrong_step_is_named(
    scorer: RewardScorer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    edit: Edit,
    message: str,
) -> None:
    rows = expected_rows(scorer, STEP_AGGREGATIONS["min"]())
    edit(rows[1])
    path = write_rows(tmp_path / "s.jsonl", rows, SPEC)
    error = refused(capsys, "rank", path)
    assert f"{path}:2, row 'c-1'" in error
    assert message in error


def test_rows_without_steps_are_filtered_but_not_aggregated(
    scorer: RewardScorer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = expected_rows(scorer, STEP_AGGREGATIONS["min"]())
    for row in rows:
        del row["step_logits"]
    path = write_rows(tmp_path / "s.jsonl", rows, SPEC)
    kept = tmp_path / "kept.jsonl"
    assert run("filter", path, "--min_reward", "0.5", "--output", kept) == 0
    words = ("reward", path, "--aggregation", "mean", "--output", tmp_path / "new.jsonl")
    assert "the rows do not hold the log-odds of their steps" in refused(capsys, *words)


def test_a_row_that_lost_its_steps_is_not_aggregated(
    scorer: RewardScorer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = expected_rows(scorer, STEP_AGGREGATIONS["min"]())
    rows[1]["step_logits"] = {}
    path = write_rows(tmp_path / "s.jsonl", rows, SPEC)
    error = refused(
        capsys, "reward", path, "--aggregation", "mean", "--output", tmp_path / "n.jsonl"
    )
    assert f"{path}:2, row 'c-1'" in error
    assert "the row has a score, and no log-odds of steps that it is made of" in error


def test_rows_say_which_aggregation_made_them(scorer: RewardScorer, tmp_path: Path) -> None:
    """Without a spec of their own they are read with the model's, which may aggregate otherwise."""
    rows = expected_rows(scorer, STEP_AGGREGATIONS["mean_logit"]())
    path = write_rows(tmp_path / "s.jsonl", rows, SPEC)
    kept = tmp_path / "kept.jsonl"
    rule = ("--thresholds.correctness", "0.5", "--unit", "probability")
    assert run("filter", path, *rule, "--output", kept, *KEEP) == 0
    above = [row["id"] for row in rows if (row["scores"]["correctness"] or -1) >= 0]
    assert [row["id"] for row in read_lines(kept)] == above
    stored = json.loads(kept.with_name("kept.jsonl.spec.json").read_text())
    assert stored["step_aggregation"]["name"] == "mean_logit"


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("reward", ["high"], "field 'reward' is wrong: expected a number, got high"),
        ("reason", [["a"]], "field 'reason' is wrong: expected text, got ['a']"),
        ("reason", [3], "field 'reason' is wrong: expected text, got 3"),
        ("num_truncated", ["2"], "field 'num_truncated' is wrong: expected a number, got 2"),
        ("scores", ["x"], "the row holds no scores"),
        (
            "step_logits",
            [{"correctness": 1.0, "redundancy": 1.0}],
            "field 'step_logits.correctness' is wrong: expected a list of numbers, got 1.0",
        ),
        (
            "step_logits",
            [{"correctness": ["1.2"], "redundancy": ["1"]}],
            "field 'step_logits.correctness[0]' is wrong: expected a number or null, got 1.2",
        ),
    ],
)
def test_columns_of_other_types_are_refused_in_parquet(
    scorer: RewardScorer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    column: str,
    values: list[Any],
    message: str,
) -> None:
    path = tmp_path / "s.parquet"
    score_file(scorer, survey(RECORDS[:2]), path, keep_text=False)
    table = pq.read_table(path)
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, column, pa.array(values * 2)), path)
    assert message in refused(capsys, "rank", path)


def test_scores_of_other_heads_are_refused(scorer: RewardScorer, tmp_path: Path) -> None:
    rows = expected_rows(scorer, STEP_AGGREGATIONS["min"]())
    path = write_rows(tmp_path / "s.jsonl", rows, make_spec())
    assert run("rank", path) == 2


def test_many_rows_at_once_equal_each_alone(tmp_path: Path) -> None:
    """Rows of all lengths, some of their steps missing, against one row at a time."""
    generator = np.random.default_rng(0)
    rows = []
    for index in range(200):
        steps = generator.normal(scale=4.0, size=generator.integers(0, 9)).tolist()
        steps = [None if generator.random() < 0.2 else value for value in steps]
        rows.append(
            {
                "id": str(index),
                "group": "g",
                "scores": {"correctness": None},
                "step_logits": {"correctness": steps},
            }
        )
    table = read_scores(write_rows(tmp_path / "s.jsonl", rows, RewardSpec()))
    for name, cls in STEP_AGGREGATIONS.items():
        alone = [
            np.nan if not known else float(cls()(torch.tensor(known, dtype=torch.float64)))
            for row in rows
            for known in [[v for v in row["step_logits"]["correctness"] if v is not None]]
        ]
        together = table.with_aggregation(cls()).rewards()
        np.testing.assert_allclose(together, alone, rtol=1e-12, err_msg=name)
