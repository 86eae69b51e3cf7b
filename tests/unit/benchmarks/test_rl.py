"""The RL studies at a toy scale: random models, one or two steps, every condition."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from prm.models import checkpoint
from prm.spec import ResponseHead
from tests.benchmarks.rl import arithmetic, lagrangian, replies
from tests.benchmarks.rl.grpo import Settings, Shuffled
from tests.benchmarks.rl.policy import Size, load_policy, make_policy, sample
from tests.benchmarks.rl.report import control_of, interval
from tests.benchmarks.rl.study import Run, Study, run_study
from tests.benchmarks.rl.tasks import EASY_ARITHMETIC, REPLIES, arithmetic_gold, solution
from tests.outcome_models import save_outcome_model
from tests.tiny_models import tiny_model

pytest.importorskip("trl")
pytest.importorskip("matplotlib")

TRL_WARNINGS = pytest.mark.filterwarnings(
    "ignore:.gradient_checkpointing\\w*. is deprecated:FutureWarning"
)
TOY = Settings(
    num_steps=1,
    num_prompts=2,
    num_generations=2,
    num_train_prompts=8,
    num_test_prompts=4,
    num_probes=1,
    num_probe_prompts=2,
)

LEFT_OUT = ("safety-0.1", "safety-0.25", "safety-0.6", "safety-0.75", "safety-1")

Report = Callable[[Sequence[Run], Path, str], None]


def run_toy(
    study: Study, report: Report, model: str, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> list[Run]:
    for module in (arithmetic, replies, lagrangian):
        monkeypatch.setattr(module, "MODEL", model, raising=False)
    conditions = [
        replace(condition, settings=condition.settings | {"num_steps": 1})
        for condition in study.conditions
        if condition.name not in LEFT_OUT
    ]
    task = replace(study.task, max_new_tokens=12)
    study = replace(study, conditions=conditions, settings=TOY, task=task)
    policy = run_dir / "policy"
    make_policy(study.task, policy, Size(16, 16, 1, 1, num_steps=2))
    runs = run_study(study, [0], run_dir, policy)
    report(runs, run_dir, "command")
    assert run_study(study, [0], run_dir, policy) == runs
    return runs


@TRL_WARNINGS
def test_arithmetic(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = str(checkpoint.save(tiny_model(), run_dir / "model"))
    runs = run_toy(arithmetic.STUDY, arithmetic.report, model, run_dir, monkeypatch)
    by_name = {run.condition: run for run in runs}
    assert [*by_name] == ["process", "process-kl", "process-steps", "shuffled", "shuffled-kl"]
    assert control_of(runs, [by_name["process-kl"]]) == [by_name["shuffled-kl"]]
    assert control_of(runs, [by_name["process-steps"]]) == [by_name["shuffled"]]
    assert (run_dir / "arithmetic.png").stat().st_size > 1000
    assert "| process-steps | correct | 0.00 |" in (run_dir / "table.md").read_text("utf-8")


@TRL_WARNINGS
@pytest.mark.parametrize("module", [replies, lagrangian], ids=["replies", "lagrangian"])
def test_three_objectives(module: object, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("helpfulness", "safety", "factuality")
    folder = save_outcome_model(run_dir / "model", response_heads=tuple(map(ResponseHead, names)))
    study, report = module.STUDY, module.report  # type: ignore[attr-defined]
    runs = run_toy(study, report, str(folder), run_dir, monkeypatch)
    found = json.loads((run_dir / "results.json").read_text("utf-8"))
    assert found["seeds"] == [0]
    assert {entry["condition"] for entry in found["changes"]} == {run.condition for run in runs}


def test_gold_of_chains() -> None:
    prompt = "Compute ((2 + 20) + 14) - 14."
    steps = [str(step) for step in solution(prompt)]
    assert steps == ["2 + 20 = 22", "22 + 14 = 36", "36 - 14 = 22"]
    assert set(arithmetic_gold(prompt, "\n".join(steps)).values()) == {1.0}
    short = arithmetic_gold(prompt, "2 + 20 = 22")
    assert short == {"correct": 0.0, "answer": 1.0, "steps": 1.0, "complete": 0.0}
    assert set(arithmetic_gold(prompt, "").values()) == {0.0}
    wrong = arithmetic_gold(prompt, "2 + 20 = 22\n22 - 14 = 8\n8 + 14 = 22")
    assert wrong == {"correct": 0.0, "answer": 1.0, "steps": 1.0, "complete": 1.0}


def test_prompts_of_the_splits_differ() -> None:
    for task in (EASY_ARITHMETIC, REPLIES):
        train = task.distinct_prompts("train", 200)
        assert not set(train) & set(task.distinct_prompts("test", 100))


def test_policy_writes_what_it_was_trained_on(tmp_path: Path) -> None:
    """Texts survive the tokenizer, and a saved policy samples the same responses."""
    make_policy(REPLIES, tmp_path / "policy", Size(16, 16, 1, 1, num_steps=1))
    policy, tokenizer = load_policy(tmp_path / "policy")
    prompt, response = next(REPLIES.demonstrations(7))
    for text in (prompt, response):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    first, again = (sample(policy, tokenizer, [prompt] * 2, 5, seed=3) for _ in range(2))
    assert first == again


def test_shuffled_rewards_are_permuted_alike() -> None:
    def reward(completions: list[float]) -> list[float]:
        return completions

    first, second = (Shuffled(reward, seed=0)(completions=list(range(9))) for _ in range(2))
    assert first == second != list(range(9))
    assert sorted(first) == list(range(9))


def test_interval_of_a_change() -> None:
    before, after = {"a": [0.0, 1.0], "b": [0.0]}, {"a": [1.0, 1.0], "b": [0.0]}
    found = interval((1, after), (-1, before))
    assert found.value == pytest.approx(1 / 3)
    assert (found.low, found.high) == (0.0, 0.5)
    assert (found.n, found.num_groups) == (3, 2)
