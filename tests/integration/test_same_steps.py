"""A text has the same steps, and so the same reward, by whatever entrance it comes."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import pytest

from prm.cli.main import main
from prm.models.checkpoint import save
from prm.rl.reward_function import RewardFunction
from prm.scoring.scorer import RewardScorer
from prm.spec import RewardSpec, StepFormat
from tests.tiny_models import tiny_model

PROBLEM, STEPS = "8 + 20 + 10?", ["8 + 20 = 28", "28 + 10 = 38", "so 38"]

LINES = {
    "line feeds": "\n".join(STEPS),
    "carriage returns": "\r\n".join(STEPS),
    "spaces at the end": " \n".join(STEPS) + " ",
    "indented": "\n".join(f"  {step}" for step in STEPS),
    "a last line feed": "\n".join(STEPS) + "\n",
    "empty lines": "\n \n".join(STEPS),
}
PARAGRAPHS = {
    "paragraphs": "\n\n".join(STEPS),
    "paragraphs from Windows": "\r\n\r\n".join(STEPS) + "\r\n",
    "lines within paragraphs": "8 + 20\n = 28\n\n28 + 10 = 38\n\nso 38",
}


@pytest.fixture(scope="module", params=["\n", "\n\n"], ids=["lines", "paragraphs"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = RewardSpec(step_format=StepFormat(separator=request.param), max_length=128)
    return save(tiny_model(spec=spec), tmp_path_factory.mktemp("model") / "model")


def texts(model: Path) -> dict[str, str]:
    return LINES if RewardSpec.load(model).step_format.separator == "\n" else PARAGRAPHS


def from_csv(model: Path, text: str, folder: Path) -> float:
    with (folder / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["q", "a"], [PROBLEM, text]])
    separator = RewardSpec.load(model).step_format.separator.replace("\n", r"\n")
    columns = ("--format.prompt", "q", "--format.completions", "a", "--format.separator", separator)
    words = ("score", "--model", str(model), "--input", str(folder / "rows.csv"))
    output = folder / "scores.jsonl"
    written = ("--output", str(output), "--overwrite", "true")
    assert main([*words, "--format", "ChainColumns", *columns, *written]) == 0
    return float(json.loads(output.read_text())["reward"])


def typed(model: Path, capsys: pytest.CaptureFixture[str], *words: str) -> float:
    capsys.readouterr()
    assert main(["score", "--model", str(model), "--json", "true", *words]) == 0
    return float(json.loads(capsys.readouterr().out)["reward"])


def test_a_text_has_one_reward(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    function, scorer = RewardFunction(model, device="cpu"), RewardScorer.from_pretrained(model)
    for name, text in texts(model).items():
        steps = ["8 + 20\n = 28", *STEPS[1:]] if name == "lines within paragraphs" else STEPS
        expected = scorer.score((PROBLEM, steps))[0].reward
        piped = io.TextIOWrapper(io.BytesIO(f"{PROBLEM}\n\n{text}\n".encode()))
        monkeypatch.setattr(sys, "stdin", piped)
        found = {
            "RewardFunction": function([PROBLEM], [text])[0],
            "CSV": from_csv(model, text, tmp_path),
            "standard input": typed(model, capsys),
            "--steps": typed(model, capsys, "--prompt", PROBLEM, "--steps", text),
        }
        assert found == pytest.approx(dict.fromkeys(found, expected), abs=1e-5), name


def test_the_problem_on_a_line_from_windows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save(tiny_model(spec=RewardSpec(max_length=128)), tmp_path / "model")
    lines = "\r\n".join([PROBLEM, *STEPS])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    expected = RewardScorer.from_pretrained(model).score((PROBLEM, STEPS))[0].reward
    assert typed(model, capsys) == pytest.approx(expected, abs=1e-5)
