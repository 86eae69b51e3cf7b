"""How the model of a training run is made."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_models import CHAINS, tiny_model, tiny_tokenizer

from prm.models import checkpoint
from prm.models.sources import BackboneSource, FromRewardModel, FromScratch
from prm.spec import RewardSpec, StepFormat
from prm.spec.parts import STEP_MARKER
from prm.training.build import Recipe
from prm.trees.tree import flat_path

SCRATCH = FromScratch(
    {
        "model_type": "qwen2",
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    },
    vocab_size=300,
)
SPEC = RewardSpec(max_length=256)


def recipe(source: BackboneSource = SCRATCH, **options: Any) -> Recipe:
    """Return a recipe of a frozen backbone."""
    defaults: dict[str, Any] = {
        "head": "linear",
        "lora": None,
        "freeze_backbone": True,
        "gradient_checkpointing": False,
        "compile_layers": False,
        "state_cache": None,
        "language_model": None,
    }
    return Recipe(source, **{**defaults, **options})


def test_a_frozen_backbone_reads_steps_at_their_own_last_token() -> None:
    """A new token's embedding would be a mean that nothing ever changes."""
    tokenizer = tiny_tokenizer()
    num_tokens = len(tokenizer)
    model = recipe().model(tokenizer, SPEC)
    assert model.spec.marker is None
    assert len(model.tokenizer) == num_tokens
    ids, reads = flat_path(model.builder.build(CHAINS[0]).tree)
    step = model.tokenizer(CHAINS[0].completions[-1], add_special_tokens=False)["input_ids"]
    assert ids[reads[-1]] == step[-1]
    trained = recipe(freeze_backbone=False).model(tiny_tokenizer(), SPEC)
    assert trained.spec.marker == STEP_MARKER


def test_a_marker_that_the_backbone_knows_stays(tmp_path: Path) -> None:
    checkpoint.save(tiny_model(), tmp_path / "model")
    source = FromRewardModel(str(tmp_path / "model"))
    spec = source.adapted(SPEC)
    model = recipe(source).model(source.tokenizer(), spec)
    assert model.spec.marker == STEP_MARKER


def test_a_marker_that_was_asked_for_stays_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    spec = replace(SPEC, step_format=StepFormat(marker="<mine>"))
    with caplog.at_level(logging.WARNING, "prm.training.build"):
        model = recipe().model(tiny_tokenizer(), spec)
    assert model.spec.marker == "<mine>"
    assert "never learns what '<mine>' means" in caplog.text
