"""`prm score` through the command line."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from prm.aggregation.steps import STEP_AGGREGATIONS
from prm.cli.main import main
from prm.models.checkpoint import save
from prm.models.reward_model import RewardModel
from prm.models.sources import FromScratch
from prm.records import Chain
from prm.scoring.batch import score_file
from prm.scoring.scorer import RewardScorer
from prm.spec import RewardSpec

PROMPT, STEPS = "2 + 3 * 4 = ?", ["3 * 4 = 12", "2 + 12 = 15"]
CONFIG = {
    "model_type": "qwen2",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    source = FromScratch(CONFIG, vocab_size=300)
    tokenizer = source.tokenizer(["1 + 1 = 2"])
    model = RewardModel(source.model(tokenizer), tokenizer, RewardSpec(max_length=64))
    torch.manual_seed(0)
    for parameter in model.heads.parameters():
        torch.nn.init.normal_(parameter)
    return str(save(model, tmp_path_factory.mktemp("model") / "model"))


@pytest.fixture(scope="module")
def expected(model: str) -> dict[str, object]:
    return RewardScorer.from_pretrained(model).score((PROMPT, STEPS))[0].to_row()


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "chains.jsonl"
    values = [{"id": f"c{i}", "prompt": f"{i} + 1?", "completions": STEPS} for i in range(5)]
    values[2]["prompt"] = "long " * 100
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def run(model: str, *arguments: str) -> int:
    return main(["score", "--model", model, *arguments])


def type_in(monkeypatch: pytest.MonkeyPatch, text: str | bytes) -> None:
    data = text.encode() if isinstance(text, str) else text
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


@pytest.mark.parametrize("steps", ["\n".join(STEPS), json.dumps(STEPS)])
def test_one_chain_is_drawn(
    model: str, expected: dict[str, float], steps: str, capsys: Captured
) -> None:
    assert run(model, "--prompt", PROMPT, "--steps", steps) == 0
    shown = capsys.readouterr().out
    assert all(text in shown for text in (PROMPT, *STEPS))
    assert f"Reward {expected['reward']:.3f} (min)" in shown
    assert "\x1b" not in shown


def test_color_follows_the_environment(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    run(model, "--prompt", PROMPT, "--steps", STEPS[0])
    assert "\x1b[" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    run(model, "--prompt", PROMPT, "--steps", STEPS[0])
    assert "\x1b[3" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "text",
    [
        f"{PROMPT}\n{STEPS[0]}\n{STEPS[1]}\n",
        f"{PROMPT}\n\n{STEPS[0]}\n\n{STEPS[1]}",
        json.dumps({"prompt": PROMPT, "completions": STEPS}),
        json.dumps([{"prompt": PROMPT, "completions": STEPS, "labels": [0, 1]}], indent=1),
    ],
    ids=["lines", "paragraphs", "object", "array"],
)
def test_standard_input_scores_as_the_api(
    model: str,
    expected: dict[str, object],
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    type_in(monkeypatch, text)
    assert run(model, "--json", "true") == 0
    assert json.loads(capsys.readouterr().out) == expected


def test_json_lines_of_any_format_are_scored_in_order(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    rows = [{"id": i, "problem": "1 + 1?", "steps": STEPS, "label": -1} for i in ("a", "b")]
    type_in(monkeypatch, "\n".join(map(json.dumps, rows)))
    assert run(model, "--json", "true", "--format", "ProcessBench") == 0
    assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()] == ["a", "b"]


def test_a_prompt_may_have_several_lines(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    type_in(monkeypatch, "[asy] draw\nWhat is it?\n\na square\n")
    assert run(model) == 0
    assert "What is it?\n\n  1" in capsys.readouterr().out


def test_labels_are_shown(model: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    type_in(monkeypatch, json.dumps({"prompt": PROMPT, "completions": STEPS, "labels": [1, 0]}))
    assert run(model) == 0
    assert {"✓", "✗"} <= set(capsys.readouterr().out)


def test_an_unscorable_chain_says_why(model: str, capsys: Captured) -> None:
    assert run(model, "--prompt", "long " * 100, "--steps", "x") == 1
    assert "Not scored: prompt leaves no room" in capsys.readouterr().out


def test_cut_off_steps_are_reported(model: str, capsys: Captured) -> None:
    assert run(model, "--prompt", "1?", "--steps", "one step\n" * 30) == 0
    assert "steps were cut off at the model's max_length" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_file_is_scored_in_order(
    model: str, rows: Path, tmp_path: Path, suffix: str, capsys: Captured
) -> None:
    output = tmp_path / f"scores{suffix}"
    arguments = ["--input", str(rows), "--output", str(output), "--keep_text", "true"]
    assert run(model, *arguments) == 0
    scored = (
        pq.read_table(output).to_pylist()
        if suffix == ".parquet"
        else [json.loads(line) for line in output.read_text().splitlines()]
    )
    assert [row["id"] for row in scored] == [f"c{i}" for i in range(5)]
    chains = [Chain(row["prompt"], row["completions"]) for row in scored]
    rewards = [score.reward for score in RewardScorer.from_pretrained(model).score(chains)]
    assert [row["reward"] for row in scored] == pytest.approx(rewards, abs=1e-5)
    shown = capsys.readouterr().out
    assert "4 of 5 records scored, mean reward" in shown
    assert "prompt leaves no room" in shown
    assert run(model, *arguments) == 2
    assert run(model, *arguments, "--overwrite", "true") == 0


def test_an_interrupted_file_continues(
    model: str, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr("prm.cli.scoring.score_file", partial(score_file, block=2))
    arguments = ["--input", str(rows), "--output", str(tmp_path / "scores.jsonl")]
    score = RewardScorer.score

    def interrupted(self: RewardScorer, chains: list[Chain]) -> object:
        if chains[0].id == "c2":
            raise KeyboardInterrupt
        return score(self, chains)

    with monkeypatch.context() as patch:
        patch.setattr(RewardScorer, "score", interrupted)
        assert run(model, *arguments) == 130
    assert "The same command continues" in capsys.readouterr().err
    assert run(model, *arguments) == 0
    assert "2 rows kept from before" in capsys.readouterr().out


def reward(model: str, capsys: Captured, *arguments: str) -> float:
    assert run(model, "--prompt", PROMPT, "--steps", "\n".join(STEPS), *arguments) == 0
    return float(capsys.readouterr().out.split("Reward ")[1].split()[0])


def test_aggregation_changes_the_reward_as_the_api_does(
    model: str, expected: dict[str, dict[str, list[float]]], capsys: Captured
) -> None:
    logits = torch.tensor(expected["step_logits"]["correctness"], dtype=torch.float64)
    seen = set()
    for name, aggregation in STEP_AGGREGATIONS.items():
        value = reward(model, capsys, "--aggregation", name)
        assert value == pytest.approx(aggregation()(logits).item(), abs=6e-4)
        seen.add(value)
    assert len(seen) >= 5
    sharp = reward(model, capsys, "--aggregation", "softmin", "--aggregation.beta", "1000")
    assert sharp == pytest.approx(reward(model, capsys), abs=2e-3)


def test_the_option_of_0_1_says_the_new_one(model: str, capsys: Captured) -> None:
    with pytest.raises(SystemExit):
        run(model, "--aggregation", "softmin", "--beta", "2")
    assert "It is --aggregation.beta now" in capsys.readouterr().err


def test_an_unknown_aggregation_is_one_line(model: str, capsys: Captured) -> None:
    chain = ("--prompt", PROMPT, "--steps", "a")
    assert run(model, *chain, "--aggregation", "median") == 2
    error = capsys.readouterr().err
    assert all(name in error for name in ("median", *STEP_AGGREGATIONS))
    assert error.count("\n") == 1


def test_threshold_moves_the_first_error(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    for threshold, first_error in (("0", -1), ("1", 0)):
        type_in(monkeypatch, "\n".join([PROMPT, *STEPS]))
        assert run(model, "--json", "true", "--threshold", threshold) == 0
        assert json.loads(capsys.readouterr().out)["first_error"] == first_error


def test_half_precision_scores_nearly_the_same(model: str, capsys: Captured) -> None:
    assert reward(model, capsys, "--dtype", "bfloat16") == pytest.approx(
        reward(model, capsys), abs=0.05
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", "1?"], "--prompt needs --steps"),
        (["--steps", "a"], "--steps needs --prompt"),
        (["--input", "a.jsonl"], "--input needs --output"),
        (["--output", "a.jsonl"], "--output needs --input"),
        (["--prompt", "1?", "--input", "a"], "--prompt and --input contradict"),
        (["--input", "a", "--output", "b.jsonl", "--json", "true"], "--json and --input"),
        (["--prompt", "1?", "--steps", "a", "--overwrite", "true"], "--overwrite needs --output"),
        (["--prompt", "1?", "--steps", "a", "--keep_text", "true"], "--keep_text needs --output"),
        (["--threshold", "2"], "--threshold is wrong"),
        (["--max_tokens", "0"], "--max_tokens is wrong"),
        (["--input", "a.jsonl", "--output", "b.csv"], "ends in .jsonl or .parquet"),
        (["--input", "no/such.jsonl", "--output", "b.jsonl"], "no file no/such.jsonl"),
        (["--prompt", "1?", "--steps", " "], "at least one non-empty step"),
        (["--prompt", "1?", "--steps", '["a"'], "--steps is not JSON"),
        (["--prompt", "1?", "--steps", '["a", 1]'], "a JSON list of texts"),
        (["--prompt", "1?", "--steps", "a", "--device", "gpu"], "device gpu cannot be used"),
    ],
)
def test_wrong_options_are_one_line(
    model: str, arguments: list[str], message: str, capsys: Captured
) -> None:
    assert run(model, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is nothing to score"),
        (b"2 + 3?\nso \xff", "this is not UTF-8 text"),
        ("only a problem", "at least one non-empty step"),
        ('{"prompt": "1?", "completions": ["a"]', "standard input:1: this is not JSON"),
        ('{"prompt": "1?"}\n{"prompt": ', "standard input:2: this is not JSON"),
        ('{"prompt": "1?"}', "field 'completions' is missing"),
        ('[{"prompt": "1?", "completions": ["a"]}, 3]', "standard input[1]: the row is not"),
    ],
)
def test_wrong_standard_input_is_one_line(
    model: str,
    text: str | bytes,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    type_in(monkeypatch, text)
    assert run(model) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_wrong_row_stops_before_anything_is_written(
    model: str, rows: Path, tmp_path: Path, capsys: Captured
) -> None:
    with rows.open("a") as stream:
        stream.write('{"id": "bad", "prompt": "1?", "completions": []}\n')
    assert run(model, "--input", str(rows), "--output", str(tmp_path / "scores.jsonl")) == 2
    assert "chains.jsonl:6" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["chains.jsonl"]


@pytest.mark.parametrize("folder", ["no/such/model", "."])
def test_a_wrong_model_is_one_line(folder: str, capsys: Captured) -> None:
    assert run(folder, "--prompt", "1?", "--steps", "a") == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_wrong_options_and_help_load_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from prm.cli.main import main\n"
        f"assert main(['score', '--model', {str(tmp_path)!r}, '--prompt', 'a']) == 2\n"
        "try: main(['score', '--help'])\nexcept SystemExit: pass\n"
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "False"
    assert "--aggregation" in done.stdout


WRONG = [
    {"id": "a", "prompt": PROMPT, "completions": STEPS},
    {"id": "a", "prompt": PROMPT, "completions": STEPS},
    {"id": "b", "prompt": PROMPT, "completions": []},
    {"id": "c", "prompt": PROMPT, "completions": STEPS[:1]},
]


def test_wrong_rows_can_be_left_out_and_are_counted(
    model: str, tmp_path: Path, capsys: Captured
) -> None:
    rows, output = tmp_path / "rows.jsonl", tmp_path / "scores.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in WRONG) + "{]\n")
    arguments = ["--input", str(rows), "--output", str(output)]
    assert run(model, *arguments) == 2
    assert not output.exists()
    assert run(model, *arguments, "--on_error", "skip") == 0
    assert [json.loads(line)["id"] for line in output.read_text().splitlines()] == ["a", "c"]
    out = capsys.readouterr().out
    for reason in (":2: two records have the id 'a'", ":3, row 'b': field", ":5: this is not JSON"):
        assert f"{rows}: 1 rows left out; the first: {rows}{reason}" in out
    assert "2 of 2 records scored" in out


def test_wrong_rows_of_standard_input_can_be_left_out(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    type_in(monkeypatch, "".join(json.dumps(row) + "\n" for row in WRONG) + "{]\n[1]\n")
    assert run(model, "--json", "true", "--on_error", "skip") == 0
    captured = capsys.readouterr()
    assert [json.loads(line)["id"] for line in captured.out.splitlines()] == ["a", "a", "c"]
    assert captured.err.count("1 rows left out") == 3
    type_in(monkeypatch, "{]\n[1]\n".replace("{", '{"'))
    assert run(model, "--on_error", "skip") == 2
