"""`prm data` through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from prm.cli.main import main
from prm.data.formats.hf_stepwise import HFStepwise
from prm.data.formats.outcomes import Outcomes
from prm.data.sources.source import Source

ROWS = [
    {"id": "a", "problem": "1 + 1 = ?", "steps": ["x", "longer"], "labels": [1, -1]},
    {"id": "b", "problem": "2 + 2 = ?", "steps": ["y", "z"], "labels": [0, 1]},
]
FORMAT = ["--format", "PRM800KValidation", "--format.neutral", "half"]


@pytest.fixture
def train(tmp_path: Path) -> str:
    path = tmp_path / "train.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(path)


@pytest.fixture
def bench(tmp_path: Path) -> str:
    path = tmp_path / "bench.json"
    path.write_text(json.dumps([{"id": "e", "problem": "1+1=", "steps": ["x"], "label": 0}]))
    return str(path)


def test_check_writes_a_report_and_exits_0(
    tmp_path: Path, train: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "report.json"
    assert main(["data", "check", "--input", train, *FORMAT, "--output", str(output)]) == 0
    assert "2 chains, 4 steps, 4 labels" in capsys.readouterr().out
    assert json.loads(output.read_text())["num_labels"] == 4


def test_check_exits_1_on_errors(
    train: str, bench: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "check", "--input", train, *FORMAT, "--against", bench]) == 1
    out = capsys.readouterr().out
    assert "evaluation_overlap" in out
    assert "also in bench" in out


def test_check_collects_wrong_rows(train: str, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = dict(ROWS[0], labels=[1])
    Path(train).write_text("".join(json.dumps(row) + "\n" for row in [wrong, ROWS[1], wrong]))
    assert main(["data", "check", "--input", train, *FORMAT]) == 1
    out = capsys.readouterr().out
    assert "unreadable_row" in out
    assert f"{train}:3" in out


def test_check_needs_a_tokenizer_for_a_length(
    train: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "check", "--input", train, *FORMAT, "--max_length", "5"]) == 2
    assert "--tokenizer" in capsys.readouterr().err


def test_check_of_a_missing_file_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "--input", "no/such/file.jsonl"]) == 2
    captured = capsys.readouterr()
    assert "no file no/such/file.jsonl" in captured.err + captured.out


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_convert_writes_canonical_rows(tmp_path: Path, train: str, suffix: str) -> None:
    output = tmp_path / f"out{suffix}"
    arguments = ["data", "convert", "--input", train, *FORMAT, "--output", str(output)]
    assert main(arguments) == 0
    chains = Source(str(output), HFStepwise()).load()
    assert [(c.id, c.source, c.labels["correctness"]) for c in chains] == [
        ("a", "train", (1.0, 0.0)),
        ("b", "train", (0.5, 1.0)),
    ]
    assert main(arguments) == 2
    assert main([*arguments, "--overwrite", "true"]) == 0


def test_convert_stops_at_a_wrong_row_and_writes_nothing(tmp_path: Path, train: str) -> None:
    Path(train).write_text(json.dumps(ROWS[0]) + "\n" + json.dumps(dict(ROWS[1], labels=[7, 1])))
    output = tmp_path / "out.jsonl"
    assert main(["data", "convert", "--input", train, *FORMAT, "--output", str(output)]) == 2
    assert not output.exists()


def test_decontaminate_removes_and_reports(
    tmp_path: Path, train: str, bench: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output, report = tmp_path / "clean.jsonl", tmp_path / "report.json"
    arguments = ["--output", str(output), "--report", str(report), "--against", bench]
    assert main(["data", "decontaminate", "--input", train, *FORMAT, *arguments]) == 0
    assert "removed 1 chains about 1 problems" in capsys.readouterr().out
    assert json.loads(report.read_text())["removed_ids"] == ["a"]
    assert [chain.id for chain in Source(str(output), HFStepwise())] == ["b"]


def test_neutral_has_no_default(train: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["data", "check", "--input", train, "--format", "PRM800KValidation"])
    assert "neutral" in capsys.readouterr().err


def test_check_with_a_tokenizer_finds_chains_that_do_not_fit(
    tmp_path: Path, train: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder = tmp_path / "tokenizer"
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>").save_pretrained(folder)
    arguments = ["data", "check", "--input", train, *FORMAT, "--tokenizer", str(folder)]
    assert main(arguments) == 0
    assert main([*arguments, "--max_length", "6"]) == 1
    assert "5 + 4 tokens, 0 of 2 steps fit" in capsys.readouterr().out


def test_check_with_a_missing_tokenizer_is_one_line(
    tmp_path: Path, train: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["data", "check", "--input", train, *FORMAT, "--tokenizer", str(tmp_path / "no")]
    assert main(arguments) == 2
    assert "cannot load the tokenizer: got there is no such folder" in capsys.readouterr().err


def test_a_format_may_be_named_as_its_file_is(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    row = {"problem": "p", "steps": ["a"], "labels": [1], "id": "1", "truncated": False}
    rows.write_text(json.dumps(row) + "\n")
    output = str(tmp_path / "out.jsonl")
    arguments = ["--format", "prm800k_validation", "--format.neutral", "good", "--output", output]
    assert main(["data", "convert", "--input", str(rows), *arguments]) == 0


def test_an_unknown_format_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows.jsonl").write_text("{}")
    path = str(tmp_path / "rows.jsonl")
    assert main(["data", "check", "--input", path, "--format", "prm80k"]) == 2
    assert "unknown format" in capsys.readouterr().err


OUTCOMES = [
    {"prompt": "1 + 1 = ?", "chosen": "2", "rejected": "3", "objective": "helpfulness", "id": "a"},
    {"prompt": "1 + 1 = ?", "response": "2", "ratings": {"safety": 5}, "id": "b"},
    {"prompt": "2 + 2 = ?", "responses": ["4", "5"], "ranks": [0, 0], "objective": "x", "id": "c"},
]


@pytest.fixture
def outcomes(tmp_path: Path) -> str:
    path = tmp_path / "outcomes.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in OUTCOMES))
    return str(path)


def test_outcome_rows_are_known_by_their_columns(
    tmp_path: Path, outcomes: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "report.json"
    assert main(["data", "check", "--input", outcomes, "--output", str(output)]) == 0
    out = capsys.readouterr().out
    assert "2 comparisons, 1 ratings, 3 labels" in out
    assert "Comparisons by objective" in out
    assert "Ratings by objective" in out
    report = json.loads(output.read_text())
    assert (report["num_comparisons"], report["num_ratings"]) == (2, 1)
    assert "comparison_coverage" in {finding["kind"] for finding in report["findings"]}


def test_check_of_ranges_exits_1(outcomes: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["data", "check", "--input", outcomes, "--ranges", '{"safety": [0, 1]}']
    assert main(arguments) == 1
    assert f"{outcomes}:2 (row b): safety: 5 is not in [0, 1]" in capsys.readouterr().out


def test_chains_have_no_ranges(train: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["data", "check", "--input", train, *FORMAT, "--rating_tolerance", "0.2"]
    assert main(arguments) == 2
    assert "are about ratings" in capsys.readouterr().err


def test_the_format_decides_which_checks_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"instruction": "Name a prime.", "input": "", "response1": "7", "response2": "7"}
    row |= {f"annotator{rater}": 1 for rater in (1, 2, 3)}
    path = tmp_path / "test.json"
    path.write_text(json.dumps([row | {"idx": 0}]))
    assert main(["data", "check", "--input", str(path), "--format", "pandalm"]) == 1
    assert "identical_responses" in capsys.readouterr().out


def test_check_with_a_tokenizer_finds_pairs_that_truncation_makes_equal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder = tmp_path / "tokenizer"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", eos_token="</s>"
    )
    tokenizer.save_pretrained(folder)
    row = {"prompt": "p", "chosen": "a b c", "rejected": "a b c d", "objective": "x"}
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps(row))
    arguments = ["data", "check", "--input", str(rows), "--tokenizer", str(folder)]
    assert main(arguments) == 0
    assert main([*arguments, "--max_length", "3"]) == 1
    assert "identical_after_truncation" in capsys.readouterr().out


def test_convert_keeps_outcome_records(
    tmp_path: Path, outcomes: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / "out.jsonl")
    assert main(["data", "convert", "--input", outcomes, "--output", output]) == 0
    assert "3 comparisons and ratings written" in capsys.readouterr().out
    first, second = (Source(path, Outcomes()).load() for path in (outcomes, output))
    assert first == second


def test_convert_writes_ratings_as_parquet(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({**OUTCOMES[1], "id": name}) + "\n" for name in "xy"))
    output = str(tmp_path / "out.parquet")
    assert main(["data", "convert", "--input", str(rows), "--output", output]) == 0
    first, second = (Source(str(path), Outcomes()).load() for path in (rows, output))
    assert first == second


def test_decontaminate_holds_outcomes_against_chains(
    tmp_path: Path, outcomes: str, bench: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / "clean.jsonl")
    arguments = ["--input", outcomes, "--output", output, "--against", bench]
    assert main(["data", "decontaminate", *arguments]) == 0
    assert "removed 2 comparisons and ratings about 1 problems" in capsys.readouterr().out
    assert [record.id for record in Source(output, Outcomes())] == ["c"]


def test_chains_are_held_against_outcomes(
    tmp_path: Path, train: str, outcomes: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["data", "check", "--input", train, *FORMAT, "--against", outcomes]
    assert main(arguments) == 1
    assert "also in outcomes" in capsys.readouterr().out


TWICE = [
    {"idx": "a", "classification": "c", "modified_question": question, "modified_process": ["x"]}
    | {"error_steps": []}
    for question in ("1 + 1 = ?", "2 + 2 = ?")
]


@pytest.fixture
def twice(tmp_path: Path) -> str:
    path = tmp_path / "twice.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in TWICE))
    return str(path)


def test_evaluation_sets_may_repeat_ids(
    tmp_path: Path, train: str, twice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both problems are known, whatever their rows are called."""
    output = str(tmp_path / "clean.jsonl")
    against = ["--against", twice, "--against_format", "PRMBench"]
    Path(train).write_text(json.dumps(ROWS[1]) + "\n" + json.dumps(ROWS[0] | {"problem": "3?"}))
    command = ["data", "decontaminate", "--input", train, *FORMAT, *against, "--output", output]
    assert main(command) == 0
    assert [chain.id for chain in Source(output, HFStepwise())] == ["a"]
    assert main(["data", "check", "--input", train, *FORMAT, *against]) == 1
    assert "evaluation_overlap" in capsys.readouterr().out


def test_wrong_rows_of_evaluation_sets_are_counted(
    tmp_path: Path, train: str, twice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(train).write_text(json.dumps(ROWS[0] | {"problem": "3?"}))
    Path(twice).write_text(Path(twice).read_text() + json.dumps(TWICE[0] | {"error_steps": 1}))
    output, report = str(tmp_path / "clean.jsonl"), tmp_path / "report.json"
    command = ["data", "decontaminate", "--input", train, *FORMAT, "--against", twice]
    command += ["--against_format", "PRMBench", "--output", output, "--report", str(report)]
    assert main(command) == 2
    assert main([*command, "--on_error", "skip"]) == 0
    facts = json.loads(report.read_text())
    assert (facts["num_skipped"], facts["num_skipped_of_evaluation_sets"]) == (0, 1)
    assert f"{twice}: 1 rows left out" in capsys.readouterr().out


def test_repeated_ids_can_be_left_out_and_are_counted(
    tmp_path: Path, twice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / "out.jsonl")
    command = ["data", "convert", "--input", twice, "--format", "PRMBench", "--output", output]
    assert main(command) == 2
    assert main([*command, "--on_error", "skip"]) == 0
    assert len(Source(output, HFStepwise()).load()) == 1
    assert "1 rows left out; the first" in capsys.readouterr().out


@pytest.mark.parametrize("in_file", [True, False])
@pytest.mark.parametrize("separator", ["###", "# ", "~", "*", "|", "1"])
def test_a_separator_that_is_no_text_to_yaml(separator: str, in_file: bool, tmp_path: Path) -> None:
    rows, output = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    rows.write_text(json.dumps({"prompt": "1 + 1?", "completions": f"add{separator}two"}))
    words = ["data", "convert", "--input", str(rows), "--output", str(output)]
    if in_file:
        options = {"class_path": "ChainColumns", "init_args": {"separator": separator}}
        (tmp_path / "options.yaml").write_text(yaml.safe_dump({"format": options}))
        words += ["--config", str(tmp_path / "options.yaml")]
    else:
        words += ["--format", "ChainColumns", "--format.separator", separator]
    assert main(words) == 0
    assert json.loads(output.read_text())["completions"] == ["add", "two"]
