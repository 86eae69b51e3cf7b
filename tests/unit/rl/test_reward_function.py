from __future__ import annotations

import multiprocessing
import pickle
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from prm.aggregation.objectives import WeightedSum, WorstCase
from prm.errors import ConfigError, DataError
from prm.models import checkpoint
from prm.models.reward_model import RewardModel
from prm.records import Chain, Rating
from prm.rl.reward_function import CompletionReward, RewardFunction
from prm.scoring.scorer import RewardScorer
from prm.spec import ResponseHead, RewardSpec, Template
from tests.chat_templates import TOOLS, chat_tokenizer
from tests.outcome_models import outcome_model, save_joint_model
from tests.tiny_models import tiny_backbone, tiny_model, tiny_tokenizer

PROMPT = "What is 2 + 3 * 4?"
COMPLETIONS = ["3 * 4 = 12\n\n2 + 12 = 15\n", "It is 14.", "20"]
PROMPTS = [PROMPT] * 3


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint.save(tiny_model(), tmp_path_factory.mktemp("process") / "model")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint.save(outcome_model(), tmp_path_factory.mktemp("outcome") / "model")


def test_steps_get_the_reward_of_the_scorer(process: Path) -> None:
    function = RewardFunction(process, device="cpu")
    scorer = RewardScorer.from_pretrained(process, device="cpu")
    expected = scorer.score(
        [Chain(PROMPT, ["3 * 4 = 12", "2 + 12 = 15"]), (PROMPT, ["It is 14."]), (PROMPT, ["20"])]
    )

    found = function.score(PROMPTS, COMPLETIONS)

    assert [item.reward for item in found] == pytest.approx([s.reward for s in expected], abs=1e-5)
    assert function(PROMPTS, COMPLETIONS, ground_truth=["14"] * 3) == [s.reward for s in found]
    assert found[0].step_probabilities == pytest.approx(expected[0].probabilities, abs=1e-5)
    assert [step.text for step in found[0].steps] == ["3 * 4 = 12", "2 + 12 = 15"]


def test_responses_get_the_reward_and_utilities_of_the_scorer(outcome: Path) -> None:
    function = RewardFunction(outcome, device="cpu")
    scorer = RewardScorer.from_pretrained(outcome, device="cpu")
    expected = scorer.score([Rating(PROMPT, text) for text in COMPLETIONS])

    found = function.score(PROMPTS, COMPLETIONS)

    for mine, score in zip(found, expected, strict=True):
        assert mine.reward == pytest.approx(score.reward, abs=1e-5)
        assert mine.objectives == pytest.approx(score.utilities, abs=1e-5)
        assert mine.steps == mine.step_probabilities == ()
    assert function.objectives == ("helpfulness", "toxicity")


def test_conversations_and_token_ids_are_texts(outcome: Path) -> None:
    tokenizer = tiny_tokenizer()
    function = RewardFunction(outcome, device="cpu", tokenizer=tokenizer)
    encoded = tokenizer(["It is 14."], add_special_tokens=False)["input_ids"]

    text = function([PROMPT], ["It is 14."])

    assert function([PROMPT], encoded) == pytest.approx(text)
    assert function(
        [[{"role": "user", "content": PROMPT}]],
        [[{"role": "assistant", "content": [{"type": "text", "text": "It is 14."}]}]],
    ) == pytest.approx(text)


def test_token_ids_need_a_tokenizer(outcome: Path) -> None:
    with pytest.raises(DataError, match="policy's tokenizer"):
        RewardFunction(outcome, device="cpu")([PROMPT], [[1, 2]])


def test_a_completion_without_text_gets_what_was_asked_for(process: Path) -> None:
    silent = RewardFunction(process, device="cpu").score([PROMPT, PROMPT], ["", "20"])
    punished = RewardFunction(process, device="cpu", empty=-1).score([PROMPT] * 2, [" \n", "20"])

    assert silent[0].reward is None
    assert silent[0].score.reason == "the completion has no text"
    assert punished[0].reward == punished[0].objectives["correctness"] == -1
    assert punished[1].reward == silent[1].reward is not None


def test_calls_are_read_and_a_call_is_no_answer(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(TOOLS)
    spec = RewardSpec(response_heads=(ResponseHead("helpfulness"),), template=Template("chat"))
    model = RewardModel(tiny_backbone("llama", tokenizer), tokenizer, spec)
    torch.nn.init.normal_(model.heads.layers.weight)
    folder = checkpoint.save(model.eval(), tmp_path / "model")
    user = {"role": "user", "content": "Weather?"}
    result, answer = {"role": "tool", "content": "-3 C"}, {"role": "assistant", "content": "Cold."}

    def call(city: str, content: str | None = None) -> dict[str, Any]:
        function = {"name": "weather", "arguments": f'{{"city": "{city}"}}'}
        return {"role": "assistant", "content": content, "tool_calls": [{"function": function}]}

    turns = [[call(city), result, answer] for city in ("Oslo", "Rome")]
    completions = [*turns, [call("Oslo")], [call("Oslo", "I look.")]]
    found = RewardFunction(folder, device="cpu", empty=-3.0).score([[user]] * 4, completions)
    scorer = RewardScorer.from_pretrained(folder)
    records = [Rating([user, *own[:-1]], "Cold.") for own in turns]
    expected = [score.reward for score in scorer.score(records)]
    assert [item.reward for item in found[:2]] == pytest.approx(expected, abs=1e-5)
    assert abs(expected[0] - expected[1]) > 1e-3
    for item in found[2:]:
        assert item.reward is None
        assert "the last turn calls a tool" in item.score.reason


def test_what_a_server_did_not_score_has_no_reward() -> None:
    class Silent(RewardScorer):
        def score(self, records: object) -> list[None]:
            return [None]

    found = RewardFunction(Silent(outcome_model())).score([PROMPT], ["20"])[0]

    assert found.reward is None
    assert found.objectives == {"helpfulness": None, "toxicity": None}
    assert found.score.reason == "the server did not score it"


def test_views_of_one_batch_cost_one_forward_pass(outcome: Path) -> None:
    function = RewardFunction(outcome, device="cpu")
    seen: list[Sequence[CompletionReward]] = []
    function.observers.append(seen.append)
    threads = [
        threading.Thread(target=function, args=(PROMPTS, list(COMPLETIONS))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    function(PROMPTS, ["a", "b", "c"])

    assert len(seen) == 2
    assert all(len(batch) == 3 for batch in seen)


def test_a_call_that_fails_is_not_remembered(outcome: Path) -> None:
    class Unsure(RewardScorer):
        num_calls = 0

        def score(self, records: Any) -> list[Any]:
            self.num_calls += 1
            if self.num_calls == 1:
                raise TimeoutError
            return super().score(records)

    function = RewardFunction(Unsure(outcome_model()))
    with pytest.raises(TimeoutError):
        function(PROMPTS, COMPLETIONS)

    assert None not in function(PROMPTS, COMPLETIONS)


def test_a_server_is_asked_by_several_threads_at_once() -> None:
    meeting = threading.Barrier(2, timeout=30)

    class Served:
        """A server that answers when two requests have come."""

        spec = outcome_model().spec

        def score(self, records: list[Rating]) -> list[None]:
            meeting.wait()
            return [None] * len(records)

    function: Any = RewardFunction(Served())  # type: ignore[arg-type]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda text: function([PROMPT], [text]), ["a", "b"]))

    assert found == [[None], [None]]


def test_scores_carry_the_place_of_their_completion(outcome: Path) -> None:
    """So that a server's answer in another order is refused, and not taken for the right one."""
    found = RewardFunction(outcome, device="cpu").score(PROMPTS, ["3 * 4 = 12", "", "20"])

    assert [item.score.id for item in found] == ["0", "", "2"]


def test_the_aggregation_can_be_changed_between_calls(outcome: Path) -> None:
    function = RewardFunction(outcome, device="cpu")
    other = RewardFunction(outcome, device="cpu", objective_aggregation=WorstCase())
    before = function(PROMPTS, COMPLETIONS)

    function.set_objective_aggregation(WorstCase())

    assert function(PROMPTS, COMPLETIONS) == pytest.approx(other(PROMPTS, COMPLETIONS))
    assert function(PROMPTS, COMPLETIONS) != pytest.approx(before)


def test_the_step_aggregation_can_be_changed_between_calls(process: Path) -> None:
    function = RewardFunction(process, device="cpu")
    other = RewardFunction(process, device="cpu", step_aggregation="mean")
    before = function(PROMPTS, COMPLETIONS)

    function.set_step_aggregation("mean")

    assert function(PROMPTS, COMPLETIONS) == pytest.approx(other(PROMPTS, COMPLETIONS))
    assert function(PROMPTS, COMPLETIONS) != pytest.approx(before)


def test_objectives_that_do_not_apply_follow_the_policy(outcome: Path) -> None:
    lenient = WeightedSum(missing="renormalize")
    function = RewardFunction(outcome, device="cpu", objective_aggregation=lenient)

    first, second = function.score([PROMPT] * 2, ["20"] * 2, applicable=[["helpfulness"], None])

    assert first.objectives == {"helpfulness": second.objectives["helpfulness"], "toxicity": None}
    assert first.reward == pytest.approx(first.objectives["helpfulness"])


def test_lengths_that_differ_are_refused(outcome: Path) -> None:
    function = RewardFunction(outcome, device="cpu")
    with pytest.raises(DataError, match="do not match"):
        function(PROMPTS, COMPLETIONS[:2])


def test_a_joint_model_is_told_what_to_score(tmp_path: Path) -> None:
    folder = save_joint_model(tmp_path / "model")
    with pytest.raises(ConfigError, match="reward_from does not fit a joint model"):
        RewardFunction(folder)

    steps = RewardFunction(folder, device="cpu", reward_from="steps")
    response = RewardFunction(folder, device="cpu", reward_from="response")

    assert steps.objectives == ("correctness",)
    assert response.objectives == ("helpfulness", "toxicity")
    assert steps(PROMPTS, COMPLETIONS) != response(PROMPTS, COMPLETIONS)


def test_it_is_no_module_and_pickles_as_its_arguments(outcome: Path) -> None:
    function = RewardFunction(outcome, device="cpu", objective_aggregation=WorstCase())
    rewards = function(PROMPTS, COMPLETIONS)

    data = pickle.dumps(function)

    assert not isinstance(function, nn.Module)
    assert len(data) < 10_000
    assert pickle.loads(data)(PROMPTS, COMPLETIONS) == pytest.approx(rewards)


def test_a_spawned_process_loads_the_model_again(process: Path) -> None:
    function = RewardFunction(process, device="cpu")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        remote = pool.apply(function, (PROMPTS, COMPLETIONS))

    assert remote == pytest.approx(function(PROMPTS, COMPLETIONS), abs=1e-5)


def test_a_loaded_model_cannot_be_sent() -> None:
    function = RewardFunction(RewardScorer(outcome_model()))

    assert function([PROMPT], ["20"])[0] is not None
    with pytest.raises(ConfigError, match="cannot be sent to another process"):
        pickle.dumps(function)


def test_what_was_cut_off_gets_what_it_is_said_to_be_worth() -> None:
    scorer = RewardScorer(tiny_model(spec=RewardSpec(max_length=48)))
    completions = ["3 * 4 = 12", "\n".join(["3 * 4 = 12"] * 20)]
    kept, none, fixed = (
        RewardFunction(scorer, **option).score([PROMPT] * 2, completions)
        for option in ({}, {"truncated": None}, {"truncated": -1.0})
    )
    assert [item.score.num_truncated > 0 for item in kept] == [False, True]
    assert kept[1].reward is not None
    assert [item.reward for item in none] == [kept[0].reward, None]
    assert [item.reward for item in fixed] == [kept[0].reward, -1.0]
    assert fixed[1].objectives == {"correctness": -1.0}
    assert none[1].objectives == {"correctness": None}
