"""Step rewards by their formulas, and the tokens that they land on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from tokenizers import decoders
from transformers import PreTrainedTokenizerBase

from prm.errors import ConfigError, DataError
from prm.rl.reward_function import CompletionReward
from prm.rl.token_rewards import StepCredit, step_end_tokens, to_token_rewards
from prm.scores.chains import ChainScore
from prm.spec import StepFormat
from prm.texts.steps import StepSpan, split_steps
from tests.tiny_models import character_tokenizer, tiny_tokenizer

PURE = [0.9, 0.8, -0.7, 0.6]
"""Step rewards `p_1 - p_0` of the golden value in the reference implementation's terms."""


RAW = StepCredit("raw")


def completion(
    response: str, probabilities: Sequence[float | None], reward: float | None = 0.5
) -> CompletionReward:
    """Return what a process model would say about a response of one step per line."""
    logits = tuple(None if p is None else math.log(p / (1 - p)) for p in probabilities)
    score = ChainScore("", {"correctness": logits}, {}, reward, "correctness", "min")
    steps = split_steps(response, StepFormat(separator="\n"))
    return CompletionReward(reward, {"correctness": reward}, score, response, steps)


def characters() -> PreTrainedTokenizerBase:
    """Return a policy's tokenizer with one token per character; token 2 is EOS."""
    tokenizer = character_tokenizer()
    tokenizer.backend_tokenizer.decoder = decoders.Fuse()
    return tokenizer


@pytest.mark.golden
@pytest.mark.parametrize(
    ("temperature", "total"), [(0.1, -0.69999642), (0.5, -0.49700280), (math.inf, 0.4)]
)
def test_min_form_is_that_of_pure(temperature: float, total: float) -> None:
    probabilities = [(reward + 1) / 2 for reward in PURE]
    rewards = StepCredit("min", temperature).step_rewards(probabilities)
    assert sum(rewards) == pytest.approx(total, abs=1e-8)


def test_min_form_is_stable_at_any_temperature() -> None:
    rewards = StepCredit("min", 1e-30).step_rewards([0.9, 0.2, 0.6])
    assert rewards == pytest.approx([0.0, -0.6, 0.0])
    assert StepCredit("min", 1e-30).step_rewards([0.2, 0.2]) == pytest.approx([-0.3, -0.3])


def test_raw_and_difference() -> None:
    probabilities = [0.9, 0.8, 0.2]
    assert StepCredit("raw").step_rewards(probabilities) == probabilities
    rewards = StepCredit("difference", initial=0.5).step_rewards(probabilities)
    assert rewards == pytest.approx([0.4, -0.1, -0.6])


def test_a_step_without_a_score_is_refused_unless_something_stands_for_it() -> None:
    with pytest.raises(DataError, match=r"steps \[1\] of 3"):
        StepCredit().step_rewards([0.9, None, 0.2])
    rewards = StepCredit("difference", unscored=-1.0).step_rewards([0.9, None, 0.2])
    assert rewards == pytest.approx([0.9, -1.0, -0.7])
    one = StepCredit("min", unscored=0.0).step_rewards([None, 0.2])
    assert one == pytest.approx([0.0, -0.6])


@pytest.mark.parametrize(
    "fields",
    [{"mode": "dense"}, {"temperature": 0.0}, {"temperature": math.nan}, {"initial": 2.0}],
)
def test_wrong_options_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        StepCredit(**fields)  # type: ignore[arg-type]


def test_rewards_land_on_the_last_token_of_each_step() -> None:
    tokenizer = characters()
    ids = tokenizer("1 2\n34", add_special_tokens=False)["input_ids"]
    found = to_token_rewards(
        [completion("1 2\n34", [0.75, 0.25])], [[*ids, 2]], torch.ones(1, 7), tokenizer, credit=RAW
    )
    assert found.tolist() == [[0, 0, 0.75, 0, 0, 0.25, 0]]


def test_terminal_reward_is_on_the_last_token_whatever_it_is() -> None:
    ids = torch.tensor([[5, 6, 2, 0], [5, 6, 7, 8]])
    rewards = [completion("1", [0.5], 0.3), completion("1", [0.5], -0.4)]
    found = to_token_rewards(rewards, ids, ids != 0, credit=StepCredit("terminal"))
    torch.testing.assert_close(found, torch.tensor([[0, 0, 0.3, 0], [0, 0, 0, -0.4]]))


def test_mask_says_where_the_tokens_are() -> None:
    """Padding may be on the left, and tokens that a tool wrote lie between those of the policy."""
    tokenizer = characters()
    ids = tokenizer("12", add_special_tokens=False)["input_ids"]
    padded = torch.tensor([[0, ids[0], 9, ids[1]]])
    mask = torch.tensor([[False, True, False, True]])
    found = to_token_rewards([completion("12", [0.25])], padded, mask, tokenizer, credit=RAW)
    assert found.tolist() == [[0, 0, 0, 0.25]]


def test_offsets_stand_for_the_tokenizer() -> None:
    reward = completion("1 + 1\n\nso 2", [0.5, 0.25])
    offsets = [(0, 1), (1, 5), (5, 7), (7, 10), (10, 11), (11, 11)]
    found = to_token_rewards([reward], [[1] * 6], torch.ones(1, 6), credit=RAW, offsets=[offsets])
    assert found.tolist() == [[0, 0.5, 0, 0, 0.25, 0]]


def test_two_steps_that_end_in_one_token_share_it() -> None:
    reward = completion("1\n2", [0.5, 0.25])
    found = to_token_rewards([reward], [[1]], torch.ones(1, 1), credit=RAW, offsets=[[(0, 3)]])
    assert found.tolist() == [[0.75]]


def test_a_text_that_was_stripped_before_it_was_scored() -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer(" \n 1 + 1 = 2\n", add_special_tokens=False)["input_ids"]
    reward = completion("1 + 1 = 2", [0.5])
    found = to_token_rewards([reward], [ids], torch.ones(1, len(ids)), tokenizer, credit=RAW)
    text = tokenizer.decode(ids[: int(found[0].argmax()) + 1])
    assert text.strip() == "1 + 1 = 2"


def test_a_completion_without_a_score_is_refused_unless_something_stands_for_it() -> None:
    empty = completion("", [], None)
    with pytest.raises(DataError, match="completion 0: a completion without a reward"):
        to_token_rewards([empty], [[2]], torch.ones(1, 1))
    found = to_token_rewards([empty], [[2]], torch.ones(1, 1), credit=StepCredit(unscored=-1.0))
    assert found.tolist() == [[-1.0]]
    with pytest.raises(DataError, match="a completion without a reward"):
        to_token_rewards([completion("1", [0.5], None)], [[2]], torch.ones(1, 1))
    given = to_token_rewards([completion("", [], -0.5)], [[2]], torch.ones(1, 1))
    assert given.tolist() == [[-0.5]]
    none = torch.zeros(1, 3)
    assert to_token_rewards([empty], [[]], none, credit=StepCredit(unscored=-1.0)).sum() == 0
    with pytest.raises(DataError, match="without tokens"):
        to_token_rewards([completion("", [], 0.5)], [[]], none, credit=StepCredit("terminal"))


def test_what_does_not_belong_together_is_refused() -> None:
    tokenizer = characters()
    reward = completion("12", [0.5])
    with pytest.raises(DataError, match="do not belong together"):
        to_token_rewards([reward], [[5], [5]], torch.ones(2, 1), tokenizer)
    with pytest.raises(DataError, match="2 tokens, got 1"):
        to_token_rewards([reward], [[5]], torch.ones(1, 2), tokenizer)
    with pytest.raises(DataError, match="completion 0: the tokens do not decode"):
        to_token_rewards([reward], [[5]], torch.ones(1, 1), tokenizer)
    with pytest.raises(ConfigError, match="tokenizer"):
        to_token_rewards([reward], [[5]], torch.ones(1, 1))
    with pytest.raises(DataError, match="end before the step"):
        step_end_tokens([StepSpan("12", 0, 2)], [(0, 1)])


def test_a_response_cut_inside_a_character_ends_with_its_last_token() -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer("1\n答", add_special_tokens=False)["input_ids"][:-1]
    reward = completion(tokenizer.decode(ids), [0.5, 0.25])
    found = to_token_rewards([reward], [[*ids, 2]], torch.ones(1, 5), tokenizer, credit=RAW)
    assert found.tolist() == [[0.5, 0, 0, 0.25, 0]]


def test_the_default_does_not_pay_for_more_steps() -> None:
    short, long = ([0.9] * count for count in (2, 20))
    totals = [sum(StepCredit().step_rewards(values)) for values in (short, long)]
    assert totals[0] == pytest.approx(totals[1])
