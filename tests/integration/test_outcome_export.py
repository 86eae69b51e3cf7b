"""What `prm fit` leaves behind for other programs: a one-label export wherever it is exact."""

from __future__ import annotations

from pathlib import Path

import pytest

from prm.cli.main import main
from prm.records import Rating
from prm.scoring.scorer import RewardScorer
from tests.outcome_runs import (
    HELPFULNESS,
    SAFETY,
    fit_outcomes,
    sources,
    write_outcome_config,
    write_outcomes,
)

RATINGS = [Rating("Question 3", "please 1"), Rating("Task 2", "bomb 3")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_outcomes(tmp_path)
    return tmp_path


def test_a_linear_reward_lies_beside_the_model_as_one_label(folder: Path) -> None:
    normalized = [HELPFULNESS | {"normalizer": "zscore"}, SAFETY | {"normalizer": "zscore"}]
    run = fit_outcomes(
        folder,
        model={"responses": normalized},
        data={part: sources(part, ["pairs", "verdicts"]) for part in ("train", "validation")},
    )
    whole = RewardScorer.from_pretrained(run / "model").score(RATINGS)
    folded = RewardScorer.from_pretrained(run / "model/scalar").score(RATINGS)
    for one, other in zip(whole, folded, strict=True):
        assert set(one.scores) == {"helpfulness", "safety"}
        assert other.reward == pytest.approx(one.reward, abs=1e-5)
    card = (run / "model/README.md").read_text()
    assert "scalar/" in card
    assert "| pair_accuracy |" in card


def test_a_reward_that_is_not_linear_has_no_one_label_export(folder: Path) -> None:
    run = fit_outcomes(folder, model={"objective_aggregation": {"class_path": "WorstCase"}})
    assert not (run / "model/scalar").exists()
    assert "scalar/" not in (run / "model/README.md").read_text()


def test_gated_rewards_cannot_be_trained_before_their_gate(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_outcome_config(folder, model={"objective_aggregation": {"class_path": "Gated"}})
    assert main(["fit", "--config", str(config)]) == 2
    assert "run `prm gate`" in capsys.readouterr().err
