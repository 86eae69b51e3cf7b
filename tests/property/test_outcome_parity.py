"""A response's scores are the same wherever and beside whatever they are asked for."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from prm.models import checkpoint
from prm.models.readouts import response_spreads
from prm.models.reward_model import RewardModel
from prm.records import Comparison, Rating
from prm.scoring.scorer import RewardScorer
from prm.trees.packing import pack
from prm.trees.units import ResponseSet
from tests.outcome_models import (
    RESPONSES,
    SPREAD_OBJECTIVES,
    columns_alone,
    columns_of,
    columns_shared,
    outcome_model,
)

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}

SPREADS = {"response_heads": SPREAD_OBJECTIVES}

MODELS: dict[str, dict[str, Any]] = {
    "llama": {"family": "llama"},
    "qwen2": {"family": "qwen2"},
    "qwen3": {"family": "qwen3"},
    "gpt2": {"family": "gpt2"},
    "gpt_neox": {"family": "gpt_neox"},
    "mistral-window": {"family": "mistral"},
    "llama-mlp": {"family": "llama", "head": "mlp"},
    "qwen2-spreads": {"family": "qwen2", **SPREADS},
    "bert-pooler": {"family": "bert", "read_at": "pooler"},
    "bert-pooler-spreads": {"family": "bert", "read_at": "pooler", **SPREADS},
    "bert-mean": {"family": "bert", "read_at": "mean"},
    "bert-last": {"family": "bert"},
    "bert-mlp": {"family": "bert", "read_at": "mean", "head": "mlp"},
    "roberta-pooler": {"family": "roberta", "read_at": "pooler"},
    "distilbert-mean": {"family": "distilbert", "read_at": "mean"},
    "modernbert-mean": {"family": "modernbert", "read_at": "mean"},
}

OWN_HEADS = ("mlp", "mean", "last", "roberta")
"""Parts of the names of models that stock transformers has no class with one linear head for."""

STOCK = [name for name in MODELS if not any(part in name for part in OWN_HEADS)]


@pytest.fixture(params=MODELS, scope="module")
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@functools.cache
def named_model(name: str) -> RewardModel:
    return outcome_model(**MODELS[name])


@functools.cache
def scores_alone(name: str) -> Tensor:
    return columns_alone(named_model(name), RESPONSES)


@pytest.fixture(scope="module")
def model(name: str) -> RewardModel:
    return named_model(name)


@pytest.fixture(scope="module")
def alone(name: str) -> Tensor:
    return scores_alone(name)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("parity")
    return {name: checkpoint.save(named_model(name), root / name) for name in MODELS}


def test_the_responses_do_differ(name: str, alone: Tensor) -> None:
    """Parity of constant scores would prove nothing."""
    assert (alone.std(dim=0) > 0.005).all()


def test_decoders_share_prompts_and_others_are_unrolled(name: str, alone: Tensor) -> None:
    mode = named_model(name).backbone.mode
    if "bert" in name:
        assert mode == "encoder"
    else:
        assert mode == ("unrolled" if "window" in name else "tree")


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 3, 2, 1, 0), (2, 0, 4, 1, 3), (0, 0, 2)])
def test_packed_in_any_order(model: RewardModel, alone: Tensor, order: tuple[int, ...]) -> None:
    columns = columns_of(model, [RESPONSES[index] for index in order])
    torch.testing.assert_close(columns, alone[list(order)], **TOLERANCE)


@pytest.mark.parametrize("order", [(0, 1, 4), (4, 1, 0), (1, 4)])
def test_a_shared_prompt(model: RewardModel, alone: Tensor, order: tuple[int, ...]) -> None:
    columns = columns_shared(model, [RESPONSES[index] for index in order])
    torch.testing.assert_close(columns, alone[list(order)], **TOLERANCE)


def test_in_a_comparison_or_a_rating(model: RewardModel, alone: Tensor) -> None:
    texts = [RESPONSES[index].response for index in (1, 0, 4)]
    compared = Comparison(RESPONSES[0].prompt, texts, [0, 1, 1], objective="helpfulness")
    tree = model.builder.build(ResponseSet.of([compared, RESPONSES[0]])).tree
    with torch.no_grad():
        columns = model(pack([tree])).columns
    torch.testing.assert_close(columns, alone[[1, 0, 4]], **TOLERANCE)


@pytest.mark.parametrize("max_tokens", [1, 80, 16384])
def test_the_scorer(model: RewardModel, alone: Tensor, max_tokens: int) -> None:
    scored = RewardScorer(model, max_tokens=max_tokens).score(RESPONSES)
    expected, spreads = model.response_scores(alone), response_spreads(alone, model.spec)
    for index, score in enumerate(scored):
        assert list(score.scores.values()) == pytest.approx(expected[index].tolist(), abs=1e-5)
        reward = float(model.spec.rewards(expected[index].double()))
        assert score.reward == pytest.approx(reward, abs=1e-5)
        known = spreads[index][~spreads[index].isnan()].tolist()
        assert list((score.spreads or {}).values()) == pytest.approx(known, abs=1e-5)


def test_reloaded_from_the_folder(name: str, folders: dict[str, Path], alone: Tensor) -> None:
    loaded = checkpoint.load(folders[name])
    assert isinstance(loaded, RewardModel)
    torch.testing.assert_close(columns_of(loaded, RESPONSES), alone, **TOLERANCE)


def test_only_what_stock_transformers_cannot_express_has_heads_of_its_own(
    name: str, folders: dict[str, Path]
) -> None:
    assert (folders[name] / "heads.safetensors").is_file() == (name not in STOCK)
    architecture = json.loads((folders[name] / "config.json").read_text())["architectures"][0]
    assert architecture.endswith("ForSequenceClassification") == (name in STOCK)


@pytest.mark.parametrize(
    ("name", "side"),
    [
        (name, side)
        for name in STOCK
        for side in ("left", "right")
        if side == "right" or "bert" not in name
    ],
)
def test_stock_sequence_classification_whatever_the_padding(
    name: str, folders: dict[str, Path], side: str
) -> None:
    """A padded batch of the same ids gives the columns; an encoder pools its first position."""
    model = named_model(name)
    stock = AutoModelForSequenceClassification.from_pretrained(folders[name]).eval()
    assert stock.config.pad_token_id not in (None, model.tokenizer.eos_token_id)
    rows, mask = padded(model, side)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = stock(input_ids=rows, attention_mask=mask, position_ids=positions).logits
    torch.testing.assert_close(logits, scores_alone(name), **TOLERANCE)


def padded(model: RewardModel, side: str) -> tuple[Tensor, Tensor]:
    """Return the ids of all responses in one batch and their mask, wider than the longest."""
    builder = model.builder
    trees = [pack([builder.build(ResponseSet.of([rating])).tree]) for rating in RESPONSES]
    width = 5 + max(tree.num_tokens for tree in trees)
    rows = torch.full((len(trees), width), model.tokenizer.pad_token_id)
    mask = torch.zeros_like(rows)
    for row, tree in enumerate(trees):
        start = width - tree.num_tokens if side == "left" else 0
        rows[row, start : start + tree.num_tokens] = tree.input_ids
        mask[row, start : start + tree.num_tokens] = 1
    return rows, mask


TEXTS = st.text(alphabet=st.characters(codec="utf-8"), min_size=1, max_size=12)


@pytest.mark.parametrize("name", ["llama", "mistral-window", "bert-pooler"])
@given(prompts=st.lists(TEXTS, min_size=1, max_size=2), responses=st.lists(TEXTS, min_size=1))
@settings(max_examples=6)
def test_any_text_scores_the_same_alone_and_in_company(
    name: str, prompts: list[str], responses: list[str]
) -> None:
    scorer = RewardScorer(named_model(name))
    ratings = [Rating(prompt, response) for prompt in prompts for response in responses[:4]]
    together = scorer.score([*ratings, *RESPONSES])
    for rating, score in zip(ratings, together, strict=False):
        single = scorer.score(rating)[0]
        assert score.reason == single.reason
        if not score.reason:
            expected = pytest.approx(list(single.scores.values()), abs=1e-5, rel=1e-5)
            assert list(score.scores.values()) == expected
