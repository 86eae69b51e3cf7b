"""Every surface gives the shaped reward, and what is aggregated stays to be seen."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stored_scores import make_rows, make_spec, read_lines, write_rows

from prm.aggregation.objectives import WeightedSum, WorstCase
from prm.audit.decisions import Decisions
from prm.cli.main import main
from prm.errors import ConfigError
from prm.models import checkpoint
from prm.models.export import export_scalar
from prm.records import Rating
from prm.rl.reward_function import RewardFunction
from prm.scores.reaggregate import reaggregate
from prm.scores.stored import read_scores
from prm.scoring.batch import Summary, score_file, survey
from prm.scoring.scorer import RewardScorer
from prm.scoring.session import ScoringSession
from prm.spec import RewardSpec, Shaping
from tests.outcome_models import RESPONSES, outcome_model, save_joint_model
from tests.runs import fit, write_data
from tests.tiny_models import CHAINS, tiny_model

PAR = Shaping(center=0.1, scale=0.5, squash="sigmoid", clip=(0.2, 0.9))
LINE = Shaping(center=0.5, scale=2.0)


def by_hand(score: float) -> float:
    return min(max(1 / (1 + math.exp(-(score - 0.1) / 0.5)), 0.2), 0.9)


def test_a_chain_of_a_process_model() -> None:
    model = tiny_model(spec=RewardSpec(max_length=256, shaping=PAR))
    scorer = RewardScorer(model)
    plain = RewardScorer(model, shaping=Shaping()).score(CHAINS)
    expected = [by_hand(score.reward) for score in plain]

    scored = scorer.score(CHAINS)

    assert [score.reward for score in scored] == pytest.approx(expected, abs=1e-9)
    assert [score.scores for score in scored] == [score.scores for score in plain]
    assert [score.reward for score in ScoringSession(scorer).score(CHAINS)] == pytest.approx(
        expected, abs=1e-5
    )
    assert [reaggregate(score, scorer.spec).reward for score in plain] == pytest.approx(expected)


def test_a_response_of_an_outcome_model() -> None:
    model = outcome_model(shaping=PAR)
    scorer = RewardScorer(model)
    plain = RewardScorer(model, shaping=Shaping()).score(RESPONSES)
    expected = [by_hand(score.reward) for score in plain]

    scored = scorer.score(RESPONSES)

    assert [score.reward for score in scored] == pytest.approx(expected, abs=1e-9)
    assert [score.utilities for score in scored] == [score.utilities for score in plain]
    assert [score.reward for score in ScoringSession(scorer).score(RESPONSES)] == pytest.approx(
        expected, abs=1e-5
    )
    assert [reaggregate(score, scorer.spec).reward for score in plain] == pytest.approx(expected)


def test_a_joint_model_shapes_chains_and_responses(tmp_path: Path) -> None:
    scorer = RewardScorer.from_pretrained(save_joint_model(tmp_path / "model"), "cpu")
    shaped = RewardScorer(scorer.model, shaping=LINE)
    records = [CHAINS[0], RESPONSES[0]]
    plain = [(score.reward - 0.5) / 2 for score in scorer.score(records)]
    assert [score.reward for score in shaped.score(records)] == pytest.approx(plain)


def test_a_checkpoint_with_one_label_gives_the_shaped_reward(tmp_path: Path) -> None:
    model = outcome_model(shaping=LINE)
    export_scalar(model, tmp_path / "scalar")
    folded = RewardScorer.from_pretrained(tmp_path / "scalar", "cpu").score(RESPONSES)
    expected = [score.reward for score in RewardScorer(model).score(RESPONSES)]
    assert [score.reward for score in folded] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", ["process", "outcome"])
def test_reinforcement_learning_gets_what_the_scorer_gives(tmp_path: Path, kind: str) -> None:
    model: Any = outcome_model(shaping=PAR)
    if kind == "process":
        model = tiny_model(spec=RewardSpec(max_length=256, shaping=PAR))
    folder = checkpoint.save(model, tmp_path / "model")
    prompts, texts = ["1 + 1 = ?"] * 2, ["2", "It is 15."]
    pairs = [(prompts[0], [text] if kind == "process" else text) for text in texts]
    expected = [score.reward for score in RewardScorer(model).score(pairs)]

    plain = [score.reward for score in RewardScorer(model, shaping=Shaping()).score(pairs)]
    function = RewardFunction(folder, device="cpu")

    assert function(prompts, texts) == pytest.approx(expected, abs=1e-5)
    assert expected == pytest.approx([by_hand(reward) for reward in plain])
    other = RewardFunction(folder, device="cpu", shaping=Shaping())
    assert other(prompts, texts) == pytest.approx(plain, abs=1e-5)
    assert other(prompts, texts) != pytest.approx(expected, abs=1e-3)


def test_a_file_of_scores_and_its_other_aggregations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = outcome_model(shaping=PAR)
    scorer, path = RewardScorer(model), tmp_path / "scores.jsonl"
    score_file(scorer, survey(RESPONSES), path)
    table = read_scores(path)
    worst = RewardScorer(model, objective_aggregation=WorstCase()).score(RESPONSES)

    np.testing.assert_allclose(
        table.with_aggregation(WeightedSum()).rewards(), table.stored_rewards
    )
    np.testing.assert_allclose(
        table.with_aggregation(WorstCase()).rewards(), [score.reward for score in worst]
    )
    assert table.known_spec().shaping == PAR

    output = tmp_path / "worst.jsonl"
    command = ["reward", str(path), "--aggregation", "WorstCase", "--output", str(output)]
    assert main(command) == 0
    assert [row["reward"] for row in read_lines(output)] == pytest.approx(
        [score.reward for score in worst]
    )


def test_commands_change_the_shaping(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = outcome_model()
    folder, scorer = checkpoint.save(model, tmp_path / "model"), RewardScorer(model, shaping=LINE)
    prompt, texts = "1 + 1 = ?", ["2", "It is 15."]
    path, output = tmp_path / "scores.jsonl", tmp_path / "shaped.jsonl"
    expected = [score.reward for score in scorer.score([(prompt, text) for text in texts])]
    line = ["--shaping.center=0.5", "--shaping.scale", "2"]

    score = ["score", "--model", str(folder), "--prompt", prompt, "--response", json.dumps(texts)]
    assert main([*score, "--json", "true", *line]) == 0
    rows = [json.loads(row) for row in capsys.readouterr().out.splitlines()]
    assert [row["reward"] for row in rows] == pytest.approx(expected, abs=1e-5)

    score_file(RewardScorer(model), survey([Rating(prompt, text) for text in texts]), path)
    assert main(["reward", str(path), *line, "--output", str(output)]) == 0
    assert [row["reward"] for row in read_lines(output)] == pytest.approx(expected, abs=1e-5)
    assert read_scores(output).known_spec().shaping == LINE

    assert (
        main(["reward", str(path), "--shaping.power=2", "--output", str(tmp_path / "x.jsonl")]) != 0
    )
    assert "expected center, scale, squash, clip, got power" in capsys.readouterr().err


def test_a_run_with_another_shaping_does_not_continue(tmp_path: Path) -> None:
    model, path = outcome_model(), tmp_path / "scores.jsonl"
    inputs = survey([*RESPONSES] * 60)
    with pytest.raises(KeyboardInterrupt):
        score_file(RewardScorer(model), inputs, path, on_block=interrupt)
    with pytest.raises(ConfigError, match="shaping"):
        score_file(RewardScorer(model, shaping=PAR), inputs, path)


def interrupt(summary: Summary) -> None:
    if summary.num_records:
        raise KeyboardInterrupt


def test_deviations_have_the_slope_of_the_shaping(tmp_path: Path) -> None:
    rows = make_rows([("a", (1.0, 2.0, 0.5)), ("a", (2.0, -4.0, 1.0))], spread=0.5)
    spec = make_spec()
    plain, halved, bent = (
        read_scores(write_rows(tmp_path / f"{name}.jsonl", rows, spec.with_(shaping=shaping)))
        for name, shaping in (("plain", Shaping()), ("halved", LINE), ("bent", PAR))
    )
    weights = spec.objective_aggregation
    assert weights is not None
    np.testing.assert_allclose(
        halved.with_aggregation(weights).deviations(),
        plain.with_aggregation(weights).deviations() / 2,
    )
    np.testing.assert_allclose(
        halved.with_aggregation(weights).rewards(),
        (plain.with_aggregation(weights).rewards() - 0.5) / 2,
    )
    assert bent.with_aggregation(weights).deviations() is None


def test_a_line_changes_no_probability_of_being_better(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = make_rows([("a", (1.0, 2.0, 0.5)), ("a", (2.0, 1.6, 0.5))], spread=0.5)
    found = []
    for index, shaping in enumerate((Shaping(), LINE)):
        spec = make_spec().with_(shaping=shaping)
        path = write_rows(tmp_path / f"{index}.jsonl", rows, spec)
        reward, ranked = tmp_path / f"reward-{index}.jsonl", tmp_path / f"ranked-{index}.jsonl"
        assert main(["reward", str(path), "--output", str(reward)]) == 0
        assert main(["rank", str(reward), "--output", str(ranked)]) == 0
        found.append([row["win_probability"] for row in read_lines(ranked)])
    assert found[0][0] == pytest.approx(found[1][0])
    assert 0.5 < found[0][0] < 1


def test_an_audit_of_choices_looks_at_what_is_aggregated(tmp_path: Path) -> None:
    """Clipped rewards tie, which says nothing about the aggregation."""
    rows = make_rows([("a", (1.0, 2.0, 0.5)), ("a", (2.0, -4.0, 1.0))])
    tables = [
        read_scores(write_rows(tmp_path / f"{index}.jsonl", rows, make_spec().with_(shaping=one)))
        for index, one in enumerate((Shaping(), Shaping(clip=(-0.01, 0.01))))
    ]
    base = make_spec().objective_aggregation
    assert base is not None
    first, second = (Decisions.of(table, base) for table in tables)
    np.testing.assert_array_equal(first.base_rewards, second.base_rewards)


def test_an_option_of_training_is_in_the_models_spec(run_dir: Path) -> None:
    write_data(run_dir)
    model = {"shaping": {"scale": 2, "squash": "tanh", "clip": [-0.9, 0.9]}}
    run = fit(run_dir, model=model, trainer={"max_steps": 1})
    assert RewardSpec.load(run / "model").shaping == Shaping(0.0, 2.0, "tanh", (-0.9, 0.9))
