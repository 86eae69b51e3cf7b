"""Adapters never lose their heads, and merging keeps the scores."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import CHAINS, columns_packed, tiny_model

from prm.errors import ConfigError
from prm.models import checkpoint
from prm.models.lora import LoRA, merged
from prm.models.reward_model import RewardModel
from prm.spec import RewardSpec, StepFormat
from prm.trees.packing import pack

pytest.importorskip("peft")


def adapted(family: str = "qwen2", spec: RewardSpec | None = None) -> RewardModel:
    """Return a model whose adapters do something."""
    model = tiny_model(family, spec)
    LoRA(rank=4).apply(model)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
            if "trainable_tokens_delta" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def trainable(model: RewardModel) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_heads_and_adapters_train_and_nothing_else() -> None:
    names = trainable(adapted())
    assert {"heads.layers.weight", "heads.layers.bias"} <= names
    assert any("lora_A" in name for name in names)
    assert all(
        "lora_" in name or "trainable_tokens" in name or name.startswith("heads.") for name in names
    )


def test_the_new_marker_is_trained_and_no_output_layer() -> None:
    assert any("trainable_tokens" in name for name in trainable(adapted()))
    unmarked = adapted(spec=RewardSpec(step_format=StepFormat(marker=None)))
    assert not any("trainable_tokens" in name for name in trainable(unmarked))
    assert not any("lm_head" in name for name, _ in adapted().named_parameters())


@pytest.mark.parametrize("family", ["qwen2", "gpt_neox"])
def test_scores_survive_merging_and_reloading(family: str, tmp_path: Path) -> None:
    model = adapted(family)
    expected = columns_packed(model, CHAINS)
    plain = columns_packed(tiny_model(family), CHAINS)
    assert not torch.allclose(torch.cat(expected), torch.cat(plain), atol=1e-2)
    loaded = checkpoint.load(checkpoint.save(model, tmp_path / "model"))
    for other in (merged(model), loaded):
        for a, b in zip(expected, columns_packed(other, CHAINS), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_merging_leaves_the_model_in_training() -> None:
    model = adapted()
    names = trainable(model)
    merged(model)
    assert trainable(model) == names


def test_a_model_without_adapters_is_its_own_merge() -> None:
    model = tiny_model()
    assert merged(model) is model


def test_gradients_reach_adapters_marker_and_heads() -> None:
    model = adapted()
    trees = pack([model.builder.build(chain).tree for chain in CHAINS])
    model(trees).columns.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        if parameter.requires_grad:
            assert parameter.grad is not None
            assert parameter.grad.any(), name


def test_targets_and_rank_are_obeyed() -> None:
    model = tiny_model()
    LoRA(rank=2, target_modules=["q_proj"]).apply(model)
    adapters = {n: p.shape for n, p in model.named_parameters() if "lora_A" in n}
    assert len(adapters) == 2
    assert all("q_proj" in name and shape[0] == 2 for name, shape in adapters.items())


def test_targets_that_do_not_exist_are_an_error() -> None:
    with pytest.raises(ConfigError, match="LoRA cannot be applied"):
        LoRA(target_modules=["no_such_layer"]).apply(tiny_model())
