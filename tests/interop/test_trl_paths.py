"""Model folders that TRL loads by itself: the one-label export, and why not the whole model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from prm.aggregation.objectives import WeightedSum
from prm.models import checkpoint
from prm.models.export import export_scalar
from tests.interop.trl_runs import TRL_WARNINGS, train
from tests.outcome_models import outcome_model

pytest.importorskip("trl")
pytestmark = TRL_WARNINGS


@pytest.fixture(scope="module")
def folded_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two objectives, with its one-label export beside it as training leaves it."""
    model = outcome_model(
        "qwen3", objective_aggregation=WeightedSum({"helpfulness": 1.0, "toxicity": 3.0})
    )
    folder = checkpoint.save(model, tmp_path_factory.mktemp("folded") / "model")
    export_scalar(model, folder / "scalar")
    return folder


def test_a_folded_model_by_path_is_the_weighted_sum(folded_folder: Path, tmp_path: Path) -> None:
    run = train(tmp_path, str(folded_folder / "scalar"))
    table = run.table()
    texts = [row["prompt"] + row["completion"] for row in table.to_dict("records")]
    expected = [labels @ torch.tensor([1.0, -3.0]) for labels in stock_labels(folded_folder, texts)]
    assert table["scalar"].tolist() == pytest.approx([float(one) for one in expected], abs=1e-5)


def stock_labels(folder: Path, texts: Sequence[str]) -> list[Tensor]:
    """Return all labels of each text, as transformers computes them."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.inference_mode():
        inputs = [tokenizer(text, return_tensors="pt", add_special_tokens=False) for text in texts]
        return [model(**one).logits[0] for one in inputs]


def test_several_heads_by_path_are_refused_by_trl(folded_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        train(tmp_path, str(folded_folder))


def test_several_heads_as_an_object_are_read_as_their_first(
    folded_folder: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folded_folder)
    table = train(tmp_path, model).table()
    texts = [row["prompt"] + row["completion"] for row in table.to_dict("records")]
    expected = [float(labels[0]) for labels in stock_labels(folded_folder, texts)]
    assert table["model"].tolist() == pytest.approx(expected, abs=1e-5)
