"""Gates: two kinds of prompts that need different weights, and the same number on every surface."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from prm.aggregation.normalize import ZScore
from prm.aggregation.objectives import Gated, WeightedSum
from prm.cli.main import main
from prm.data.sources.writers import write_records
from prm.data.splits import split_by_group
from prm.errors import ConfigError, DataError, ModelError
from prm.models import checkpoint
from prm.models.gate import Gate
from prm.models.reward_model import RewardModel
from prm.records import Comparison, Rating
from prm.scores.stored import read_scores
from prm.scoring.batch import score_file, survey
from prm.scoring.scorer import RewardScorer
from prm.spec import ResponseHead
from prm.training.gate.pairs import read_pairs
from prm.training.gate.train import CHOOSING, MEASURED, GateOptions, GateReport, train_gate
from tests.outcome_models import RESPONSES, outcome_model
from tests.tolerance import near

NAMES = ("style", "facts")
OBJECTIVES = (ResponseHead("style"), ResponseHead("facts"))
OPTIONS = GateOptions(lr=0.01, width=16, max_epochs=150, patience=30)
KINDS = ("Poem about 7 - 5 + 1", "Is it true that 2 + 3 * 4")


def fresh_model(**changes: Any) -> RewardModel:
    fields = {"response_heads": OBJECTIVES, "objective_aggregation": WeightedSum()}
    return outcome_model("qwen2", **(fields | changes))


def comparisons(model: RewardModel, count: int = 120) -> list[Comparison]:
    """Prompts of one kind want style, those of the other facts, as the model's own heads see it."""
    made = []
    generator = random.Random(0)
    scorer = RewardScorer(model)
    for index in range(count):
        kind = index % 2
        prompt = f"{KINDS[kind]} {index}?"
        texts = ["".join(generator.choices("0123456789 =+-", k=8)) for _ in range(2)]
        scores = [score.utilities for score in scorer.score([(prompt, text) for text in texts])]
        first = scores[0][NAMES[kind]] > scores[1][NAMES[kind]]
        made.append(Comparison(prompt, texts, [0, 1] if first else [1, 0], objective="overall"))
    return made


@pytest.fixture(scope="module")
def learned() -> tuple[RewardModel, GateReport, list[Comparison]]:
    model = fresh_model(normalizers={name: ZScore(0.0, 1.0) for name in NAMES})
    data = comparisons(model)
    return model, train_gate(model, data, OPTIONS), data


Learned = tuple[RewardModel, GateReport, list[Comparison]]


def accuracy_of_fixed_weights(model: RewardModel, data: list[Comparison]) -> float:
    """Return the best accuracy that any fixed weights, negative ones too, reach on the data."""
    pairs = read_pairs(model, data, 16384, lambda _: None)
    differences = pairs.differences(Gated(), NAMES)
    angles = torch.linspace(0, 2 * torch.pi, 721)
    weights = torch.stack([angles.cos(), angles.sin()])
    return (differences @ weights > 0).float().mean(dim=0).max().item()


def test_gates_beat_all_fixed_weights(learned: Learned) -> None:
    model, report, data = learned
    assert report.accuracy_gated > report.accuracy_equal
    assert report.accuracy_gated > 0.9
    rewards = [[score.reward for score in scores] for scores in _scores(model, data)]
    won = [
        row[c.ranks.index(0)] > row[c.ranks.index(1)] for row, c in zip(rewards, data, strict=True)
    ]
    assert sum(won) / len(won) > accuracy_of_fixed_weights(model, data) + 0.1


def _scores(model: RewardModel, data: list[Comparison]) -> Iterator[list[Any]]:
    scorer = RewardScorer(model)
    for comparison in data:
        yield scorer.score([Rating(comparison.prompt, text) for text in comparison.responses])


def test_the_prompt_decides_and_the_response_does_not(learned: Learned) -> None:
    model, _, data = learned
    for index, scores in enumerate(itertools.islice(_scores(model, data), 20)):
        assert scores[0].gates == near(scores[1].gates)
        other = NAMES[1 - index % 2]
        assert scores[0].gates[NAMES[index % 2]] > scores[0].gates[other]


def test_weights_sum_to_one_for_each_sample() -> None:
    """The softmax is over objectives: not over a batch, not over the responses of a pair."""
    gate = Gate(8, 5)
    torch.nn.init.normal_(gate.layers[-1].weight)
    states = torch.randn(2, 3, 8)
    gates = gate(states)
    assert gates.shape == (2, 3, 5)
    torch.testing.assert_close(gates.sum(dim=-1), torch.ones(2, 3))
    torch.testing.assert_close(gates[1, 2], gate(states[1, 2]))


def test_the_gate_stays_float32() -> None:
    gate = Gate(8, 2).to(torch.bfloat16)
    assert {tensor.dtype for tensor in gate.state_dict().values()} == {torch.float32}
    assert gate(torch.randn(8, dtype=torch.bfloat16)).dtype == torch.float32


def test_a_high_temperature_brings_weights_close_to_equal() -> None:
    cold, hot = Gate(8, 3, temperature=0.1), Gate(8, 3, temperature=100.0)
    for gate in (cold, hot):
        torch.manual_seed(0)
        torch.nn.init.normal_(gate.layers[-1].weight)
    states = torch.randn(10, 8)
    assert (hot(states) - 1 / 3).abs().max() < (cold(states) - 1 / 3).abs().max()


def test_changing_the_gate_changes_the_score(learned: Learned) -> None:
    model, _, _ = learned
    before = RewardScorer(model).score(RESPONSES)
    assert model.gate is not None
    bias = model.gate.layers[-1].bias
    with torch.no_grad():
        bias[0] += 5.0
    after = RewardScorer(model).score(RESPONSES)
    with torch.no_grad():
        bias[0] -= 5.0
    for old, new in zip(before, after, strict=True):
        assert new.scores == old.scores
        assert new.reward != old.reward
        assert new.reward == pytest.approx(
            sum(new.gates[name] * new.utilities[name] for name in NAMES), abs=1e-6
        )


def test_one_number_alone_batched_packed_and_reloaded(learned: Learned, tmp_path: Path) -> None:
    model, _, _ = learned
    loaded = checkpoint.load(checkpoint.save(model, tmp_path / "model"))
    assert loaded.spec.objective_aggregation == Gated()
    together = [score.reward for score in RewardScorer(model).score(RESPONSES)]
    for other in (
        [RewardScorer(model).score(rating)[0].reward for rating in RESPONSES],
        [score.reward for score in RewardScorer(model, max_tokens=1).score(RESPONSES)],
        [score.reward for score in RewardScorer(loaded).score(RESPONSES)],
    ):
        assert other == near(together)


@pytest.mark.parametrize("name", ["scores.jsonl", "scores.parquet"])
def test_stored_gates_give_the_reward_again(learned: Learned, tmp_path: Path, name: str) -> None:
    model, _, _ = learned
    score_file(RewardScorer(model), survey(RESPONSES), tmp_path / name)
    table = read_scores(tmp_path / name)
    assert table.gates is not None
    assert table.with_aggregation(Gated()).rewards() == pytest.approx(
        table.stored_rewards, abs=1e-9
    )
    equal = table.with_aggregation(WeightedSum()).rewards()
    assert equal == pytest.approx(table.utilities().mean(axis=1), abs=1e-9)


def test_length_is_taken_out_first() -> None:
    objectives = (*OBJECTIVES, ResponseHead("length"))
    model = fresh_model(response_heads=objectives)
    heads = model.heads.layers.weight
    with torch.no_grad():
        heads[0] = heads[2] + 0.3 * heads[0]
    report = train_gate(
        model, comparisons(model, 60), GateOptions(against="length", max_epochs=2, width=4)
    )
    assert report.penalties["style"] > 0.2
    aggregation = model.spec.objective_aggregation
    assert isinstance(aggregation, Gated)
    assert aggregation.penalties == report.penalties


def test_training_touches_neither_backbone_nor_heads() -> None:
    model = fresh_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train_gate(model, comparisons(model, 30), GateOptions(max_epochs=2))
    after = model.state_dict()
    assert all(after[name].equal(value) for name, value in before.items())
    assert {name.partition(".")[0] for name in after.keys() - before.keys()} == {"gate"}


def test_the_report_is_about_pairs_that_chose_nothing() -> None:
    """Turned around, the labels of the measured prompts change their accuracy and no weight."""
    model = fresh_model()
    data = comparisons(model, 60)
    first = train_gate(model, data, GateOptions(max_epochs=5))
    assert model.gate is not None
    weights = model.gate.state_dict()
    measured = split_by_group(data, {CHOOSING: 0.1, MEASURED: 0.1}, 0)[MEASURED]
    groups = {comparison.group for comparison in measured}
    turned = [
        replace(c, ranks=[1 - rank for rank in c.ranks]) if c.group in groups else c for c in data
    ]
    second = train_gate(model, turned, GateOptions(max_epochs=5))
    assert model.gate is not None
    assert all(weights[name].equal(value) for name, value in model.gate.state_dict().items())
    assert first.num_held_out == len(measured)
    assert second.accuracy_gated == pytest.approx(1 - first.accuracy_gated)


def test_the_same_seed_gives_the_same_gate() -> None:
    model = fresh_model()
    data = comparisons(model, 30)
    states = []
    for _ in range(2):
        train_gate(model, data, GateOptions(max_epochs=3))
        assert model.gate is not None
        states.append(model.gate.state_dict())
    assert all(states[0][name].equal(value) for name, value in states[1].items())


# Refusals


def test_an_encoder_is_refused() -> None:
    model = outcome_model("bert", "pooler", response_heads=OBJECTIVES)
    data = [Comparison(f"{n} + 1 = ?", ["a", "b"], objective="overall") for n in range(8)]
    with pytest.raises(ModelError, match="encoder has no state of a prompt"):
        train_gate(model, data)


def test_what_cannot_be_learned_from_is_refused() -> None:
    model = fresh_model()
    with pytest.raises(DataError, match=r"expected comparisons of objective 'overall'.*'style'"):
        train_gate(model, [Comparison("a?", ["b", "c"], objective="style")])
    with pytest.raises(ConfigError, match="several objectives"):
        train_gate(fresh_model(response_heads=OBJECTIVES[:1]), [])
    with pytest.raises(ConfigError, match="held_out"):
        GateOptions(held_out=1.0)


def test_gated_rewards_need_a_gate(learned: Learned, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a model with a gate"):
        RewardScorer(fresh_model(), objective_aggregation=Gated())
    folder = checkpoint.save(learned[0], tmp_path / "model")
    file = folder / checkpoint.GATE_FILE
    tensors = load_file(file)
    save_file(
        tensors | {"layers.2.bias": tensors["layers.2.bias"] + torch.tensor([3.0, 0.0])}, file
    )
    with pytest.raises(ModelError, match="does not score"):
        checkpoint.load(folder)
    save_file({"a": torch.zeros(1)}, file)
    with pytest.raises(ModelError, match="not a gate"):
        checkpoint.load(folder)
    file.unlink()
    with pytest.raises(ModelError, match="needs a gate"):
        checkpoint.load(folder)


def test_the_command_learns_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = fresh_model()
    checkpoint.save(model, tmp_path / "model")
    write_records(comparisons(model, 80), tmp_path / "pairs.jsonl", overwrite=False)
    words = ["gate", "--model", tmp_path / "model", "--input", tmp_path / "pairs.jsonl"]
    words += ["--output", tmp_path / "gated", "--lr", "0.01"]
    assert main([str(word) for word in words]) == 0
    printed = capsys.readouterr().out
    assert "held-out prompts" in printed
    assert "style" in printed
    score = RewardScorer.from_pretrained(tmp_path / "gated").score(("Is it?", "2"))[0]
    assert score.aggregation == "gated"
    assert sum(score.gates.values()) == pytest.approx(1.0)
    assert main([str(word) for word in words]) == 2
