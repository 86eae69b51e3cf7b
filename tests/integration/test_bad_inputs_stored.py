"""Damaged score files and options that do not fit them: one clear line, and nothing is written."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest

from prm.spec import RewardSpec
from tests.refusals import Arrange, Case, refuse
from tests.stored_scores import make_rows, make_spec, write_rows

SCORES = [("A prime?", (3.0, -2.0, 0.0)), ("A prime?", (1.0, 1.0, 0.0)), ("?", (0.0, 0.0, 1.0))]
REWARD = "reward scores.jsonl --output new.jsonl"
RANK = "rank scores.jsonl"
FILTER = "filter scores.jsonl --output kept.jsonl"
AUDIT = "audit tradeoffs --scores scores.jsonl"


def lines(*rows: Mapping[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def stored(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Write scores.jsonl with its spec."""
    write_rows(folder / "scores.jsonl", make_rows(SCORES, spread=0.5), make_spec())


def changed(index: int, **fields: Any) -> Arrange:
    """Write scores of which one row has other fields."""

    def arrange(folder: Path, patch: pytest.MonkeyPatch) -> None:
        rows = make_rows(SCORES)
        rows[index] |= fields
        write_rows(folder / "scores.jsonl", rows, make_spec())

    return arrange


def edited(name: str, edit: Callable[[str], str]) -> Arrange:
    """Write scores and edit the text of a file."""

    def arrange(folder: Path, patch: pytest.MonkeyPatch) -> None:
        stored(folder, patch)
        (folder / name).write_text(edit((folder / name).read_text()))

    return arrange


def existing(name: str) -> Arrange:
    """Write scores and another file."""

    def arrange(folder: Path, patch: pytest.MonkeyPatch) -> None:
        stored(folder, patch)
        (folder / name).write_text("old")

    return arrange


def of_steps(folder: Path, patch: pytest.MonkeyPatch) -> None:
    rows = [{"id": "a", "group": "g", "reward": 0.5, "scores": {"correctness": 0.5}}]
    write_rows(folder / "scores.jsonl", rows, None)


def of_chains(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Write scores of chains with their spec."""
    scores = {"scores": {"correctness": 0.5}, "step_logits": {"correctness": [0.0, 1.0]}}
    row = {"id": "a", "group": "g", "reward": 0.5, "aggregation": "min", **scores}
    write_rows(folder / "scores.jsonl", [row], RewardSpec())


def full_disk(folder: Path, patch: pytest.MonkeyPatch) -> None:
    def fsync(descriptor: int) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    stored(folder, patch)
    patch.setattr(os, "fsync", fsync)


FILES = [
    Case("scores that are missing", REWARD, ("there is no such file", "scores.jsonl")),
    Case("scores of another kind", "rank rows.csv", ("not a file of scores", "rows.csv")),
    Case("an empty file of scores", RANK, ("the file is empty",), {"scores.jsonl": ""}),
    Case(
        "rows without scores",
        RANK,
        ("scores.jsonl:1: the row holds no scores", "a number per objective", "--input"),
        {"scores.jsonl": lines({"prompt": "1?", "responses": ["1", "2"]})},
    ),
    Case(
        "scores whose last line is cut off",
        f"{REWARD} --aggregation WorstCase",
        ("scores.jsonl:3", "ends in the middle"),
        arrange=edited("scores.jsonl", lambda text: text[:-40]),
    ),
    Case(
        "a score that is text",
        RANK,
        ("scores.jsonl:2, row 'r-1': field 'scores.safety' is wrong", "a number or null, got high"),
        arrange=changed(1, scores={"helpfulness": 1.0, "safety": "high", "verbosity": 0.0}),
    ),
    Case(
        "a reward that is text",
        RANK,
        ("scores.jsonl:2, row 'r-1': field 'reward' is wrong", "a number, got NaN"),
        arrange=changed(1, reward="NaN"),
    ),
    Case(
        "a reward that is infinite",
        f"{RANK} --output new.jsonl",
        ("scores.jsonl:2, row 'r-1'", "not finite"),
        arrange=changed(1, reward=float("inf")),
    ),
    Case(
        "scores that are a list",
        RANK,
        ("row 'r-1': field 'scores' is wrong", "a number per objective, got [1, 2, 3]"),
        arrange=changed(1, scores=[1, 2, 3]),
    ),
    Case(
        "scores of other objectives than the spec's",
        RANK,
        ("the scores are not those of the spec", "helpfulness, safety, verbosity", "got wit"),
        arrange=changed(0, scores={"wit": 1.0}),
    ),
    Case(
        "a row without a group",
        RANK,
        ("scores.jsonl:2, row 'r-1': the row has no group",),
        arrange=changed(1, group=None),
    ),
    Case(
        "a spec of scores that is cut off",
        RANK,
        ("scores.jsonl.spec.json: not JSON",),
        arrange=edited("scores.jsonl.spec.json", lambda text: text[:-50]),
    ),
    Case(
        "a Parquet file of scores that is damaged",
        "rank scores.parquet",
        ("scores.parquet", "Parquet file is cut off or damaged"),
        {"scores.parquet": b"PAR1" + b"\0" * 100},
    ),
    Case(
        "another aggregation for scores of steps",
        f"{REWARD} --aggregation WorstCase",
        ("there is no spec beside the scores",),
        arrange=of_steps,
    ),
    Case(
        "an aggregation of objectives for scores of chains",
        f"{REWARD} --aggregation WorstCase",
        ("chains, whose steps are aggregated", "got WorstCase"),
        arrange=of_chains,
    ),
    Case(
        "weights for scores of chains",
        f"{RANK} --aggregation.weights.correctness=2",
        ("min of the steps of chains has no parameter 'weights.correctness'",),
        arrange=of_chains,
    ),
    Case(
        "utilities of chains",
        f"{FILTER} --thresholds.correctness=0 --unit utility",
        ("chains, which have no utilities", "--unit score or probability"),
        arrange=of_chains,
    ),
    Case(
        "an aggregation of steps for scores of responses",
        f"{REWARD} --aggregation product",
        ("product aggregates the steps of chains", "the scores are of responses"),
        arrange=stored,
    ),
    Case(
        "trade-offs of chains",
        AUDIT,
        ("the scores are of chains",),
        arrange=of_chains,
    ),
    Case(
        "a model beside scores that have a spec",
        f"{RANK} --model model",
        ("--model contradicts scores.jsonl.spec.json",),
        arrange=stored,
    ),
]

AGGREGATIONS = [
    Case(
        "a weight that is a word",
        f"{REWARD} --aggregation.weights.safety=much",
        ("weight", "a finite number, got much"),
        arrange=stored,
    ),
    Case(
        "a weight without a value",
        f"{REWARD} --aggregation.weights.safety",
        ("--aggregation.weights.safety has no value",),
        arrange=stored,
    ),
    Case(
        "weights that are not of all objectives",
        f'{REWARD} --aggregation {{"name":"weighted_sum","weights":{{"safety":1}}}}',
        ("weights of weighted_sum do not fit", "helpfulness, safety, verbosity", "got safety"),
        arrange=stored,
    ),
    Case(
        "a sharpness of 0",
        f"{REWARD} --aggregation SoftMinimum --aggregation.beta=0",
        ("beta of soft_minimum", "above 0", "got 0"),
        arrange=stored,
    ),
    Case(
        "an aggregation that needs gates",
        f"{REWARD} --aggregation Gated",
        ("gated needs the gates of each row", "the scores hold none"),
        arrange=stored,
    ),
    Case(
        "an aggregation file that is missing",
        f"{RANK} --aggregation mine.yaml",
        ("the aggregation file cannot be read", "mine.yaml"),
        arrange=stored,
    ),
    Case(
        "an aggregation file that is no YAML",
        f"{RANK} --aggregation mine.yaml",
        ("mine.yaml: this is not YAML",),
        {"mine.yaml": "class_path: [Weighted"},
        stored,
    ),
    Case(
        "an aggregation file without an aggregation",
        f"{FILTER} --min_reward 0 --aggregation mine.yaml",
        ("mine.yaml: ", "class_path", "weights"),
        {"mine.yaml": "weights: {safety: 1}\n"},
        stored,
    ),
    Case(
        "an aggregation file with an unknown class",
        f"{AUDIT} --compare mine.yaml",
        ("mine.yaml: unknown objective aggregation", "got Median"),
        {"mine.yaml": "class_path: Median\n"},
        stored,
    ),
    Case(
        "two files to compare of one name",
        f"{AUDIT} --compare [a/mine.yaml,b/mine.yaml]",
        ("two files to compare have the same name", "mine"),
        {"a/mine.yaml": "class_path: WorstCase\n", "b/mine.yaml": "class_path: SoftMinimum\n"},
        stored,
    ),
]

FILTERS = [
    Case(
        "a threshold that is a word",
        f"{FILTER} --thresholds.safety=high",
        ("--thresholds", "float", "high"),
        arrange=stored,
    ),
    Case(
        "a share above 1",
        f"{FILTER} --top_share 25",
        ("--top_share is wrong", "above 0, up to 1", "got 25"),
        arrange=stored,
    ),
    Case(
        "an unknown unit",
        f"{FILTER} --thresholds.safety=0 --unit percent",
        ("--unit: expected one of 'score', 'utility', 'probability', got percent",),
        arrange=stored,
    ),
    Case(
        "data to filter that are missing",
        f"{FILTER} --min_reward 0 --data absent.jsonl",
        ("there is no file absent.jsonl",),
        arrange=stored,
    ),
    Case(
        "data to filter with one id twice",
        f"{FILTER} --min_reward 0 --data rows.jsonl",
        ("rows.jsonl:2: two rows have the same id", "got r-0"),
        {"rows.jsonl": lines({"id": "r-0"}, {"id": "r-0"})},
        stored,
    ),
    Case(
        "data to filter without a score",
        f"{FILTER} --min_reward 0 --data rows.jsonl --missing error",
        ("rows.jsonl:1, row 'z': the row has no score",),
        {"rows.jsonl": lines({"id": "z"})},
        stored,
    ),
    Case(
        "a row without the number that a rule needs",
        f"{FILTER} --min_reward 0 --missing error",
        ("scores.jsonl:1, row 'r-0': the row has no reward",),
        arrange=changed(0, reward=None),
    ),
]

OUTPUTS = [
    Case(
        "a ranking that exists",
        f"{RANK} --output new.jsonl",
        ("the output exists: got new.jsonl", "--overwrite"),
        arrange=existing("new.jsonl"),
    ),
    Case(
        "rewards whose spec exists",
        REWARD,
        ("the output's spec exists", "new.jsonl.spec.json"),
        arrange=existing("new.jsonl.spec.json"),
    ),
    Case(
        "rewards of an unknown kind",
        "reward scores.jsonl --output new.csv",
        ("the output's kind is not known", ".jsonl or .parquet, got new.csv"),
        arrange=stored,
    ),
    Case(
        "rewards below a file",
        "reward scores.jsonl --output file/new.jsonl",
        ("file/new.jsonl", "Not a directory"),
        arrange=existing("file"),
    ),
    Case(
        "a full disk while rewards are written",
        REWARD,
        ("cannot write", "No space left on device"),
        arrange=full_disk,
    ),
    Case(
        "a report that exists",
        f"{AUDIT} --output report",
        ("the folder holds a report",),
        {"report/tradeoffs.json": "{}"},
        stored,
    ),
]

CASES = [*FILES, *AGGREGATIONS, *FILTERS, *OUTPUTS]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_to_commands_on_scores_is_one_clear_line(
    case: Case, run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refuse(case, run_dir, monkeypatch, capsys)
