"""Pitfalls of other reward-model code, end to end: text to loss and text to reward."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import CHAINS, columns_packed, tiny_model

from prm.data.batches import micro_batch
from prm.data.items import LabeledChain
from prm.data.labels import Labeler, step_labels
from prm.data.planning import MicroBatchPlan, plan_micro_batches
from prm.losses.steps import BCE, CrossEntropy, QValueRanking, StepLoss, StepTargets
from prm.models.reward_model import RewardModel
from prm.records import Chain
from prm.scoring.scorer import RewardScorer
from prm.spec import STEP_MARKER, RewardSpec, StepHead, Template

LABELED = [
    chain.with_labels(
        {"correctness": [(i + j) % 2 * 0.9 + 0.05 for j in range(len(chain.completions))]}
    )
    for i, chain in enumerate(CHAINS)
]
LABELER = Labeler(["correctness"], [])


@pytest.fixture(scope="module")
def model() -> RewardModel:
    return tiny_model()


def read(model: RewardModel, chains: list[Chain]) -> list[LabeledChain]:
    return [LabeledChain(chain, model.builder.build(chain)) for chain in chains]


def loss_and_gradient(
    model: RewardModel, loss: StepLoss, chains: list[Chain], max_tokens: int
) -> tuple[float, list[torch.Tensor]]:
    """Return what one optimizer step sees, over as many micro-batches as the budget needs."""
    model.zero_grad()
    items = read(model, chains)
    lengths = [item.tokens.tree.num_tokens for item in items]
    everything = step_labels(items, ["correctness"])
    total = loss.weights(StepTargets(everything.labels[:, 0], everything.chain)).sum()
    value = 0.0
    for plan in plan_micro_batches(range(len(items)), lengths, max_tokens):
        batch = micro_batch(plan, items, LABELER)
        labels = batch.labels.steps
        targets = StepTargets(labels.labels[:, 0], labels.chain)
        part = loss.sum(model(batch.trees).columns, targets) / total
        part.backward()
        value += part.item()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return value, gradients


@pytest.mark.parametrize(
    "loss", [BCE(), BCE(0.1, "chain", 2.0), QValueRanking()], ids=["bce", "weighted", "ranking"]
)
def test_the_update_does_not_depend_on_the_token_budget(model: RewardModel, loss: StepLoss) -> None:
    whole, expected = loss_and_gradient(model, loss, LABELED, 10_000)
    for max_tokens in (64, 100):
        value, gradients = loss_and_gradient(model, loss, LABELED, max_tokens)
        assert value == pytest.approx(whole, rel=1e-5)
        for actual, wanted in zip(gradients, expected, strict=True):
            torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-5)


def test_what_is_unlabeled_never_reaches_the_gradient(model: RewardModel) -> None:
    """A chain cut after its first error trains as the chain whose later steps have no label."""
    chain = CHAINS[4]
    labels: list[float | None] = [1, 0, None, None]
    unlabeled = Chain(chain.prompt, chain.completions, labels)
    cut = Chain(chain.prompt, chain.completions[:2], labels[:2])
    for loss in (BCE(), QValueRanking()):
        value, gradients = loss_and_gradient(model, loss, [unlabeled], 1000)
        expected, wanted = loss_and_gradient(model, loss, [cut], 1000)
        assert value == pytest.approx(expected, rel=1e-5)
        for a, b in zip(gradients, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", [BCE(), QValueRanking()], ids=["bce", "ranking"])
def test_a_filler_gives_zero_and_a_gradient_to_every_rank(
    model: RewardModel, loss: StepLoss
) -> None:
    """Ranks exchange gradients after every pass, so a filler needs one, and it must be 0."""
    batch = micro_batch(MicroBatchPlan((0,), filler=True), read(model, LABELED), LABELER)
    labels = batch.labels.steps
    targets = StepTargets(labels.labels[:, 0], labels.chain)
    value = loss.sum(model(batch.trees).columns, targets)
    value.backward()
    assert value.item() == 0.0
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)
    model.zero_grad()


def test_a_soft_label_is_not_a_hard_one(model: RewardModel) -> None:
    soft, hard = (
        loss_and_gradient(model, BCE(), [Chain("1 + 1", ["2"], [label])], 1000)[0]
        for label in (0.6, 1.0)
    )
    cut = loss_and_gradient(model, BCE(), [Chain("1 + 1", ["2"], [0.0])], 1000)[0]
    assert soft == pytest.approx(0.6 * hard + 0.4 * cut, rel=1e-5)


def test_marker_text_in_the_prompt_shifts_no_score(model: RewardModel) -> None:
    """One score per step, however often the texts spell the marker."""
    chain = Chain(f"{STEP_MARKER} 1 {STEP_MARKER}", [f"a {STEP_MARKER} b", "c"])
    score = RewardScorer(model).score(chain)[0]
    assert len(score.step_logits["correctness"]) == 2
    assert None not in score.step_logits["correctness"]


@given(st.lists(st.sampled_from(["", " ", "\n", "1", "2 \n", "\n\n3"]), min_size=1, max_size=5))
@settings(max_examples=15)
def test_one_score_per_non_empty_step(texts: list[str]) -> None:
    if not any(text.strip() for text in texts):
        return
    score = RewardScorer(_MODEL).score(("1 + 1", texts))[0]
    logits = score.step_logits["correctness"]
    assert [logit is not None for logit in logits] == [bool(text.strip()) for text in texts]


_MODEL = tiny_model()


def test_the_read_token_is_the_marker_of_its_step(model: RewardModel) -> None:
    assert model.spec.tokenizer is not None
    for item in read(model, LABELED):
        branch = item.tokens.tree.segments[1]
        markers = [i for i, t in enumerate(branch.input_ids) if t == model.spec.tokenizer.marker_id]
        assert list(branch.reads) == markers


@pytest.mark.parametrize(
    "changes",
    [
        {"template": Template(prefix="Problem: ")},
        {"template": Template(suffix="\n\n")},
        {"template": Template(bos="one")},
        {"step_heads": (StepHead(readout="softmax"),)},
    ],
)
def test_every_field_of_the_spec_changes_the_score(changes: dict[str, Any]) -> None:
    plain = columns_packed(tiny_model(), CHAINS[:1])[0]
    changed = columns_packed(
        tiny_model(spec=RewardSpec(max_length=256).with_(**changes)), CHAINS[:1]
    )
    assert changed[0].shape != plain.shape or not torch.allclose(changed[0], plain, atol=1e-4)


def test_a_probability_of_zero_is_a_score(model: RewardModel) -> None:
    """Steps are selected by position, never by value."""
    scorer = RewardScorer(tiny_model())
    with torch.no_grad():
        scorer.model.heads.layers.weight.zero_()
        scorer.model.heads.layers.bias.fill_(-1e4)
    score = scorer.score(("1 + 1", ["a", "b"]))[0]
    assert score.probabilities == (0.0, 0.0)
    assert score.reward == 0.0
    assert score.step_logits["correctness"] == (-1e4, -1e4)
    assert score.first_error() == 0


def test_scores_of_a_half_precision_model_stay_close() -> None:
    exact = torch.cat(columns_packed(tiny_model(), CHAINS))
    half = torch.cat(columns_packed(tiny_model().to(torch.bfloat16), CHAINS))
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact, rtol=0.1, atol=0.1)
    differ = (exact - exact.mT).abs() > 1e-3
    assert (half - half.mT)[differ].all()


def test_two_columns_are_read_as_the_second_over_the_first() -> None:
    model = tiny_model(spec=RewardSpec(step_heads=(StepHead(readout="softmax"),), max_length=256))
    columns = columns_packed(model, CHAINS[:1])[0]
    score = RewardScorer(model).score(CHAINS[0])[0]
    assert score.probabilities == pytest.approx(columns.softmax(-1)[:, 1].tolist(), abs=1e-5)
    log_p = columns.log_softmax(-1)
    labels = StepTargets(torch.tensor([1.0, 0.0, math.nan]), torch.zeros(3).long())
    expected = -(log_p[0, 1] + log_p[1, 0]).item()
    assert CrossEntropy().sum(columns, labels).item() == pytest.approx(expected, rel=1e-5)
