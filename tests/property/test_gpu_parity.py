"""On a GPU the scores, gradients and grown chains are those of the dense reference on the CPU."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from tiny_models import CHAINS, TREE_FAMILIES, tiny_model
from torch import Tensor

from prm.models.reward_model import RewardModel
from prm.models.tree_attention import Kernel
from prm.scores.chains import ChainScore
from prm.scoring.scorer import RewardScorer
from prm.scoring.session import ScoringSession
from prm.trees.packing import pack

pytestmark = pytest.mark.gpu

SIZES = {"hidden_size": 64, "max_position_embeddings": 512}
"""Heads of 16, the narrowest that flex attention takes."""


def wide_model(family: str, kernel: Kernel = "auto") -> RewardModel:
    fields = SIZES | ({"head_dim": 16} if family in ("qwen3", "gemma") else {})
    return tiny_model(family, kernel=kernel, **fields)


def assert_same_scores(
    ours: Sequence[ChainScore], theirs: Sequence[ChainScore], tolerance: float
) -> None:
    for one, other in zip(ours, theirs, strict=True):
        for name, logits in other.step_logits.items():
            torch.testing.assert_close(
                torch.tensor([x for x in one.step_logits[name] if x is not None]),
                torch.tensor([x for x in logits if x is not None]),
                atol=tolerance,
                rtol=tolerance,
            )


@pytest.mark.parametrize("family", TREE_FAMILIES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 0.1)], ids=["fp32", "bf16"]
)
def test_cuda_scores_equal_cpu_scores(family: str, dtype: torch.dtype, tolerance: float) -> None:
    model = wide_model(family)
    expected = RewardScorer(model).score(CHAINS)
    model.backbone.to(dtype)
    on_gpu = RewardScorer(model.to("cuda"))
    assert_same_scores(on_gpu.score(CHAINS), expected, tolerance)
    assert_same_scores([on_gpu.score(chain)[0] for chain in CHAINS], expected, tolerance)


@pytest.mark.parametrize("family", TREE_FAMILIES)
def test_chains_that_grow_on_cuda_score_as_on_the_cpu(family: str) -> None:
    model = wide_model(family)
    grown = [(chain.prompt, chain.completions[: n + 1]) for chain in CHAINS for n in range(2)]
    expected = RewardScorer(model).score(grown)
    session = ScoringSession(RewardScorer(model.to("cuda")))
    assert_same_scores([session.score(chain)[0] for chain in grown], expected, 1e-3)
    assert session.stats.reused > 0


def gradients(model: RewardModel, device: str) -> dict[str, Tensor]:
    trees = pack([model.builder.build(chain).tree for chain in CHAINS]).to(device)
    columns = model.to(device).train()(trees).columns
    weights = torch.arange(len(columns), device=device)[:, None]
    (columns.sigmoid() * weights).sum().backward()
    return {
        name: value.grad.cpu().double()
        for name, value in model.named_parameters()
        if value.grad is not None
    }


@pytest.mark.parametrize("family", TREE_FAMILIES)
@pytest.mark.parametrize("kernel", ["flex", "dense"])
def test_cuda_gradients_equal_those_of_the_dense_reference(family: str, kernel: Kernel) -> None:
    reference = wide_model(family, "dense")
    reference.backbone.double()  # heads are float32 always
    expected = gradients(reference, "cpu")
    actual = gradients(wide_model(family, kernel), "cuda")
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, atol=2e-3, rtol=2e-3, msg=name)
