"""Normalizers of objectives, fitted on the scores that a model gives to held-out responses."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import torch

from prm.aggregation.normalize import Normalizer, Quantile, ZScore
from prm.data.items import LabeledResponses
from prm.data.module import RecordDataModule
from prm.data.planning import plan_evaluation
from prm.models.reward_model import RewardModel
from prm.training.objectives import ResponseObjective

NORMALIZERS: dict[str, type[Normalizer]] = {"zscore": ZScore, "quantile": Quantile}

REFERENCE = 4096
"""Most response sets that normalizers are fitted on."""


@torch.no_grad()
def fit_normalizers(
    objectives: Sequence[ResponseObjective], model: RewardModel, data: RecordDataModule
) -> None:
    """Fit normalizers on the scores of the validation responses (training ones if there are none).

    They become part of the model's spec, in place of those that were there.

    Args:
        objectives: The objectives; those whose normalizer is `none` stay as they are.
        model: What scores, and whose spec is changed.
        data: The data of the run.
    """
    chosen = {o.name: NORMALIZERS[o.normalizer] for o in objectives if o.normalizer != "none"}
    if not chosen:
        model.spec = model.spec.with_(normalizers={})
        return
    part = "validation" if data.items("validation") else "train"
    responses = (item for item in data.items(part) if isinstance(item, LabeledResponses))
    reference = list(islice(responses, REFERENCE))
    pack = data.packer(reference)
    model.eval()
    found = []
    for plan in plan_evaluation([item.tree.num_tokens for item in reference], data.max_tokens):
        trees = pack([reference[index].tree for index in plan.records])
        found.append(model.response_scores(model(trees.to(model.device)).columns))
    scores = torch.cat(found).cpu()
    normalizers = {
        name: cls.fit(scores[:, model.spec.response_names.index(name)], source=part)
        for name, cls in chosen.items()
    }
    model.spec = model.spec.with_(normalizers=normalizers)
