"""Bad input to `prm score`: refused with one clear line, and earlier results stay as they were."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from safetensors.torch import load_file, save_file

from prm.cli.main import main
from prm.errors import OutputError
from prm.models import checkpoint
from prm.records import Chain
from prm.scoring.scorer import RewardScorer
from prm.spec import SPEC_FILE, RewardSpec
from tests.refusals import Case, refuse
from tests.tiny_models import character_tokenizer, tiny_model

ROW = {"prompt": "2 + 3 * 4 = ?", "completions": ["3 * 4 = 12", "2 + 12 = 15"]}
LINE = json.dumps(ROW) + "\n"
RESPONSE = '{"prompt": "1 + 1?", "response": "2"}'
SCORE = "score --model model"
FILE = f"{SCORE} --input rows.jsonl --output out.jsonl"
ROWS = {"rows.jsonl": LINE}
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tiny_model(spec=RewardSpec(max_length=64))
    return checkpoint.save(model, tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def model(saved: Path, run_dir: Path) -> Path:
    """A model folder in the working directory, to be damaged."""
    return Path(shutil.copytree(saved, run_dir / "model"))


def in_model(change: Callable[[Path], object]) -> Callable[[Path, pytest.MonkeyPatch], object]:
    return lambda folder, patch: change(folder / "model")


def cut(name: str) -> Callable[[Path, pytest.MonkeyPatch], object]:
    return in_model(lambda model: (model / name).write_bytes((model / name).read_bytes()[:-100]))


def without(*names: str) -> Callable[[Path, pytest.MonkeyPatch], object]:
    def change(model: Path) -> None:
        for name in names:
            (model / name).unlink()

    return in_model(change)


def spec(**changes: Any) -> Callable[[Path, pytest.MonkeyPatch], object]:
    def change(model: Path) -> None:
        values = json.loads((model / SPEC_FILE).read_text("utf-8")) | changes
        (model / SPEC_FILE).write_text(json.dumps(values), encoding="utf-8")

    return in_model(change)


def weights(edit: Callable[[dict[str, torch.Tensor]], object]) -> Any:
    def change(model: Path) -> None:
        values = load_file(model / "model.safetensors")
        edit(values)
        save_file(values, model / "model.safetensors", metadata={"format": "pt"})

    return in_model(change)


def full_disk(folder: Path, patch: pytest.MonkeyPatch) -> None:
    def fsync(descriptor: int) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    patch.setattr(os, "fsync", fsync)


def other_settings(folder: Path, patch: pytest.MonkeyPatch) -> None:
    (folder / "out.jsonl.partial").write_text("{}\n" * 300)
    (folder / "out.jsonl.partial.json").write_text('{"model": "another"}')


MODELS = [
    Case(
        "a model folder that is missing", "score --model modle", ("no such model folder", "modle")
    ),
    Case(
        "a model without spec",
        SCORE,
        (f"model: no {SPEC_FILE}", "a folder that prm wrote"),
        arrange=without(SPEC_FILE),
        stdin=LINE,
    ),
    Case(
        "a spec that is newer",
        SCORE,
        ("spec is newer than this library", "got 99", "Upgrade"),
        arrange=spec(version=99),
        stdin=LINE,
    ),
    Case(
        "a spec that is cut off",
        SCORE,
        (f"{SPEC_FILE}: not JSON",),
        arrange=cut(SPEC_FILE),
        stdin=LINE,
    ),
    Case(
        "a spec with an unknown field",
        SCORE,
        ("unknown fields of RewardSpec: temperature",),
        arrange=spec(temperature=2),
        stdin=LINE,
    ),
    Case(
        "a spec of another kind",
        SCORE,
        ("kind does not fit the objectives", "expected process", "got outcome"),
        arrange=spec(kind="outcome"),
        stdin=RESPONSE,
    ),
    Case(
        "weights that are cut off",
        SCORE,
        ("model: cannot load the weights",),
        arrange=cut("model.safetensors"),
        stdin=LINE,
    ),
    Case(
        "weights that are missing",
        SCORE,
        ("model: cannot load the weights", "model.safetensors"),
        arrange=without("model.safetensors"),
        stdin=LINE,
    ),
    Case(
        "a head that is missing",
        SCORE,
        ("heads do not fit the spec's objectives", "no head weights"),
        arrange=weights(lambda values: [values.pop("score.weight"), values.pop("score.bias")]),
        stdin=LINE,
    ),
    Case(
        "a layer that is missing",
        SCORE,
        ("model: weights are missing", "up_proj"),
        arrange=weights(lambda values: values.pop("model.layers.0.mlp.up_proj.weight")),
        stdin=LINE,
    ),
    Case(
        "weights of another model",
        SCORE,
        ("does not score 'correctness' as the saved one did", "not from the same model"),
        arrange=weights(lambda values: values["score.weight"].mul_(2)),
        stdin=LINE,
    ),
    Case(
        "a model without tokenizer",
        SCORE,
        ("model: no tokenizer files",),
        arrange=without("tokenizer.json", "tokenizer_config.json"),
        stdin=LINE,
    ),
    Case(
        "a tokenizer that is cut off",
        SCORE,
        ("model: cannot load the tokenizer",),
        arrange=cut("tokenizer.json"),
        stdin=LINE,
    ),
    Case(
        "a tokenizer of another model",
        SCORE,
        ("the tokenizer is not the one this model was trained with",),
        arrange=in_model(lambda model: character_tokenizer().save_pretrained(model)),
        stdin=LINE,
    ),
]

OPTIONS = [
    Case(
        "a prompt without steps",
        f"{SCORE} --prompt 1+1?",
        ("--prompt needs --steps or --response",),
    ),
    Case(
        "a prompt beside an input file",
        f"{FILE} --prompt 1+1? --steps 2",
        ("--prompt and --input contradict each other",),
        ROWS,
    ),
    Case(
        "an input without output", f"{SCORE} --input rows.jsonl", ("--input needs --output",), ROWS
    ),
    Case("beta without softmin", f"{FILE} --aggregation.beta 2", ("min", "has no parameter"), ROWS),
    Case(
        "beta of 0",
        f"{FILE} --aggregation softmin --aggregation.beta=0",
        ("beta of softmin is wrong", "above 0", "got 0"),
        ROWS,
    ),
    Case("an unknown aggregation", f"{FILE} --aggregation median", ("softmin", "median"), ROWS),
    Case(
        "a threshold of 2", f"{FILE} --threshold 2", ("--threshold", "probability", "got 2"), ROWS
    ),
    Case("a budget of 0", f"{FILE} --max_tokens 0", ("--max_tokens", "at least 1", "got 0"), ROWS),
    Case(
        "a device that does not exist",
        f"{SCORE} --device cuda:99",
        ("device cuda:99 cannot be used",),
        stdin=LINE,
    ),
    Case("a dtype that does not exist", f"{FILE} --dtype int4", ("'bfloat16'", "int4"), ROWS),
]

INPUTS = [
    Case("nothing on standard input", SCORE, ("standard input: there is nothing to score",)),
    Case("a problem without steps", SCORE, ("standard input", "has no step"), stdin="1 + 1 = ?\n"),
    Case(
        "standard input that is not UTF-8",
        SCORE,
        ("standard input: this is not UTF-8 text",),
        stdin=b"caf\xe9\n2\n",
    ),
    Case(
        "JSON that breaks off on standard input",
        SCORE,
        ("standard input:2: this is not JSON",),
        stdin=LINE + LINE[:-9],
    ),
    Case(
        "steps that are no JSON", f'{SCORE} --prompt 1+1? --steps ["2",', ("--steps is not JSON",)
    ),
    Case(
        "steps that are not texts",
        f'{SCORE} --prompt 1+1? --steps ["2",2]',
        ("--steps", "a JSON list of texts"),
    ),
    Case(
        "a wrong row in the input",
        FILE,
        ("rows.jsonl:2", "'completions' has no step"),
        {"rows.jsonl": LINE + json.dumps({"prompt": "?", "completions": []})},
    ),
]

OUTPUTS = [
    Case(
        "scores that exist",
        FILE,
        ("the output exists", "--overwrite"),
        {**ROWS, "out.jsonl": "mine"},
    ),
    Case(
        "scores of an unknown kind",
        f"{SCORE} --input rows.jsonl --output out.csv",
        (".jsonl or .parquet", "got out.csv"),
        ROWS,
    ),
    Case(
        "scores below a file",
        f"{SCORE} --input rows.jsonl --output rows.jsonl/new/out.jsonl",
        ("the scores cannot be written", "Not a directory"),
        ROWS,
    ),
    Case(
        "a full disk while scoring",
        f"{SCORE} --input rows.jsonl --output new/out.parquet",
        ("No space left on device",),
        ROWS,
        full_disk,
    ),
    Case(
        "unfinished scores of another model",
        FILE,
        ("made with another model", "--overwrite"),
        ROWS,
        other_settings,
    ),
]

LONG = json.dumps({"prompt": "long " * 100, "completions": ["2"], "id": "long"}) + "\n"
TOO_LONG = [
    Case(
        "a chain that is too long, with on_too_long error, on standard input",
        SCORE,
        ("standard input", "row 'long'", "chain is too long", "at most 64 tokens"),
        arrange=spec(on_too_long="error"),
        stdin=LONG,
    ),
    Case(
        "a chain that is too long, with on_too_long error, in a file",
        FILE,
        ("rows.jsonl:2, row 'long': chain is too long", "at most 64 tokens (max_length)"),
        {"rows.jsonl": LINE + LONG},
        spec(on_too_long="error"),
    ),
]


CASES = [*MODELS, *OPTIONS, *INPUTS, *OUTPUTS, *TOO_LONG]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_to_score_is_one_clear_line(
    case: Case, model: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    refuse(case, run_dir, monkeypatch, capsys)


def test_a_prompt_over_the_limit_has_a_row_and_a_reason(model: Path, run_dir: Path) -> None:
    (run_dir / "rows.jsonl").write_text(LINE + LONG + LINE.replace('{"', '{"id": "3", "'))
    assert main(FILE.split()) == 0
    rows = [json.loads(line) for line in (run_dir / "out.jsonl").read_text("utf-8").splitlines()]
    assert [row["reward"] is None for row in rows] == [False, True, False]
    for text in ("rows.jsonl:2", "row 'long'", "no room for what follows it", "max_length 64"):
        assert text in rows[1]["reason"]


def test_nothing_but_prompts_over_the_limit_is_no_success(
    model: Path, run_dir: Path, capsys: Capture
) -> None:
    (run_dir / "rows.jsonl").write_text(LONG)
    assert main(FILE.split()) == 1
    assert "no room for what follows it" in capsys.readouterr().out


def test_an_export_to_a_full_disk_leaves_the_old_model(
    model: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = checkpoint.load(model)
    before = RewardScorer(loaded).score(Chain("1 + 1?", ["2"]))

    def fail(*_arguments: Any, **_options: Any) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(type(loaded.tokenizer), "save_pretrained", fail)
    for folder in (model, run_dir / "new" / "model"):
        with pytest.raises(OutputError, match="No space left on device"):
            checkpoint.save(loaded, folder)
    assert [path.name for path in run_dir.iterdir()] == ["model"]
    assert RewardScorer.from_pretrained(model).score(Chain("1 + 1?", ["2"])) == before
