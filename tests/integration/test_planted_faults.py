"""Faults that would change numbers without a word: each is planted alone, and is told.

Every fault comes as a command that is right without it. With it the command refuses and publishes
nothing, or names the fault beside its numbers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from prm.cli.main import main
from prm.models import checkpoint
from prm.models.reward_model import RewardModel
from prm.records import Rating
from prm.scoring.batch import score_file, survey
from prm.scoring.scorer import RewardScorer
from prm.spec import ResponseHead, RewardSpec, Template
from tests.chat_templates import CHATML, DATED, chat_tokenizer
from tests.outcome_models import save_outcome_model
from tests.runs import source, write_config, write_data
from tests.stored_scores import make_rows, make_spec
from tests.tiny_models import tiny_backbone, tiny_model

Words = Sequence[object]
Row = dict[str, Any]

FAULTS: dict[str, tuple[Callable[[Path, bool], Words], str]] = {}
"""Name of a fault to what writes its files and returns the command, and what must be printed."""

Plant = Callable[[Path, bool], Words]


def fault(says: str) -> Callable[[Plant], Plant]:
    def register(plant: Plant) -> Plant:
        FAULTS[plant.__name__] = (plant, says)
        return plant

    return register


def write(path: Path, rows: Sequence[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def converted(folder: Path, rows: Sequence[Row], *format: object) -> Words:
    path = write(folder / "rows.jsonl", rows)
    return ["data", "convert", "--input", path, "--output", folder / "out.jsonl", *format]


def scored(folder: Path, model: Path, rows: Sequence[Row], *options: object) -> Words:
    path = write(folder / "rows.jsonl", rows)
    output = ["--output", folder / "out.jsonl"]
    return ["score", "--model", model, "--input", path, *output, *options]


def checked(folder: Path, rows: Sequence[Row], *options: object) -> Words:
    return ["data", "check", "--input", write(folder / "rows.jsonl", rows), *options]


STEPS = [
    {"prompt": f"{n} + 1 + 1?", "completions": [f"{n} + 1 = {n + 1}", f"{n + 2}"], "labels": [1, n]}
    for n in (0, 1)
]
RESPONSES = [
    {"id": f"r{n}", "prompt": "Name a prime.", "response": text}
    for n, text in enumerate(("7", "It is 8."))
]
COLUMNS = ("--format", "OutcomeColumns", "--format.response", "response", "--format.ratings", "{}")


@fault("rows.jsonl:2: label 1 of .* got nan")
def a_label_that_is_not_a_number(folder: Path, planted: bool) -> Words:
    write_data(folder)
    rows = [dict(row) for row in STEPS]
    rows[1]["labels"] = [1, float("nan") if planted else 0]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        "fit", "--config", write_config(folder, data={"train": [source("rows.jsonl")]}),
    ]  # fmt: skip


@fault("'better' says that 'no' is no worse or better")
def a_column_that_says_the_opposite(folder: Path, planted: bool) -> Words:
    row = {"q": "A prime?", "yes": "7", "no": "8", "better": "no" if planted else "yes"}
    options = ("--format.prompt", "q", "--format.chosen", "yes", "--format.rejected", "no")
    return converted(
        folder, [row], "--format", "OutcomeColumns", *options, "--format.objective", "truth"
    )


@fault("two records have the id 'r0'")
def an_id_that_comes_twice(folder: Path, planted: bool) -> Words:
    rows = [RESPONSES[0], RESPONSES[1] | ({"id": "r0"} if planted else {})]
    return scored(folder, save_outcome_model(folder / "model"), rows, *COLUMNS, "--format.id", "id")


@fault("writes today's date")
def a_template_that_reads_the_clock(folder: Path, planted: bool) -> Words:
    tokenizer = chat_tokenizer(DATED)
    spec = RewardSpec(
        response_heads=(ResponseHead("quality"),), template=Template("chat"), max_length=256
    )
    model = RewardModel(tiny_backbone(tokenizer=tokenizer), tokenizer, spec)
    path = checkpoint.save(model.eval(), folder / "model")
    if planted:
        config = json.loads((path / "prm_config.json").read_text())
        config["template"]["date"] = None
        (path / "prm_config.json").write_text(json.dumps(config))
    return scored(folder, path, RESPONSES, *COLUMNS)


@fault("1 responses were cut off")
def a_response_that_was_cut_off(folder: Path, planted: bool) -> Words:
    scorer = RewardScorer.from_pretrained(save_outcome_model(folder / "model"), device="cpu")
    long = "It is 8. " * (40 if planted else 1)
    records = [
        Rating("Name a prime.", text, id=f"r{n}", group="p") for n, text in enumerate(("7", long))
    ]
    score_file(scorer, survey(records), folder / "scores.jsonl", keep_text=True)
    return ["rank", folder / "scores.jsonl", "--output", folder / "out.jsonl"]


@fault("do not decide val/step_auroc")
def validation_data_of_one_class(folder: Path, planted: bool) -> Words:
    write_data(folder)
    if planted:
        good = {"prompt": "1 + 1?", "completions": ["2", "so 2"], "labels": [1, 1]}
        (folder / "validation.jsonl").write_text(json.dumps(good) + "\n")
    return ["fit", "--config", write_config(folder)]


@fault("holds tool_calls, which the plain template cannot render")
def a_call_that_the_template_does_not_write(folder: Path, planted: bool) -> Words:
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
    calls = {"tool_calls": [call]} if planted else {}
    turn = {"role": "assistant", "content": "Let me see."} | calls
    asked = [{"role": "user", "content": "Rain?"}, turn]
    prompt = [*asked, {"role": "tool", "content": "-3 C"}]
    rows = [{"prompt": prompt, "response": "No."}]
    return scored(folder, save_outcome_model(folder / "model"), rows, *COLUMNS)


@fault("the prompt ends with the assistant's turn")
def a_prompt_that_ends_with_the_answer(folder: Path, planted: bool) -> Words:
    said = [
        {"role": "user", "content": "A prime?"},
        {"role": "assistant", "content": "7"},
    ]
    rows = [{"prompt": said[: 1 + planted], "response": text} for text in ("7", "8")]
    tokenizer = chat_tokenizer(CHATML)
    spec = RewardSpec(
        response_heads=(ResponseHead("quality"),), template=Template("chat"), max_length=256
    )
    model = RewardModel(tiny_backbone(tokenizer=tokenizer), tokenizer, spec)
    return scored(folder, checkpoint.save(model.eval(), folder / "model"), rows, *COLUMNS)


@fault("single_step")
def a_separator_that_occurs_nowhere(folder: Path, planted: bool) -> Words:
    rows = [{"prompt": f"{n} + 1?", "completions": f"add\n{n + 1}"} for n in range(3)]
    separator = "###" if planted else r"\n"
    return checked(folder, rows, "--format", "ChainColumns", "--format.separator", separator)


@fault("evaluation_overlap")
def a_test_problem_in_another_layout(folder: Path, planted: bool) -> Words:
    test = r"What is $\dfrac{1}{2} \times 4$?" if planted else "What is 5 - 3?"
    against = write(folder / "test.jsonl", [{"prompt": test, "completions": ["2"], "labels": [1]}])
    train = r"Question: what is \(\frac12 × 4\) ?"
    rows = [{"prompt": train, "completions": ["2"], "labels": [1]}]
    formats = ("--format", "HFStepwise", "--against_format", "HFStepwise")
    return checked(folder, rows, "--against", against, *formats)


@fault("expected a step from 1 to 2, .*got 0")
def an_index_that_counts_from_0(folder: Path, planted: bool) -> Words:
    row = {"prompt": "1 + 1 + 1?", "completions": ["1 + 1 = 2", "4"], "bad": 0 if planted else 2}
    options = ("--format.first_error", "bad", "--format.index_base", "1")
    return converted(folder, [row], "--format", "ChainColumns", *options)


@fault("not from the same model")
def a_spec_of_another_model(folder: Path, planted: bool) -> Words:
    path = checkpoint.save(tiny_model(), folder / "model")
    if planted:
        other = tiny_model()
        for parameter in other.heads.parameters():
            parameter.data.mul_(2)
        config = checkpoint.save(other, folder / "other") / "prm_config.json"
        (path / "prm_config.json").write_text(config.read_text())
    return scored(folder, path, STEPS, "--format", "HFStepwise")


@fault("does not score .* as the saved one did")
def weights_that_are_not_finite(folder: Path, planted: bool) -> Words:
    path = checkpoint.save(tiny_model(), folder / "model")
    if planted:
        from safetensors.torch import load_file, save_file

        weights = load_file(path / "model.safetensors")
        name = next(name for name in weights if "mlp" in name)
        weights[name][0, 0] = torch.nan
        save_file(weights, path / "model.safetensors", {"format": "pt"})
    return scored(folder, path, STEPS, "--format", "HFStepwise")


@fault("row 'r-0': the row holds a number that is not finite")
def stored_rewards_that_are_none(folder: Path, planted: bool) -> Words:
    spec = make_spec()
    rows = make_rows([("p", (1.0, 2.0, 0.5)), ("p", (0.5, 1.0, 0.5))], spec)
    if planted:
        rows[0]["reward"] = float("nan")
    path = folder / "scores.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec_path = folder / "scores.spec.json"
    spec_path.write_text(json.dumps(spec.to_json()))
    return ["rank", path, "--output", folder / "out.jsonl"]


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_told(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plant, says = FAULTS[name]
    for planted in (False, True):
        folder = tmp_path / ("planted" if planted else "clean")
        folder.mkdir()
        monkeypatch.chdir(folder)
        words = plant(folder, planted)
        capsys.readouterr()
        code = main([str(word) for word in words])
        printed = "".join(capsys.readouterr())
        if not planted:
            assert code == 0, printed
        assert bool(re.search(says, printed)) == planted, printed
        assert not (code and list(_rewards(folder / "out.jsonl")))


def _rewards(path: Path) -> Iterator[float]:
    """Yield what was published as a number."""
    if path.is_file():
        rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        yield from (row["reward"] for row in rows if row.get("reward") is not None)
