"""`prm search` through the command line."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest

from prm.cli.main import main
from prm.models.checkpoint import save
from prm.scoring.scorer import RewardScorer
from tests.openai_server import StubServer, running, vllm_completion
from tests.outcome_models import save_outcome_model
from tests.tiny_models import tiny_model
from tests.toy_generator import language_model, tokenizer_of_characters

PROMPT = "what is 1 1"
Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save(tiny_model(), tmp_path_factory.mktemp("model") / "model"))


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("policy")
    tokenizer = tokenizer_of_characters()
    language_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    path = tmp_path / "problems.jsonl"
    values = [{"id": f"p{i}", "prompt": f"what is {i}"} for i in range(10)]
    values[3]["prompt"] = "a" * 100
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def run(model: str, policy: str, *arguments: str) -> int:
    return main(["search", "--model", model, "--generator", policy, *arguments])


SHORT = ("--max_new_tokens", "12", "--temperature", "1", "--prompt", PROMPT)


@pytest.mark.parametrize("method", ["best_of_n", "beam"])
def test_one_prompt_is_drawn(model: str, policy: str, method: str, capsys: Captured) -> None:
    assert run(model, policy, *SHORT, "--method", method) == 0
    shown = capsys.readouterr().out
    assert PROMPT in shown
    assert "Reward" in shown
    assert "tokens generated" in shown
    assert ("scored tokens computed" in shown) == (method == "beam")


def test_one_prompt_as_json_has_the_scores_of_the_scorer(
    model: str, policy: str, capsys: Captured
) -> None:
    assert run(model, policy, *SHORT, "--json", "--n", "3") == 0
    row = json.loads(capsys.readouterr().out)
    scorer = RewardScorer.from_pretrained(model)
    assert len(row["candidates"]) == 3
    for one in row["candidates"]:
        score = scorer.score((PROMPT, one["steps"]))[0]
        assert one["reward"] == pytest.approx(score.reward, abs=1e-5)
    assert row["response"] == row["candidates"][row["best"]]["response"]


OPTIONS = {
    "n": ("--n", "2"),
    "seed": ("--seed", "1"),
    "temperature": ("--temperature", "0.5"),
    "top_p": ("--top_p", "0.3"),
    "max_new_tokens": ("--max_new_tokens", "3"),
    "prompt_suffix": ("--prompt_suffix", " "),
    "answer": ("--answer", r"([\s\S])"),
    "aggregation": ("--aggregation", "mean_logit"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_option_changes_the_result(model: str, policy: str, name: str, capsys: Captured) -> None:
    base = [*SHORT, "--json", "--n", "4", "--max_new_tokens", "40"]
    run(model, policy, *base)
    before = json.loads(capsys.readouterr().out)
    run(model, policy, *base, *OPTIONS[name])
    assert json.loads(capsys.readouterr().out) != before


@pytest.mark.parametrize("name", ["width", "expand", "max_steps"])
def test_option_of_beam_search_changes_the_result(
    model: str, policy: str, name: str, capsys: Captured
) -> None:
    base = [*SHORT, "--json", "--method", "beam"]
    run(model, policy, *base)
    before = json.loads(capsys.readouterr().out)
    run(model, policy, *base, f"--{name}", "1")
    assert len(json.loads(capsys.readouterr().out)["candidates"]) < len(before["candidates"])


def test_file_is_searched_and_continued(
    model: str, policy: str, problems: Path, tmp_path: Path, capsys: Captured
) -> None:
    output = tmp_path / "found.jsonl"
    words = ("--input", str(problems), "--output", str(output), "--n", "2", "--max_new_tokens", "8")
    assert run(model, policy, *words) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["id"] for row in rows] == [f"p{i}" for i in range(10)]
    assert rows[3]["reason"].startswith("the generator has no room")
    shown = capsys.readouterr().out
    assert "9 of 10 prompts answered" in shown
    assert "nothing chosen: the generator has no room" in shown
    assert run(model, policy, *words) == 2
    assert "the output exists" in capsys.readouterr().err
    whole = output.read_bytes()
    assert run(model, policy, *words, "--overwrite", "--batch_size", "1") == 0
    assert output.read_bytes() == whole


WRONG = [
    ((), "nothing to search"),
    (("--prompt", "a", "--input", "b", "--output", "c.jsonl"), "contradict"),
    (("--input", "b"), "--input needs --output"),
    (("--prompt", "a", "--overwrite"), "--overwrite needs --output"),
    (("--prompt", "a", "--width", "2"), "--width needs --method beam"),
    (("--prompt", "a", "--method", "beam", "--n", "2"), "contradict"),
    (("--prompt", "a", "--concurrency", "2"), "--concurrency needs a URL"),
    (("--prompt", "a", "--n", "0"), "--n is wrong"),
    (("--prompt", "a", "--temperature", "-1"), "temperature is wrong"),
    (("--prompt", "a", "--answer", "("), "one group"),
    (("--prompt", "a", "--reward_from", "response"), "steps"),
    (("--prompt", "a", "--aggregation", "nix"), "nix"),
    (("--prompt", "a", "--method", "nix"), "nix"),
    (("--input", "nix.jsonl", "--output", "o.jsonl"), "nix.jsonl"),
    (("--input", "nix.jsonl", "--output", "o.csv"), ".jsonl"),
]


@pytest.mark.parametrize(("words", "message"), WRONG)
def test_wrong_options_are_named_in_one_line(
    model: str, policy: str, words: tuple[str, ...], message: str, capsys: Captured, run_dir: Path
) -> None:
    with suppress(SystemExit):  # of options that are no options at all
        assert run(model, policy, *words) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1


def test_generators_that_are_not_there(model: str, policy: str, capsys: Captured) -> None:
    assert run(model, "nix", "--prompt", "a") == 2
    assert "there is no such generator" in capsys.readouterr().err
    assert run(model, model, "--prompt", "a") == 2
    assert "cannot load the generator" in capsys.readouterr().err
    assert run(model, "http://a@b", "--prompt", "a") == 2
    assert run(model, "http://a", "--prompt", "a", "--batch_size", "2") == 2
    assert "a folder as --generator" in capsys.readouterr().err


def test_outcome_model_has_no_beams(policy: str, tmp_path: Path, capsys: Captured) -> None:
    folder = str(save_outcome_model(tmp_path / "outcome"))
    assert run(folder, policy, *SHORT, "--method", "beam") == 2
    assert "scores responses, not steps" in capsys.readouterr().err
    assert run(folder, policy, *SHORT, "--json") == 0
    assert json.loads(capsys.readouterr().out)["candidates"][0]["utilities"]


def test_server_is_a_generator(model: str, problems: Path, tmp_path: Path) -> None:
    output = tmp_path / "found.jsonl"
    with running(StubServer(vllm_completion)) as server:
        words = ("--input", str(problems), "--output", str(output), "--n", "2")
        plain = ("--prompt_suffix", ":", "--generator_model", "other", "--concurrency", "1")
        assert run(model, server.url, *words, *plain) == 0
    assert {body["prompt"] for body in server.bodies} > {"what is 0:", "what is 9:"}
    assert {body["model"] for body in server.bodies} == {"other"}
    assert server.most_running == 1
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert {row["answer"] for row in rows} == {"5"}
