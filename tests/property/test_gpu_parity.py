"""On a GPU the scores are those of the CPU, whatever is packed beside a chain."""

from __future__ import annotations

import pytest
import torch
from tiny_models import CHAINS, TREE_FAMILIES, tiny_model

from prm.scoring.scorer import RewardScorer


@pytest.mark.gpu
@pytest.mark.parametrize("family", TREE_FAMILIES)
def test_cuda_scores_equal_cpu_scores(family: str) -> None:
    model = tiny_model(family)
    expected = RewardScorer(model).score(CHAINS)
    on_gpu = RewardScorer(model.to("cuda"))
    packed = on_gpu.score(CHAINS)
    alone = [on_gpu.score(chain)[0] for chain in CHAINS]
    for scores in (packed, alone):
        for ours, theirs in zip(scores, expected, strict=True):
            for name, logits in theirs.step_logits.items():
                torch.testing.assert_close(
                    torch.tensor([x for x in ours.step_logits[name] if x is not None]),
                    torch.tensor([x for x in logits if x is not None]),
                    atol=1e-3,
                    rtol=1e-3,
                )
