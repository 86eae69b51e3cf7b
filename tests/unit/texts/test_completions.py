"""A completion is read the same way wherever its reward is asked for."""

from __future__ import annotations

import pytest

from prm.errors import ConfigError, DataError
from prm.records import Chain, Rating
from prm.spec import ResponseHead, RewardSpec, StepFormat, StepHead
from prm.texts.completions import Completion, choose_reward_from

HEADS = (ResponseHead("safety"),)
PROCESS = RewardSpec()
OUTCOME = RewardSpec(response_heads=HEADS)
JOINT = RewardSpec(step_heads=(StepHead(),), response_heads=HEADS)


def read(response: str, separator: str = "\n") -> Completion:
    return Completion.read("1 + 2 * 3?", response, StepFormat(separator=separator))


def test_the_steps_or_the_whole_are_a_record() -> None:
    completion = read(" 2 * 3 = 6\n\n1 + 6 = 7\n")
    assert completion.record("steps", id="3") == Chain(
        "1 + 2 * 3?", ["2 * 3 = 6", "1 + 6 = 7"], id="3"
    )
    assert completion.record("response") == Rating("1 + 2 * 3?", " 2 * 3 = 6\n\n1 + 6 = 7\n")
    assert [completion.response[s.start : s.end] for s in completion.steps] == [
        *completion.step_texts
    ]


def test_a_text_without_a_step_is_no_chain() -> None:
    blank, separators = read(" \n"), read("####", "##")
    assert blank.is_empty("steps")
    assert blank.is_empty("response")
    assert separators.is_empty("steps")
    assert not separators.is_empty("response")
    with pytest.raises(DataError, match="has no step"):
        separators.record("steps")


def test_what_is_scored_follows_from_the_model() -> None:
    assert [choose_reward_from(spec) for spec in (PROCESS, OUTCOME, JOINT)] == [
        "steps",
        "response",
        "response",
    ]
    assert choose_reward_from(JOINT, "steps") == "steps"
    with pytest.raises(ConfigError, match="does not score steps"):
        choose_reward_from(OUTCOME, "steps")
    with pytest.raises(ConfigError, match="does not score whole responses"):
        choose_reward_from(PROCESS, "response")
