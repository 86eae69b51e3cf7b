"""The scorer: typed results, alignment with the steps, and nothing turned into 0."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import CHAINS, TWO_OBJECTIVES, columns_alone, tiny_model

from prm.aggregation.steps import STEP_AGGREGATIONS, Last, SoftMin
from prm.errors import ConfigError, DataError, ModelError, SpecError
from prm.models import checkpoint
from prm.models.gate import Gate
from prm.models.heads import HeadKind, Heads
from prm.records import Chain
from prm.scores.chains import ChainScore, aggregate
from prm.scoring.scorer import RewardScorer
from prm.spec import RewardSpec, Template
from prm.trees.packing import plan_packs
from prm.trees.tree import Segment, TokenTree

SPEC = RewardSpec(step_heads=TWO_OBJECTIVES, chain_reward="correctness", max_length=256)


@pytest.fixture(scope="module")
def scorer() -> RewardScorer:
    return RewardScorer(tiny_model(spec=SPEC))


def scorer_of(**fields: Any) -> RewardScorer:
    return RewardScorer(tiny_model(spec=SPEC.with_(**fields)))


def close(one: list[ChainScore], other: list[ChainScore]) -> None:
    for a, b in zip(one, other, strict=True):
        for name, logits in a.step_logits.items():
            assert logits == pytest.approx(b.step_logits[name], abs=1e-5)
        assert a.reward == pytest.approx(b.reward, abs=1e-5)


# Results


def test_scores_are_the_head_columns_read_through_the_spec(scorer: RewardScorer) -> None:
    for chain, score in zip(CHAINS, scorer.score(CHAINS), strict=True):
        columns = columns_alone(scorer.model, chain)
        assert score.step_logits["correctness"] == pytest.approx(columns[:, 0].tolist(), abs=1e-5)
        redundancy = (columns[:, 2] - columns[:, 1]).tolist()
        assert score.step_logits["redundancy"] == pytest.approx(redundancy, abs=1e-5)
        lowest = columns[:, 0].sigmoid().min().item()
        assert score.reward == score.scores["correctness"] == pytest.approx(lowest, abs=1e-5)
        assert score.aggregation == "min"
        assert (score.num_truncated, score.reason) == (0, "")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_torchs_default_type_changes_no_score(
    dtype: torch.dtype, head: HeadKind, tmp_path: Path
) -> None:
    folder = checkpoint.save(tiny_model(spec=SPEC, head=head), tmp_path / "model")
    expected = RewardScorer.from_pretrained(folder, device="cpu").score(CHAINS)
    torch.set_default_dtype(dtype)
    try:
        found = RewardScorer.from_pretrained(folder, device="cpu").score(CHAINS)
        new = Heads(8, 2, head), Gate(8, 2)
    finally:
        torch.set_default_dtype(torch.float32)
    close(found, expected)
    for module in new:
        assert {value.dtype for value in module.state_dict().values()} == {torch.float32}


def test_probabilities_are_the_sigmoid_of_the_logits(scorer: RewardScorer) -> None:
    score = scorer.score(CHAINS[0])[0]
    expected = [1 / (1 + math.exp(-(logit or 0.0))) for logit in score.step_logits["correctness"]]
    assert score.probabilities == pytest.approx(expected)
    assert score.step_probabilities["correctness"] == score.probabilities


def test_scores_come_in_order_with_their_ids(scorer: RewardScorer) -> None:
    chains = [Chain(c.prompt, c.completions, id=f"r{i}") for i, c in enumerate(CHAINS)]
    assert [score.id for score in scorer.score(chains)] == ["r0", "r1", "r2", "r3", "r4"]
    close(scorer.score(chains[::-1]), scorer.score(chains)[::-1])


def test_a_row_is_json(scorer: RewardScorer) -> None:
    score = scorer.score(Chain("1 + 1", ["2", "", "so 2"], id="r1"))[0]
    row = json.loads(json.dumps(score.to_row(), allow_nan=False))
    assert row["id"] == "r1"
    assert row["reward"] == score.reward
    assert row["step_probabilities"]["correctness"][1] is None
    assert row["first_error"] == score.first_error()


# Alignment


def test_empty_steps_are_none_and_change_nothing(scorer: RewardScorer) -> None:
    with_gaps, plain = scorer.score(
        [Chain("1 + 1", ["", "a", " \n", "b", ""]), Chain("1 + 1", ["a", "b"])]
    )
    logits = with_gaps.step_logits["correctness"]
    assert [logit is None for logit in logits] == [True, False, True, False, True]
    assert (logits[1], logits[3]) == pytest.approx(plain.step_logits["correctness"], abs=1e-5)
    assert with_gaps.reward == pytest.approx(plain.reward, abs=1e-5)
    assert (with_gaps.num_truncated, with_gaps.reason) == (0, "")


def test_truncated_steps_are_none_and_counted() -> None:
    chain = Chain("1 + 1", ["12", "34", "56"])
    whole = scorer_of().score(chain)[0]
    cut = scorer_of(max_length=13).score(chain)[0]
    assert cut.num_truncated == 1
    logits = cut.step_logits["correctness"]
    assert logits[:2] == pytest.approx(whole.step_logits["correctness"][:2], abs=1e-5)
    assert logits[2] is None
    assert cut.reason == ""


@pytest.mark.parametrize("name", sorted(STEP_AGGREGATIONS))
def test_a_dropped_chain_has_a_reason_and_no_reward(name: str) -> None:
    scorer = RewardScorer(tiny_model(spec=SPEC.with_(max_length=20)), step_aggregation=name)
    long, short = Chain("9" * 40, ["1", "2"], id="long"), Chain("1", ["2"], id="short")
    dropped, scored = scorer.score([long, short])
    assert dropped.reward is None
    assert dropped.scores == {"correctness": None, "redundancy": None}
    assert dropped.step_logits["correctness"] == (None, None)
    assert "row 'long': prompt leaves no room for what follows it" in dropped.reason
    assert dropped.first_error() is None
    assert dropped.to_row()["reward"] is None
    assert scored.reward is not None
    assert scored.reason == ""


def test_the_error_policy_stops() -> None:
    with pytest.raises(DataError, match="row 'long': chain is too long"):
        scorer_of(max_length=20, on_too_long="error").score(Chain("1", ["9" * 40], id="long"))


def score_with(logits: list[float | None], num_truncated: int = 0, reason: str = "") -> ChainScore:
    return ChainScore(
        "", {"correctness": tuple(logits)}, {}, None, "correctness", "min", num_truncated, reason
    )


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (score_with([2.0, -1.0, -3.0]), 1),
        (score_with([2.0, None, -3.0]), 2),
        (score_with([2.0, 0.0]), -1),
        (score_with([2.0, None], num_truncated=1), None),
        (score_with([-2.0, None], num_truncated=1), 0),
        (score_with([None], reason="too long"), None),
    ],
)
def test_first_error(score: ChainScore, expected: int | None) -> None:
    assert score.first_error() == expected


def test_first_error_by_threshold() -> None:
    assert score_with([2.0, 1.0]).first_error(0.8) == 1


# Options


def test_the_aggregation_can_be_replaced(scorer: RewardScorer) -> None:
    chain = CHAINS[-1]
    probabilities = scorer.score(chain)[0].probabilities
    for aggregation, name in [("last", "last"), (Last(), "last"), (SoftMin(2.0), "softmin")]:
        score = RewardScorer(scorer.model, step_aggregation=aggregation).score(chain)[0]
        assert score.aggregation == name
        assert score.probabilities == pytest.approx(probabilities)
        if name == "last":
            assert score.reward == pytest.approx(probabilities[-1])


def test_the_aggregation_of_the_spec_is_used() -> None:
    score = scorer_of(step_aggregation=Last()).score(CHAINS[-1])[0]
    assert score.aggregation == "last"
    assert score.reward == pytest.approx(score.probabilities[-1])


def test_an_unknown_aggregation_is_an_error(scorer: RewardScorer) -> None:
    with pytest.raises(ConfigError, match="unknown step aggregation"):
        RewardScorer(scorer.model, step_aggregation="median")


@pytest.mark.parametrize("max_tokens", [1, 30, 64, 100_000])
def test_max_tokens_sets_the_memory_and_not_the_result(
    scorer: RewardScorer, max_tokens: int
) -> None:
    small = RewardScorer(scorer.model, max_tokens=max_tokens)
    close(small.score(CHAINS), scorer.score(CHAINS))


def test_blocks_do_not_show(scorer: RewardScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = scorer.score(CHAINS)
    monkeypatch.setattr("prm.scoring.scorer.BLOCK", 2)
    close(list(scorer.stream(iter(CHAINS))), expected)


def test_a_stream_is_lazy(scorer: RewardScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prm.scoring.scorer.BLOCK", 2)
    taken: list[Chain] = []
    stream = scorer.stream(taken.append(chain) or chain for chain in CHAINS)
    next(stream)
    assert len(taken) == 2


# Inputs


def test_chains_rows_and_pairs_score_the_same(scorer: RewardScorer) -> None:
    chain = CHAINS[0]
    row = {"prompt": chain.prompt, "completions": list(chain.completions), "id": 7, "labels": None}
    pair = (str(chain.prompt), list(chain.completions))
    close(scorer.score([row, pair, chain]), scorer.score([chain] * 3))
    for one in (row, pair, chain):
        close(scorer.score(one), scorer.score([chain]))
    assert scorer.score(row)[0].id == "7"


def test_conversations_are_accepted(scorer: RewardScorer) -> None:
    text = scorer.score(("1 + 1", ["2"]))
    close(scorer.score([([{"role": "user", "content": "1 + 1"}], ["2"])]), text)


def test_nothing_to_score(scorer: RewardScorer) -> None:
    assert scorer.score([]) == []


@pytest.mark.parametrize(
    "wrong",
    [
        5,
        None,
        "text",
        ["text"],
        [5],
        [None],
        [("a", "b", "c")],
        {"prompt": "a"},
        {"prompt": "a", "completions": None},
        ("a", []),
        [("a", ["", " "])],
        ["a", ["b"]],
    ],
)
def test_what_is_no_chain_is_a_data_error(scorer: RewardScorer, wrong: Any) -> None:
    with pytest.raises(DataError):
        scorer.score(wrong)


def test_a_process_model_does_not_score_whole_responses(scorer: RewardScorer) -> None:
    with pytest.raises(ModelError, match="does not score whole responses"):
        scorer.score(("a", "b"))


def test_a_prompt_without_a_token_has_a_reason() -> None:
    score = scorer_of(template=Template(suffix="")).score(("", ["a"]))[0]
    assert score.reward is None
    assert "prompt render to no token" in score.reason


def test_a_score_that_is_not_finite_is_no_score(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = scorer_of()
    monkeypatch.setattr(
        scorer.model.heads,
        "forward",
        lambda states: torch.full((len(states), SPEC.num_columns), torch.nan),
    )
    score = scorer.score(("p", ["a", "b"]))[0]
    assert score.reward is None
    assert score.probabilities == (None, None)
    assert score.first_error() is None
    assert "no finite number for 2 steps" in score.reason


# Loading


def test_from_pretrained_scores_as_the_model_did(scorer: RewardScorer, tmp_path: Path) -> None:
    folder = checkpoint.save(scorer.model, tmp_path / "model")
    loaded = RewardScorer.from_pretrained(folder, device="cpu", step_aggregation="mean")
    assert loaded.spec.step_heads == SPEC.step_heads
    expected = RewardScorer(scorer.model, step_aggregation="mean").score(CHAINS)
    close(loaded.score(CHAINS), expected)


def test_from_pretrained_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no prm_config\.json"):
        RewardScorer.from_pretrained(tmp_path)


# Pieces


@pytest.mark.parametrize("name", sorted(STEP_AGGREGATIONS))
def test_aggregate_leaves_missing_steps_out(name: str) -> None:
    aggregation = STEP_AGGREGATIONS[name]()
    assert aggregate(aggregation, [None, 0.5, None, -1.0]) == pytest.approx(
        aggregation(torch.tensor([0.5, -1.0], dtype=torch.float64)).item()
    )
    assert aggregate(aggregation, [None, None]) is None
    assert aggregate(aggregation, []) is None


chain_shapes = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 20)), max_size=12)


@given(chain_shapes, st.integers(5, 60))
def test_packs_hold_each_chain_once_within_the_budget(
    shapes: list[tuple[int, int]], max_tokens: int
) -> None:
    trees: list[TokenTree | None] = []
    for prompt, length in shapes:
        root = Segment((prompt,) * (3 + prompt))
        trees += [TokenTree((root, Segment((9,) * length, 0, (length - 1,)))), None]
    packs = plan_packs(trees, max_tokens)
    assert sorted(index for pack in packs for index in pack) == list(range(0, len(trees), 2))
    for pack in packs:
        chosen = [tree for index in pack if (tree := trees[index]) is not None]
        roots = {tree.segments[0].input_ids for tree in chosen}
        branches = sum(len(tree.segments[1].input_ids) for tree in chosen)
        assert len(pack) == 1 or sum(map(len, roots)) + branches <= max_tokens
