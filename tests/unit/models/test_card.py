"""Model cards: valid front matter, every objective, and code that runs as it stands."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from prm.aggregation.normalize import ZScore
from prm.aggregation.objectives import WeightedSum, WorstCase
from prm.models import checkpoint
from prm.models.card import model_card, scalar_card
from prm.models.export import export_scalar
from prm.models.reward_model import RewardModel
from prm.scoring.scorer import RewardScorer
from prm.spec import RewardSpec, StepHead, Template
from tests.chat_templates import DATED, THINKING, chat_tokenizer
from tests.outcome_models import outcome_model, outcome_spec
from tests.tiny_models import tiny_backbone, tiny_tokenizer

METRICS = {
    "val/helpfulness/pair_accuracy": torch.tensor(0.75),
    "val/toxicity/auroc": 0.9,
    "val/reward/pair_accuracy": 0.8125,
    "val/helpfulness/some_source/pair_accuracy": 0.5,
    "val/ranking": 0.825,
    "train/loss": 0.1,
}
SCALES = {"helpfulness": ZScore(0.5, 2.0)}


def front_matter(card: str) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return data


def stock_columns(card: str, folder: Path, prompt: str, response: str) -> torch.Tensor:
    """Run the card's own code for stock transformers."""
    code = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)[1]
    code = code.replace("path/to/this/folder", str(folder))
    code = code.replace('"prompt", "response"', f"{prompt!r}, {response!r}")
    names: dict[str, Any] = {}
    exec(code, names)
    columns: torch.Tensor = names["columns"]
    return columns


def test_the_card_of_an_outcome_model_tells_everything() -> None:
    weights = WeightedSum({"helpfulness": 1.0, "toxicity": 0.25})
    spec = outcome_spec(objective_aggregation=weights, normalizers=SCALES)
    card = model_card(spec, METRICS, "best.ckpt")
    assert "| helpfulness | value | maximize | 0.5 score -0.25 | 1 |" in card
    assert "| toxicity | value | minimize | none | 0.25 |" in card
    assert repr(weights) in card
    assert "| metric | helpfulness | toxicity | reward |" in card
    assert "| auroc |  | 0.9000 |  |" in card
    assert "| pair_accuracy | 0.7500 |  | 0.8125 |" in card
    assert "| ranking | 0.8250 |" in card
    assert "loss" not in card
    assert "scalar/" in card
    assert "vllm serve" in card


def test_the_front_matter_is_a_model_index() -> None:
    data = front_matter(model_card(outcome_spec(), METRICS, "last step"))
    assert data["pipeline_tag"] == "text-classification"
    assert "license" not in data
    assert "multi-objective" in data["tags"]
    metrics = data["model-index"][0]["results"][0]["metrics"]
    assert {"type": "auroc", "name": "toxicity auroc", "value": 0.9} in metrics


def test_what_does_not_hold_is_not_said() -> None:
    bent = model_card(outcome_spec(objective_aggregation=WorstCase()), {}, "last step")
    assert "scalar/" not in bent
    only_prm = model_card(outcome_spec(), {}, "last step", stock=False)
    assert "only prm can load" in only_prm
    assert "vllm" not in only_prm
    assert "AutoModel" not in only_prm


def test_the_card_of_a_process_model_stays_as_it_was() -> None:
    card = model_card(RewardSpec(), {"val/step_auroc": 0.5}, "last step")
    assert front_matter(card)["pipeline_tag"] == "token-classification"
    assert "| step_auroc | 0.5000 |" in card


def joint_model() -> RewardModel:
    tokenizer = tiny_tokenizer()
    spec = outcome_spec(step_heads=(StepHead(),))
    return RewardModel(tiny_backbone("llama", tokenizer), tokenizer, spec).eval()


def chat_model(template: str) -> RewardModel:
    tokenizer = chat_tokenizer(template)
    spec = outcome_spec(template=Template("chat"))
    return RewardModel(tiny_backbone("llama", tokenizer), tokenizer, spec).eval()


MODELS: dict[str, Any] = {
    "decoder": outcome_model,
    "encoder": lambda: outcome_model("bert", "pooler"),
    "joint": joint_model,
    "chat with a date": lambda: chat_model(DATED),
    "chat that thinks": lambda: chat_model(THINKING),
    "template": lambda: outcome_model(
        template=Template(prefix="Q: ", suffix="\nA: ", bos="one"),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_code_for_stock_transformers_runs(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    card = model_card(model.spec, {}, "last step")
    folder = checkpoint.save(model, tmp_path / "model", card)
    columns = stock_columns(card, folder, "1 + 1 = ?", "Two <|eos|>.")
    score = RewardScorer.from_pretrained(folder).score([("1 + 1 = ?", "Two <|eos|>.")])[0]
    wanted = torch.tensor(list(score.scores.values()))
    torch.testing.assert_close(columns[-len(wanted) :], wanted, rtol=1e-5, atol=1e-5)


def test_the_card_of_a_one_label_export_runs_too(tmp_path: Path) -> None:
    model = outcome_model(normalizers=SCALES)
    export_scalar(model, tmp_path / "scalar", partial(scalar_card, model.spec))
    card = (tmp_path / "scalar/README.md").read_text()
    assert "helpfulness, toxicity separately" in card
    logit = stock_columns(card, tmp_path / "scalar", "1 + 1 = ?", "Two.")
    assert "The logit is the reward less -0.125" in card
    reward = RewardScorer(model).score([("1 + 1 = ?", "Two.")])[0].reward
    assert logit.item() - 0.125 == pytest.approx(reward, abs=1e-5)
