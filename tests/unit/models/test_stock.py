"""Which stock classifier a model is written as, and that its head and padding are right."""

from __future__ import annotations

from typing import Any

import pytest
from tiny_models import character_tokenizer, tiny_backbone

from prm.models.reward_model import RewardModel
from prm.models.stock import empty_classifier, head_has_bias, head_name
from prm.spec import ResponseFormat, ResponseHead, RewardSpec, StepHead
from prm.trees.identity import PAD_TOKEN, add_pad


def outcome(read_at: Any = "last", *objectives: ResponseHead) -> RewardSpec:
    return RewardSpec(
        response_heads=objectives or (ResponseHead("safety"),),
        response_format=ResponseFormat(read_at=read_at),
        objective_aggregation=None,
        max_length=64,
    )


JOINT = RewardSpec(
    step_heads=(StepHead(),), response_heads=(ResponseHead("safety"),), max_length=64
)


@pytest.mark.parametrize(
    ("family", "spec", "name", "bias"),
    [
        ("llama", outcome(), "LlamaForSequenceClassification", False),
        ("qwen2", outcome(), "Qwen2ForSequenceClassification", False),
        ("gpt2", outcome(), "GPT2ForSequenceClassification", False),
        ("gpt_neox", outcome(), "GPTNeoXForSequenceClassification", False),
        ("bert", outcome("pooler"), "BertForSequenceClassification", True),
        ("qwen2", RewardSpec(), "Qwen2ForTokenClassification", True),
        ("gpt_neox", RewardSpec(), "GPTNeoXForTokenClassification", True),
        ("qwen2", JOINT, "Qwen2ForTokenClassification", True),
    ],
)
def test_a_stock_class_and_whether_its_head_has_a_bias(
    family: str, spec: RewardSpec, name: str, bias: bool
) -> None:
    model = tiny_backbone(family)
    classifier = empty_classifier(model, spec)
    assert type(classifier).__name__ == name
    assert head_has_bias(model, spec) == bias


@pytest.mark.parametrize(
    ("family", "spec"),
    [
        ("bert", outcome("last")),
        ("bert", outcome("mean")),
        ("roberta", outcome("pooler")),
        ("distilbert", outcome("last")),
        ("mamba", RewardSpec()),
    ],
    ids=["other token", "mean", "head of two layers", "head with a layer before it", "none"],
)
def test_no_stock_class_reads_alike_with_one_linear_head(family: str, spec: RewardSpec) -> None:
    model = tiny_backbone(family)
    assert empty_classifier(model, spec) is None
    assert head_has_bias(model, spec)


def test_labels_are_the_columns_of_the_spec() -> None:
    objectives = (StepHead(), StepHead("redundancy", "softmax"))
    spec = RewardSpec(
        step_heads=objectives,
        chain_reward="correctness",
        response_heads=(ResponseHead("style", "gaussian", 2),),
    )
    classifier = empty_classifier(tiny_backbone(), spec)
    assert classifier is not None
    names = ["correctness", "not_redundancy", "redundancy", "style", "style_spread"]
    assert classifier.config.id2label == dict(enumerate(names))
    assert classifier.config.label2id == {name: index for index, name in enumerate(names)}
    assert getattr(classifier, str(head_name(classifier))).out_features == 5


@pytest.mark.parametrize(
    ("spec", "problem_type"),
    [
        (outcome(), "regression"),
        (JOINT, "regression"),
        (RewardSpec(), "multi_label_classification"),
        (RewardSpec(step_heads=(StepHead(readout="softmax"),)), "single_label_classification"),
    ],
)
def test_the_problem_type_fits_the_columns(spec: RewardSpec, problem_type: str) -> None:
    classifier = empty_classifier(tiny_backbone(), spec)
    assert classifier is not None
    assert classifier.config.problem_type == problem_type


def test_the_classifier_has_no_weights_and_leaves_the_model_alone() -> None:
    model = tiny_backbone()
    before = model.config.to_dict()
    classifier = empty_classifier(model, outcome())
    assert classifier is not None
    assert {parameter.device.type for parameter in classifier.parameters()} == {"meta"}
    assert model.config.to_dict() == before


@pytest.mark.parametrize("spec", [outcome(), JOINT], ids=["outcome", "joint"])
def test_heads_are_built_as_the_stock_class_has_them(spec: RewardSpec) -> None:
    tokenizer = character_tokenizer()
    model = RewardModel(tiny_backbone(tokenizer=tokenizer), tokenizer, spec)
    biases = [name for name, _ in model.heads.named_parameters() if "bias" in name]
    assert bool(biases) == (spec is JOINT)


# Padding: stock classifiers read the last token that is no padding


def test_a_pad_token_that_is_eos_is_replaced() -> None:
    tokenizer = character_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    assert add_pad(tokenizer, RewardSpec()) == 0
    assert add_pad(tokenizer, outcome()) == 1
    assert tokenizer.pad_token == PAD_TOKEN
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    assert add_pad(tokenizer, outcome()) == 0


def test_a_missing_pad_token_is_added_and_embedded() -> None:
    tokenizer = character_tokenizer()
    backbone = tiny_backbone(tokenizer=tokenizer)
    tokenizer.pad_token = None
    model = RewardModel(backbone, tokenizer, outcome())
    assert backbone.config.pad_token_id == tokenizer.pad_token_id == len(tokenizer) - 1
    assert backbone.get_input_embeddings().weight.shape[0] >= len(tokenizer)
    assert model.spec.tokenizer is not None
    assert model.spec.tokenizer.vocab_size == len(tokenizer)


def test_a_pad_token_of_its_own_is_kept() -> None:
    tokenizer = character_tokenizer()
    assert add_pad(tokenizer, outcome()) == 0
    assert tokenizer.pad_token == "<pad>"
