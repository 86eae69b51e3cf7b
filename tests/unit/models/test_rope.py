"""Rotary positions depend on the most tokens a model may read, and on no other sequence."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import columns_alone, columns_packed, tiny_model
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from prm.models import checkpoint
from prm.models.export import export_stock
from prm.models.reward_model import RewardModel
from prm.models.rope import fix_rope
from prm.records import Chain
from prm.scoring.scorer import RewardScorer
from prm.scoring.session import ScoringSession
from prm.spec import RewardSpec
from prm.trees.tree import flat_path

pytestmark = pytest.mark.filterwarnings("ignore")

ORIGINAL = 64
FACTORS = {"short_factor": [1.0, 1.1, 1.2, 1.5], "long_factor": [1.0, 2.0, 4.0, 8.0]}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "original_max_position_embeddings": ORIGINAL,
    **FACTORS,
}
FIELDS: dict[str, dict[str, Any]] = {
    "phi3": {"rope_parameters": LONGROPE, "original_max_position_embeddings": ORIGINAL},
    "phimoe": {
        "rope_parameters": {**LONGROPE, "short_mscale": 1.1, "long_mscale": 1.4},
        "num_local_experts": 4,
    },
    "llama": {
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
        "max_position_embeddings": ORIGINAL,
    },
    "qwen2": {"rope_parameters": LONGROPE},
}
SHORT = Chain("1 + 1 = ?", ["1 + 1 = 2"])
LONG = Chain("1 + 1 = ?", ["1 + 1 = 2", *(f"so {i} + {i} = {2 * i}" for i in range(12))])


def vivid_model(family: str, max_length: int) -> RewardModel:
    """Return a model whose attention matters as much as in a trained one."""
    spec = RewardSpec(max_length=max_length)
    model = tiny_model(family, spec, **copy.deepcopy(FIELDS[family]))
    with torch.no_grad():
        for name, weight in model.backbone.model.named_parameters():
            if weight.ndim > 1 and "embed" not in name:
                weight.mul_(12.0)
    return model


def num_tokens(model: RewardModel, chain: Chain) -> int:
    """Return the tokens of a chain's only path."""
    return len(flat_path(model.builder.build(chain).tree)[0])


@pytest.mark.parametrize("mode", ["tree", "unrolled"])
@pytest.mark.parametrize("family", FIELDS)
def test_no_score_depends_on_how_long_another_sequence_is(family: str, mode: Any) -> None:
    model = vivid_model(family, 256)
    model.backbone.check(torch.device("cpu"))
    assert model.backbone.mode == "tree"
    if mode == "unrolled":
        model.backbone.mode = mode
        model.backbone.set_attention("sdpa")
    alone = columns_alone(model, SHORT)
    assert num_tokens(model, SHORT) < ORIGINAL
    assert num_tokens(model, LONG) > ORIGINAL
    beside, long = columns_packed(model, [SHORT, LONG])
    torch.testing.assert_close(beside, alone, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(long[:1], alone, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(columns_alone(model, SHORT), alone, rtol=0, atol=0)


@pytest.mark.parametrize("family", FIELDS)
def test_a_session_that_grows_over_the_original_length_keeps_its_scores(family: str) -> None:
    model = vivid_model(family, 256)
    session = ScoringSession(RewardScorer(model), 10_000)
    expected = columns_alone(model, LONG).squeeze(-1).tolist()
    for count in range(1, len(LONG.completions) + 1, 3):
        score = session.score(Chain(LONG.prompt, LONG.completions[:count]))[0]
        assert score.step_logits["correctness"] == pytest.approx(expected[:count], abs=1e-5)


@pytest.mark.parametrize("family", FIELDS)
def test_what_is_chosen_follows_from_the_most_tokens(family: str) -> None:
    short, long = (vivid_model(family, size) for size in (ORIGINAL, ORIGINAL + 1))
    other = vivid_model(family, 256)
    one, two, three = (columns_alone(model, SHORT) for model in (short, long, other))
    assert (one - two).abs().max() > 1e-3
    if family != "llama":
        torch.testing.assert_close(two, three)


@pytest.mark.parametrize("family", ["phi3", "llama", "qwen2"])
@pytest.mark.parametrize("max_length", [ORIGINAL, 256])
def test_the_choice_travels_with_the_folder(family: str, max_length: int, tmp_path: Path) -> None:
    model = vivid_model(family, max_length)
    exported = export_stock(model, tmp_path / "out")
    assert exported.difference < 1e-5
    loaded = checkpoint.load(tmp_path / "out")
    torch.testing.assert_close(columns_alone(loaded, SHORT), columns_alone(model, SHORT))


def test_long_factors_are_those_of_the_configuration() -> None:
    model: Any = vivid_model("phi3", 256).backbone.model
    expected = 1 / (torch.tensor(FACTORS["long_factor"]) * 1e4 ** (torch.arange(0, 8, 2) / 8))
    torch.testing.assert_close(model.rotary_emb.inv_freq, expected)
    assert model.config.rope_parameters["short_factor"] == FACTORS["long_factor"]


def test_modules_that_share_a_configuration_are_all_fixed() -> None:
    """Some families hold rotary positions in every layer."""
    config = copy.deepcopy(vivid_model("llama", ORIGINAL).backbone.model.config)
    model = nn.ModuleList([LlamaRotaryEmbedding(config), LlamaRotaryEmbedding(config)])
    fix_rope(model, 256)
    one, other = (module.inv_freq for module in model)
    expected: Any = vivid_model("llama", 256).backbone.model
    torch.testing.assert_close(one, expected.rotary_emb.inv_freq)
    torch.testing.assert_close(other, one)
    assert config.rope_parameters["rope_theta"] == pytest.approx(
        expected.config.rope_parameters["rope_theta"]
    )


def test_dynamic_frequencies_are_those_of_the_longest_path() -> None:
    plain: Any = tiny_model(
        "llama", RewardSpec(max_length=ORIGINAL), **copy.deepcopy(FIELDS["llama"])
    )
    position = torch.full((1, 1), 255)
    plain.backbone.model.rotary_emb(torch.zeros(1), position)  # grows, as transformers has it
    model: Any = vivid_model("llama", 256)
    torch.testing.assert_close(
        model.backbone.model.rotary_emb.inv_freq, plain.backbone.model.rotary_emb.inv_freq
    )
    assert model.backbone.model.config.rope_parameters["rope_type"] == "default"
