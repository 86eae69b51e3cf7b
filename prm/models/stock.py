"""The stock classifier of transformers that a reward model is written as, if there is one.

Outcome models are `*ForSequenceClassification`, models with step heads are
`*ForTokenClassification`; both have one linear head whose labels are the columns of the spec.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)

from prm.spec import RewardSpec

ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]


def family(spec: RewardSpec) -> Any:
    """Return the kind of stock classifier that a model of this spec is written as."""
    if spec.kind == "outcome":
        return AutoModelForSequenceClassification
    return AutoModelForTokenClassification


def empty_classifier(model: PreTrainedModel, spec: RewardSpec) -> PreTrainedModel | None:
    """Return the stock classifier around a model of this configuration, without weights.

    Returns:
        The classifier on the meta device; `None` if transformers has none that reads where the
        spec does and has one linear head.
    """
    if not _reads_alike(model, spec):
        return None
    config = copy.deepcopy(model.config)
    labels = [name for objective in spec.heads for name in objective.column_names]
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    config.problem_type = problem_type(spec)
    config._attn_implementation = "eager"
    try:
        with torch.device("meta"):
            classifier: PreTrainedModel = family(spec).from_config(config)
    except ValueError:
        return None
    return classifier if head_name(classifier) is not None else None


def head_name(classifier: PreTrainedModel) -> str | None:
    """Return the attribute of the classifier's linear layer, `None` if its head is another."""
    heads = {
        name: child
        for name, child in classifier.named_children()
        if name != classifier.base_model_prefix and not isinstance(child, nn.Dropout)
    }
    name = next(iter(heads), None)
    return name if len(heads) == 1 and isinstance(heads[str(name)], nn.Linear) else None


def head_has_bias(model: PreTrainedModel, spec: RewardSpec) -> bool:
    """Whether the linear head has a bias: as in the stock classifier, else yes."""
    classifier = empty_classifier(model, spec)
    if classifier is None:
        return True
    return getattr(classifier, str(head_name(classifier))).bias is not None


def _reads_alike(model: PreTrainedModel, spec: RewardSpec) -> bool:
    """Whether stock sequence classification reads where the spec says; tokens always do.

    Stock decoders read the last token, stock encoders with a pooler read its output.
    """
    if spec.kind != "outcome":
        return True
    has_pooler = getattr(model, "pooler", None) is not None
    return spec.response_format.read_at == ("pooler" if has_pooler else "last")


def problem_type(spec: RewardSpec) -> ProblemType:
    """Return what `config.json` says, from which engines infer the activation of the columns."""
    if spec.response_heads:
        return "regression"
    if all(objective.readout == "sigmoid" for objective in spec.step_heads):
        return "multi_label_classification"
    return "single_label_classification" if len(spec.step_heads) == 1 else "regression"
