"""`prm export`: stock checkpoints that score the same, and refusals that leave nothing behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from prm.aggregation.normalize import ZScore
from prm.aggregation.objectives import WeightedSum, WorstCase
from prm.cli.main import main
from prm.errors import ModelError, PrmError
from prm.models import checkpoint, export
from prm.models.reward_model import RewardModel
from prm.scoring.scorer import RewardScorer
from prm.trees.units import ResponseSet
from tests.outcome_models import RESPONSES, outcome_model
from tests.tiny_models import tiny_model

SCALES = {"helpfulness": ZScore(0.5, 2.0), "toxicity": ZScore(-1.0, 0.5)}
WEIGHTS = WeightedSum({"helpfulness": 1.0, "toxicity": 0.5})


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = outcome_model(objective_aggregation=WEIGHTS, normalizers=SCALES)
    return checkpoint.save(model, tmp_path_factory.mktemp("saved") / "model", card="# Card\n")


def prm(*words: object) -> int:
    return main([str(word) for word in words])


@torch.no_grad()
def stock_logits(folder: Path, model: RewardModel) -> torch.Tensor:
    """Return `[response, label]` as any user of transformers would, with no code of prm."""
    stock = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    rows = []
    for rating in RESPONSES:
        tree = model.builder.build(ResponseSet.of([rating])).tree
        ids = [token for segment in tree.segments for token in segment.input_ids]
        rows.append(stock(input_ids=torch.tensor([ids])).logits[0])
    return torch.stack(rows)


def test_hf_has_a_label_per_objective(saved: Path, tmp_path: Path) -> None:
    assert prm("export", "--model", saved, "--output", tmp_path / "out", "--to", "hf") == 0
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert list(config["id2label"].values()) == ["helpfulness", "toxicity"]
    assert config["problem_type"] == "regression"
    assert (tmp_path / "out/README.md").read_text() == "# Card\n"
    scores = RewardScorer.from_pretrained(saved).score(RESPONSES)
    wanted = torch.tensor([list(score.scores.values()) for score in scores])
    got = stock_logits(tmp_path / "out", checkpoint.load(saved))
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("override", [(), ("--aggregation.weights.toxicity=3",)])
def test_scalar_is_the_reward_less_a_constant(
    saved: Path, tmp_path: Path, override: tuple[str, ...]
) -> None:
    out = tmp_path / "out"
    assert prm("export", "--model", saved, "--output", out, "--to", "scalar", *override) == 0
    model = checkpoint.load(saved)
    if override:
        model.spec = model.spec.with_(
            objective_aggregation=WEIGHTS.with_overrides({"weights.toxicity": 3.0})
        )
    wanted = torch.tensor([score.reward for score in RewardScorer(model).score(RESPONSES)])
    logits = stock_logits(out, model)
    assert logits.shape == (len(RESPONSES), 1)
    constant = -json.loads((out / "config.json").read_text())["mean"]
    assert constant != 0
    torch.testing.assert_close(logits[:, 0] + constant, wanted, rtol=1e-5, atol=1e-5)
    again = [score.reward for score in RewardScorer.from_pretrained(out).score(RESPONSES)]
    torch.testing.assert_close(torch.tensor(again), wanted, rtol=1e-5, atol=1e-5)
    assert f'"logit_mean": {-constant}' in (out / "README.md").read_text()


def test_a_half_precision_export_is_compared_in_float32(saved: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("--output", out, "--to", "scalar", "--dtype", "bfloat16")
    assert prm("export", "--model", saved, *words) == 0
    assert next(checkpoint.load(out).backbone.parameters()).dtype == torch.bfloat16


def test_a_process_model_is_exported_as_token_classifier(tmp_path: Path) -> None:
    folder = checkpoint.save(tiny_model(), tmp_path / "model")
    assert prm("export", "--model", folder, "--output", tmp_path / "out", "--to", "hf") == 0
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["architectures"] == ["Qwen2ForTokenClassification"]


REFUSED: dict[str, tuple[dict[str, Any], tuple[str, ...], str]] = {
    "aggregation": (
        {"objective_aggregation": WorstCase()},
        ("--to", "scalar"),
        "its aggregation is not linear",
    ),
    "heads": ({"head": "mlp"}, ("--to", "scalar"), "the heads are not linear"),
    "stock": ({"head": "mlp"}, ("--to", "hf"), "stock classifiers have one linear head"),
    "reading": (
        {"family": "bert", "read_at": "mean"},
        ("--to", "hf"),
        "no classifier on BertModel that reads where this model does",
    ),
    "weights": ({}, ("--to", "scalar", "--aggregation.weights.style=1"), "style"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_says_why_and_leaves_nothing(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields, words, problem = REFUSED[name]
    folder = checkpoint.save(outcome_model(**fields), tmp_path / "model")
    assert prm("export", "--model", folder, "--output", tmp_path / "out", *words) == 2
    assert problem in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_other_scores_are_refused_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stock class that reads elsewhere would write a model whose scores nobody can trust."""
    monkeypatch.setattr(export, "_stock_columns", lambda *_: torch.zeros(len(export.RESPONSES), 2))
    with pytest.raises(ModelError, match="other scores"):
        export.export_stock(outcome_model(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_exists_is_replaced_only_on_request(saved: Path, tmp_path: Path) -> None:
    words = ("export", "--model", saved, "--output", tmp_path / "out", "--to", "hf")
    assert prm(*words) == 0
    assert prm(*words) == 2
    assert prm(*words, "--overwrite") == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep")
    words = ("export", "--model", saved, "--output", tmp_path / "mine", "--to", "hf")
    assert prm(*words, "--overwrite") == 2
    assert (tmp_path / "mine/notes.txt").read_text() == "keep"


def test_what_engines_may_trip_over_is_found(saved: Path, tmp_path: Path) -> None:
    assert export.serving_findings(saved) == ()
    config = json.loads((saved / "config.json").read_text())
    config |= {"pad_token_id": config["eos_token_id"], "problem_type": None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes())
    findings = " ".join(export.serving_findings(tmp_path))
    assert "pad token ends sequences" in findings
    assert "problem_type" in findings


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    words = ("export", "--model", tmp_path / "no", "--output", tmp_path / "out", "--to", "hf")
    assert prm(*words) == 2
    with pytest.raises(PrmError):
        checkpoint.load(tmp_path / "no")
