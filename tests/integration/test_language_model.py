"""The next-token regularizer with pretrained models, tied and untied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.runs import fit, metrics, weights, write_data, write_pretrained


def pretrained(**model: Any) -> dict[str, Any]:
    backbone = {"class_path": "prm.models.sources.Pretrained", "init_args": {"path": "base"}}
    return {"backbone": backbone, "language_model": {"loss_weight": 0.5}, **model}


@pytest.mark.parametrize("tie", [False, True], ids=["untied", "tied"])
def test_it_trains_on_the_models_own_output_embeddings(run_dir: Path, tie: bool) -> None:
    write_data(run_dir)
    write_pretrained(run_dir / "base", tie=tie)
    run = fit(run_dir, model=pretrained(), trainer={"max_epochs": 4})
    losses = metrics(run, "train/loss_language_model")
    assert losses[-1] < losses[0]
    assert ("language_head" in weights(run)) != tie
    assert not [name for name in (run / "model").iterdir() if "head" in name.name]


def test_untied_output_embeddings_stay_as_they_are(run_dir: Path) -> None:
    write_data(run_dir)
    write_pretrained(run_dir / "base")
    head = weights(fit(run_dir, model=pretrained()))["language_head"]
    stored = AutoModelForCausalLM.from_pretrained("base").get_output_embeddings().weight
    assert torch.equal(head[: len(stored)], stored)


def test_the_first_loss_is_that_of_the_language_model(run_dir: Path) -> None:
    write_data(run_dir)
    write_pretrained(run_dir / "base")
    run = fit(run_dir, model=pretrained(), data={"batch_size": 24})
    assert metrics(run, "train/loss_language_model")[0] == pytest.approx(5.6, abs=0.4)
