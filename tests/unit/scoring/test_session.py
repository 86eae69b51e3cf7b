"""Sessions: the scorer's results, new tokens only, bounded memory, other weights noticed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import CHAINS, TREE_FAMILIES, TWO_OBJECTIVES, tiny_model, tiny_tokenizer

from prm.aggregation.gates import Gated
from prm.errors import ConfigError, DataError
from prm.models.cached_attention import CachedLayout
from prm.models.gate import Gate
from prm.records import Chain
from prm.scores.chains import ChainScore
from prm.scores.responses import ResponseScore
from prm.scoring.scorer import RewardScorer
from prm.scoring.session import ScoringSession
from prm.scoring.stages import tokenize
from prm.spec import RewardSpec
from prm.trees.prompts import EncodingMemo, encode
from tests.outcome_models import RESPONSES, outcome_model, save_joint_model
from tests.tolerance import BFLOAT16, FLOAT32, near

SPEC = RewardSpec(step_heads=TWO_OBJECTIVES, chain_reward="correctness", max_length=256)

PROMPT = "What is 2 + 3 * 4?"
STEPS = ("3 * 4 = 12", "2 + 12 = 14", "so 14", "The answer is 14.")


@pytest.fixture(scope="module")
def scorer() -> RewardScorer:
    return RewardScorer(tiny_model(spec=SPEC))


@pytest.fixture
def session(scorer: RewardScorer) -> ScoringSession:
    return ScoringSession(scorer)


def assert_same(ours: Sequence[Any], theirs: Sequence[Any], tolerance: float = FLOAT32) -> None:
    """Compare all fields of scores, numbers up to a tolerance."""
    for one, other in zip(ours, theirs, strict=True):
        left, right = one.to_row(), other.to_row()
        for name, value in right.items():
            assert _close(left[name], value, tolerance), (name, left[name], value)


def _close(one: Any, other: Any, tolerance: float) -> bool:
    if isinstance(other, dict):
        return one.keys() == other.keys() and _close([*one.values()], [*other.values()], tolerance)
    if isinstance(other, list):
        pairs = zip(one, other, strict=True)
        return all(_close(a, b, tolerance) for a, b in pairs)
    return bool(one == (near(other, tolerance) if isinstance(other, float) else other))


def num_tokens(scorer: RewardScorer, *steps: str) -> int:
    return scorer.model.builder.build(Chain(PROMPT, steps)).tree.num_tokens


# The same results


@pytest.mark.parametrize("family", TREE_FAMILIES)
def test_a_growing_chain_scores_as_a_whole_one(family: str) -> None:
    scorer = RewardScorer(tiny_model(family, SPEC))
    session = ScoringSession(scorer)
    for size in range(1, len(STEPS) + 1):
        assert_same(session.score((PROMPT, STEPS[:size])), scorer.score((PROMPT, STEPS[:size])))
    assert session.stats.computed == num_tokens(scorer, *STEPS)


def test_a_session_is_a_scorer(session: ScoringSession, scorer: RewardScorer) -> None:
    for _ in range(2):
        assert_same(session.score(CHAINS), scorer.score(CHAINS))
        assert_same(list(session.stream(iter(CHAINS))), scorer.score(CHAINS))
    assert session.score([]) == []
    with pytest.raises(DataError):
        session.score("text")


def test_what_is_left_out_has_the_same_reasons() -> None:
    scorer = RewardScorer(tiny_model(spec=SPEC.with_(max_length=40)))
    session = ScoringSession(scorer)
    chains = [
        Chain("9" * 60, ["1"], id="long"),
        Chain("1 + 1", ["2", "", "so 2"], id="gap"),
        Chain("1 + 1", ["2", "so 2", "1 2 3 4 5 6 7 8 9 10 11 12 13", "2"], id="cut"),
    ]
    for _ in range(2):
        assert_same(session.score(chains), scorer.score(chains))
    assert [bool(score.reason) for score in session.score(chains)] == [True, False, False]
    assert session.score(chains)[2].num_truncated > 0


def test_aggregations_are_those_of_the_scorer(scorer: RewardScorer) -> None:
    other = RewardScorer(scorer.model, step_aggregation="mean")
    assert_same(ScoringSession(other).score(CHAINS), other.score(CHAINS))


@pytest.mark.parametrize("kernel", ["segments", "dense"])
def test_every_kernel(kernel: Any) -> None:
    scorer = RewardScorer(tiny_model("qwen2", SPEC, kernel=kernel))
    session = ScoringSession(scorer)
    for size in (1, 3, 2, 4):
        chains = [(chain.prompt, chain.completions[:size]) for chain in CHAINS]
        assert_same(session.score(chains), scorer.score(chains))


def test_long_runs_are_attended_to_in_blocks(scorer: RewardScorer) -> None:
    session = ScoringSession(scorer)
    session._backbone.block = 3
    for size in range(1, len(STEPS) + 1):
        assert_same(session.score((PROMPT, STEPS[:size])), scorer.score((PROMPT, STEPS[:size])))


def test_bfloat16() -> None:
    scorer = RewardScorer(tiny_model(spec=SPEC).to(torch.bfloat16))
    session = ScoringSession(scorer)
    for size in range(1, len(STEPS) + 1):
        ours, full = (s.score((PROMPT, STEPS[:size])) for s in (session, scorer))
        assert_same(ours, full, BFLOAT16)


def test_responses_branches_and_repeats() -> None:
    scorer = RewardScorer(outcome_model())
    session = ScoringSession(scorer)
    for chosen in (RESPONSES[:1], RESPONSES, RESPONSES[::-1], RESPONSES[2:]):
        scores: list[ResponseScore] = session.score(chosen)
        assert_same(scores, scorer.score(chosen))
    items = tokenize(scorer.builder, RESPONSES, scorer.max_tokens)
    trees = [item.tree for item in items]
    assert session.stats.computed <= sum(tree.num_tokens for tree in trees)


def test_gates_read_the_prompt() -> None:
    model = outcome_model()
    model.gate = Gate(32, 2)
    torch.nn.init.normal_(model.gate.layers[2].weight)
    scorer = RewardScorer(model, objective_aggregation=Gated())
    session = ScoringSession(scorer)
    for chosen in (RESPONSES[:1], RESPONSES, RESPONSES[3:]):
        assert_same(session.score(chosen), scorer.score(chosen))
    gates = [score.gates["helpfulness"] for score in session.score(RESPONSES)]
    assert gates[:2] == near([gates[4]] * 2)
    one, other, last = gates[0], gates[2], gates[3]
    assert min(abs(one - other), abs(other - last), abs(last - one)) > 0.01


def test_chains_and_responses_of_a_joint_model(tmp_path: Path) -> None:
    scorer = RewardScorer.from_pretrained(save_joint_model(tmp_path / "model"), device="cpu")
    session = ScoringSession(scorer)
    for _ in range(2):
        records = [*CHAINS, *RESPONSES]
        assert_same(session.score(records), scorer.score(records))


@pytest.mark.parametrize(("family", "fields"), [("gemma2", {"head_dim": 8}), ("mamba", {})])
def test_decoders_that_run_unrolled_are_run_in_full(
    family: str, fields: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    scorer = RewardScorer(tiny_model(family, SPEC, **fields))
    session = ScoringSession(scorer)
    with caplog.at_level(logging.WARNING, "prm.scoring.session"):
        for _ in range(2):
            assert_same(session.score(CHAINS), scorer.score(CHAINS))
    messages = [r.getMessage() for r in caplog.records if r.name == "prm.scoring.session"]
    assert len(messages) == 1
    assert "computes everything every time" in messages[0]
    assert session.stats.cached == 0


def test_layers_whose_keys_differ_are_run_in_full(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scorer = RewardScorer(tiny_model(spec=SPEC))
    session = ScoringSession(scorer)
    attend = CachedLayout.attend

    def other_shapes(layout: CachedLayout, query: Any, key: Any, value: Any, scale: float) -> Any:
        width = 1 + len(layout.new) % 2
        return attend(layout, query, key[:, :width], value[:, :width], scale)

    monkeypatch.setattr(CachedLayout, "attend", other_shapes)
    assert_same(session.score(CHAINS), scorer.score(CHAINS))
    assert "layers have keys of different shapes" in caplog.text


def test_encoders_are_run_in_full() -> None:
    scorer = RewardScorer(outcome_model("bert", read_at="mean"))
    assert_same(ScoringSession(scorer).score(RESPONSES), scorer.score(RESPONSES))


# New tokens only


def test_a_step_costs_its_tokens(session: ScoringSession) -> None:
    before = 0
    for size in range(1, len(STEPS) + 1):
        session.score((PROMPT, STEPS[:size]))
        total = num_tokens(session, *STEPS[:size])
        assert session.stats.computed == total
        assert total > before
        before = total


def test_many_growing_chains_are_one_pass(
    session: ScoringSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = session.model.backbone
    backbone.check(session.model.device)
    sizes: list[int] = []
    run = backbone.layout_states
    monkeypatch.setattr(
        backbone, "layout_states", lambda ids, *rest: sizes.append(len(ids)) or run(ids, *rest)
    )
    stems = [(PROMPT, [f"{n} + 1", STEPS[0]]) for n in range(8)]
    session.score(stems)
    session.score([(prompt, [*steps, f"so {n}"]) for prompt, steps in stems for n in (1, 2)])
    assert len(sizes) == 2
    assert sum(sizes) == session.stats.computed
    session.score(stems)
    assert len(sizes) == 2


def test_max_tokens_sets_the_memory_and_not_the_result(scorer: RewardScorer) -> None:
    small = ScoringSession(RewardScorer(scorer.model, max_tokens=30))
    assert_same(small.score(CHAINS), scorer.score(CHAINS))
    assert small.stats.computed < small.stats.requested


def test_stats_add_up(session: ScoringSession) -> None:
    session.score(CHAINS)
    first = session.stats
    session.score(CHAINS)
    second = session.stats
    assert first.reused == first.requested - first.computed > 0
    assert (second.computed, second.cached) == (first.computed, first.cached)
    assert second.requested == 2 * first.requested
    assert second.num_bytes > 0


# Bounded memory


@pytest.mark.parametrize("max_cached_tokens", [1, 25, 60, 90])
def test_no_more_than_the_limit_stays(scorer: RewardScorer, max_cached_tokens: int) -> None:
    session = ScoringSession(scorer, max_cached_tokens)
    for chains in (CHAINS, CHAINS[::-1], CHAINS[1:3], CHAINS):
        assert_same(session.score(chains), scorer.score(chains))
        assert session.stats.cached <= max_cached_tokens
    assert session.stats.evicted > 0


def test_clear_frees_memory(session: ScoringSession, scorer: RewardScorer) -> None:
    session.score(CHAINS)
    session.clear()
    assert (session.stats.cached, session.stats.num_bytes) == (0, 0)
    assert_same(session.score(CHAINS), scorer.score(CHAINS))


def test_a_limit_below_one_is_an_error(scorer: RewardScorer) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        ScoringSession(scorer, 0)


def test_the_memo_of_texts_is_bounded() -> None:
    tokenizer = tiny_tokenizer()
    memo = EncodingMemo(max_tokens=8)
    texts = ["a", "2 + 3", "a", "so 14", ""]
    for chosen in (texts, texts[:2], texts[::-1]):
        assert memo(tokenizer, chosen) == encode(tokenizer, chosen)
        assert memo.num_tokens == sum(len(ids) + 1 for ids in memo._ids.values()) <= 8


# Other weights, failures, threads


def test_an_optimizer_step_is_noticed() -> None:
    scorer = RewardScorer(tiny_model(spec=SPEC))
    session = ScoringSession(scorer)
    before = session.score(CHAINS)
    parameters = list(scorer.model.backbone.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.5)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    after: list[ChainScore] = session.score(CHAINS)
    assert_same(after, scorer.score(CHAINS))
    assert after[0].reward != pytest.approx(before[0].reward, abs=1e-3)
    assert session.stats.num_resets == 1


def test_loaded_weights_and_other_types_are_noticed() -> None:
    scorer = RewardScorer(tiny_model(spec=SPEC))
    session = ScoringSession(scorer)
    session.score(CHAINS)
    state = {name: -value for name, value in scorer.model.backbone.state_dict().items()}
    scorer.model.backbone.load_state_dict(state)
    assert_same(session.score(CHAINS), scorer.score(CHAINS))
    scorer.model.to(torch.bfloat16)
    assert_same(session.score(CHAINS), scorer.score(CHAINS), BFLOAT16)
    assert session.stats.num_resets == 2


def test_other_heads_need_no_reset() -> None:
    scorer = RewardScorer(tiny_model(spec=SPEC))
    session = ScoringSession(scorer)
    session.score(CHAINS)
    computed = session.stats.computed
    with torch.no_grad():
        scorer.model.heads.layers.weight.neg_()
    assert_same(session.score(CHAINS), scorer.score(CHAINS))
    assert session.stats.computed == computed


def test_a_pass_that_fails_leaves_nothing_half_done(
    session: ScoringSession, scorer: RewardScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.score(CHAINS[:1])

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(scorer.model.backbone, "layout_states", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            session.score(CHAINS)
    assert session.stats.cached == 0
    assert_same(session.score(CHAINS), scorer.score(CHAINS))


def test_threads_take_turns(session: ScoringSession, scorer: RewardScorer) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda index: session.score(CHAINS[index % 5 :]), range(20)))
    expected = scorer.score(CHAINS)
    for index, scores in enumerate(found):
        assert_same(scores, expected[index % 5 :])
