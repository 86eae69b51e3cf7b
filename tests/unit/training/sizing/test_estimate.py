"""Estimates beside what torch allocates: parameters, states and kept activations are exact."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prm.errors import ConfigError
from prm.training.sizing.estimate import (
    GIB,
    Precision,
    Strategy,
    Training,
    activation_bytes,
    activation_bytes_per_layer,
    fit_gpus,
    flops_per_token,
    memory,
    num_trained,
    session_bytes_per_token,
    tokens_per_second,
)
from prm.training.sizing.shapes import PRESETS, DecoderShape, load_shape
from tests.benchmarks.sizing import SMALL, Check, build, per_layer, state_checks

SHAPE = load_shape("Qwen2.5-7B")

WITHOUT_EMBEDDINGS = {
    "Qwen2.5-0.5B": 0.36,
    "Qwen2.5-1.5B": 1.31,
    "Qwen2.5-3B": 2.77,
    "Qwen2.5-7B": 6.53,
    "Qwen2.5-72B": 70.0,
}
"""Billions, as the models' cards give them."""


@pytest.mark.parametrize("name", ["Qwen2.5-0.5B", "Qwen2.5-7B", "Qwen3-0.6B", "Llama-3.2-1B"])
def test_parameters_are_those_of_the_stock_model(name: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModel

    with torch.device("meta"):
        model = AutoModel.from_config(AutoConfig.for_model(**PRESETS[name]))
    assert load_shape(name).num_parameters == sum(item.numel() for item in model.parameters())


@pytest.mark.parametrize("name", WITHOUT_EMBEDDINGS)
def test_parameters_are_those_of_the_card(name: str) -> None:
    shape = load_shape(name)
    layers = (shape.num_parameters - shape.vocab_size * shape.hidden_size) / 1e9
    assert layers == pytest.approx(WITHOUT_EMBEDDINGS[name], abs=0.005, rel=4e-3)


def test_states_are_what_adamw_allocates() -> None:
    for check in state_checks():
        assert check.formula == check.measured, check


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "bf16-mixed"])
def test_kept_activations_are_what_autograd_keeps(family: str, precision: Precision) -> None:
    config = {**SMALL, "model_type": family}
    shape = DecoderShape.from_config(config)
    measured, num_tokens = per_layer(config, precision, checkpointing=False)
    copies = 2 * shape.linear_per_layer if precision == "bf16-mixed" else 0
    formula = num_tokens * activation_bytes_per_layer(shape, precision) + copies
    assert Check(family, formula, measured).formula == measured


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "bf16-mixed"])
def test_a_checkpointed_layer_keeps_its_input(precision: Precision) -> None:
    shape = DecoderShape.from_config(SMALL)
    measured, num_tokens = per_layer(SMALL, precision, checkpointing=True)
    training = Training(precision, max_tokens=num_tokens)
    more = replace(shape, num_layers=shape.num_layers + 1)
    assert activation_bytes(more, training) - activation_bytes(shape, training) == measured


def test_adapters_are_those_of_peft() -> None:
    peft = pytest.importorskip("peft")
    model = build(SMALL).model
    config = peft.LoraConfig(r=4, target_modules="all-linear", trainable_token_indices=[7])
    adapted = peft.get_peft_model(model, config)
    trained = sum(item.numel() for item in adapted.parameters() if item.requires_grad)
    assert num_trained(DecoderShape.from_config(SMALL), Training(lora_rank=4)) == trained


def test_sixteen_bytes_for_each_trained_parameter() -> None:
    estimate = memory(SHAPE, Training())
    states = estimate.weights + estimate.gradients + estimate.optimizer
    assert states == 16 * SHAPE.num_parameters
    assert estimate.total == sum(getattr(estimate, name) for name in estimate.__slots__)


@pytest.mark.parametrize(
    ("strategy", "weights", "gradients", "optimizer"),
    [
        ("ddp", 4, 8, 8),
        ("fsdp2", 4 / 8, 4 / 8, 8 / 8),
        ("zero2", 4, 4 / 8, 12 / 8),
        ("zero3", 4 / 8, 4 / 8, 12 / 8),
    ],
)
def test_strategies_shard_what_they_say(
    strategy: Strategy, weights: float, gradients: float, optimizer: float
) -> None:
    estimate = memory(SHAPE, Training(strategy=strategy, num_gpus=8))
    found = (estimate.weights, estimate.gradients, estimate.optimizer)
    expected = [share * SHAPE.num_parameters for share in (weights, gradients, optimizer)]
    assert found == pytest.approx(expected, rel=1e-6)


def test_useful_operations() -> None:
    whole = flops_per_token(SHAPE, Training())
    assert whole / (6 * SHAPE.num_linear) == pytest.approx(1.0, abs=0.05)
    assert flops_per_token(SHAPE, Training(lora_rank=8)) / whole == pytest.approx(2 / 3, abs=0.02)
    assert flops_per_token(SHAPE, Training(frozen=True)) / whole == pytest.approx(1 / 3)
    assert flops_per_token(SHAPE, Training(checkpointing=False)) == whole
    speed = tokens_per_second(SHAPE, Training(strategy="ddp", num_gpus=4), tflops=100, mfu=0.5)
    assert speed * whole == pytest.approx(4 * 100e12 * 0.5)


def test_frozen_weights_keep_nothing() -> None:
    estimate = memory(SHAPE, Training(frozen=True))
    assert (estimate.gradients, estimate.optimizer, estimate.activations) == (0, 0, 0)


def test_session_bytes() -> None:
    assert session_bytes_per_token(SHAPE, "bfloat16") == 2 * 28 * 4 * 128 * 2


def test_fewest_gpus() -> None:
    found = fit_gpus(SHAPE, Training(), 80, ("single", "fsdp2"))
    assert found is not None
    assert (found.strategy, found.num_gpus) == ("fsdp2", 2)
    assert memory(SHAPE, found).total < 0.9 * 80e9 < memory(SHAPE, Training()).total
    assert fit_gpus(SHAPE, Training(), 1, ("single", "fsdp2")) is None
    assert memory(SHAPE, Training()).total > 100 * GIB


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frozen": True, "lora_rank": 8}, "exclude each other"),
        ({"num_gpus": 2}, "single is for one GPU"),
        ({"max_tokens": 0}, "a size is wrong"),
        ({"lora_rank": -1}, "a size is wrong"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Training(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "mamba"}, "expected model_type llama"),
        ({"model_type": "qwen2", "hidden_size": 8}, "incomplete"),
    ],
)
def test_unknown_configurations_are_refused(config: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DecoderShape.from_config(config)
