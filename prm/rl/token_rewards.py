"""Step scores onto the tokens of a policy's responses, whatever tokenizer the policy has.

A trainer with dense rewards wants one number per response token. Steps are found in the text that
the reward model scored; the policy's tokens are found in the same text; the reward of a step goes
to the last token of that step. So rewards of different tokenizers have the same total.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prm.errors import ConfigError, DataError

if TYPE_CHECKING:
    from prm.rl.reward_function import CompletionReward
    from prm.texts.steps import StepSpan

Offsets = Sequence[tuple[int, int]]
"""Where each token of a response stands in its text: first character, and one after the last."""

Mode = Literal["raw", "difference", "min", "terminal"]


@dataclass(frozen=True, slots=True)
class StepCredit:
    r"""How the step probabilities `p_1 .. p_T` of a response become rewards of its steps.

    - `raw`: step t gets `p_t`; the total is `sum_t p_t`.
    - `difference`: `p_t - p_{t-1}`, where `p_0` is `initial`; the total is `p_T - initial`.
    - `min`: `w_t r_t`, where `r_t = 2 p_t - 1`; the total is near `min_t r_t`.
    - `terminal`: the aggregated reward, on the last token of the response.

    The weights of `min` are `w = softmax(-r / temperature)`. `raw` pays for the number of steps,
    and a policy learns to write more of them; the totals of the others do not grow with it.

    Args:
        mode: One of the above; by default `min`, for labels that say whether a step is correct.
            For labels that estimate the chance of a right answer from there, take `difference`.
        temperature: Of `min`, above 0; towards 0 all credit goes to the worst step.
        initial: Of `difference`: the value before the first step, in [0, 1].
        unscored: Reward of a step that was not scored (it did not fit the model), which is then
            left out of the formulas, and of a response without any score, on its last token. If
            `None`, both are refused.

    Raises:
        ConfigError: The mode is unknown or a number is out of range.

    Example:
        >>> [round(r, 3) for r in StepCredit("difference").step_rewards([0.9, 0.8, 0.2])]
        [0.9, -0.1, -0.6]
        >>> [round(r, 3) for r in StepCredit("min").step_rewards([0.9, 0.8, 0.2])]
        [0.0, 0.0, -0.6]

    Source: `min` is PURE (Cheng et al. 2025, arXiv 2504.15275), `difference` is progress (Setlur et
    al. 2024, arXiv 2410.08146).
    """

    mode: Mode = "min"
    temperature: float = 0.1
    initial: float = 0.0
    unscored: float | None = None

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ConfigError(
                "unknown mode of token rewards", expected=" | ".join(get_args(Mode)), got=self.mode
            )
        if not self.temperature > 0:
            raise ConfigError(
                "temperature is wrong", expected="a number above 0", got=self.temperature
            )
        if not 0 <= self.initial <= 1:
            raise ConfigError("initial is wrong", expected="a number in [0, 1]", got=self.initial)

    def step_rewards(self, probabilities: Sequence[float | None]) -> list[float]:
        """Return one reward per step; not for `terminal`, which has none.

        Args:
            probabilities: Of the steps, in [0, 1]; `None` for a step that was not scored.

        Raises:
            DataError: A step was not scored and nothing stands for it.
        """
        scored = [index for index, value in enumerate(probabilities) if value is not None]
        if len(scored) < len(probabilities) and self.unscored is None:
            missing = [index for index in range(len(probabilities)) if index not in scored]
            raise DataError(
                "steps without a score have no reward",
                got=f"steps {missing} of {len(probabilities)}",
                fix="Raise the model's max_length, or say what stands for them (`unscored`)",
            )
        values = [value for value in probabilities if value is not None]
        rewards = [0.0 if self.unscored is None else self.unscored] * len(probabilities)
        for index, reward in zip(scored, self._formula(values), strict=True):
            rewards[index] = reward
        return rewards

    def _formula(self, values: list[float]) -> list[float]:
        if self.mode == "difference":
            return [now - before for before, now in pairwise([self.initial, *values])]
        if self.mode == "min" and values:
            rewards = 2 * torch.tensor(values, dtype=torch.float64) - 1
            return (torch.softmax(-rewards / self.temperature, dim=0) * rewards).tolist()
        return values


def to_token_rewards(
    rewards: Sequence[CompletionReward],
    completion_ids: Tensor | Sequence[Sequence[int]],
    response_mask: Tensor,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    offsets: Sequence[Offsets] | None = None,
    credit: StepCredit = StepCredit(),
) -> Tensor:
    """Return dense rewards of a batch of completions.

    Args:
        rewards: What the reward function said about each completion.
        completion_ids: Token ids, padded like the mask, or a list without padding per completion.
        response_mask: True at tokens of the response, shape `[batch, length]`. Padding on either
            side and tokens that the policy did not write are false; they get no reward.
        tokenizer: The policy's tokenizer.
        offsets: Where the masked tokens stand in each scored text, in place of the tokenizer.
        credit: How step probabilities become step rewards.

    Returns:
        Rewards `[batch, length]` in float32, 0 everywhere but at the last token of each step.

    Raises:
        DataError: Completions, rewards and mask do not belong together, a text is not what its
            tokens decode to, or something has no reward (`StepCredit.unscored`).
    """
    if not len(rewards) == len(completion_ids) == len(response_mask):
        raise DataError(
            "rewards, completions and mask do not belong together",
            expected="one of each per completion",
            got=f"{len(rewards)}, {len(completion_ids)} and {len(response_mask)}",
        )
    result = torch.zeros(response_mask.shape, dtype=torch.float32, device=response_mask.device)
    for row, reward in enumerate(rewards):
        positions = response_mask[row].bool().nonzero().squeeze(-1)
        try:
            ids = _masked(completion_ids[row], positions, response_mask.shape[1])
            known = None if offsets is None else offsets[row]
            values = completion_token_rewards(reward, ids, tokenizer, offsets=known, credit=credit)
        except DataError as error:
            raise error.at(f"completion {row}") from None
        result[row, positions] = torch.tensor(values, device=result.device)
    return result


def _masked(ids: Tensor | Sequence[int], positions: Tensor, length: int) -> list[int]:
    """Return the ids of the response: padded like the mask, or without padding."""
    if isinstance(ids, Tensor) and len(ids) == length:
        return [int(token) for token in ids[positions.to(ids.device)]]
    if len(ids) != len(positions):
        raise DataError(
            "the mask does not fit the completion",
            expected=f"{len(positions)} tokens",
            got=f"{len(ids)}",
        )
    return [int(token) for token in ids]


def completion_token_rewards(
    reward: CompletionReward,
    completion_ids: Sequence[int],
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    offsets: Offsets | None = None,
    credit: StepCredit = StepCredit(),
) -> list[float]:
    """Return one reward per token of one completion; arguments and errors as `to_token_rewards`.

    Args:
        reward: What the reward function said about the completion.
        completion_ids: Its token ids, without padding.
        tokenizer: The policy's tokenizer.
        offsets: Where the tokens stand in `reward.response`, in place of the tokenizer.
        credit: How step probabilities become step rewards.
    """
    values = [0.0] * len(completion_ids)
    if credit.mode == "terminal" or not reward.steps or reward.reward is None:
        whole = _whole_reward(reward, credit)
        if not values and credit.unscored is None:
            raise DataError("a completion without tokens has no place for a reward")
        values[-1:] = [whole] if values else []
        return values
    rewards = credit.step_rewards(reward.step_probabilities)
    if offsets is not None:
        ends = step_end_tokens(reward.steps, offsets)
    elif tokenizer is not None:
        ends = decoded_step_ends(reward.response, reward.steps, completion_ids, tokenizer)
    else:
        raise ConfigError("token rewards need the policy's tokenizer, or offsets of its tokens")
    for token, value in zip(ends, rewards, strict=True):
        values[token] += value
    return values


def _whole_reward(reward: CompletionReward, credit: StepCredit) -> float:
    """Return what goes on the last token of a completion."""
    if credit.mode != "terminal" and not reward.score.step_logits:
        raise DataError("the model scores whole responses", fix="Use mode 'terminal'")
    if reward.reward is not None:
        return reward.reward
    if credit.unscored is None:
        raise DataError(
            "a completion without a reward",
            got=reward.score.reason,
            fix="Say what stands for its reward (`unscored`)",
        )
    return credit.unscored


def step_end_tokens(steps: Sequence[StepSpan], offsets: Offsets) -> list[int]:
    """Return the index of the last token of each step, from where tokens stand in the text.

    A character may be spread over several tokens, and a token may reach beyond its step. Tokens
    without text, such as EOS, belong to no step.

    Raises:
        DataError: A step has no token.

    Example:
        >>> from prm.texts.steps import StepSpan
        >>> step_end_tokens([StepSpan("1 + 1", 0, 5)], [(0, 1), (1, 3), (3, 6), (6, 6)])
        [2]
    """
    with_text = [token for token, (start, end) in enumerate(offsets) if start < end]
    starts = [offsets[token][0] for token in with_text]
    ends = []
    for index, step in enumerate(steps):
        found = bisect_left(starts, step.end) - 1
        if found < 0 or offsets[with_text[found]][1] < step.end:
            raise DataError("the tokens end before the step", got=step.text, where=f"step {index}")
        ends.append(with_text[found])
    return ends


def decoded_step_ends(
    response: str,
    steps: Sequence[StepSpan],
    completion_ids: Sequence[int],
    tokenizer: PreTrainedTokenizerBase,
) -> list[int]:
    """Return the index of the last token of each step, from the tokens themselves.

    Args:
        response: The text that was scored: what the tokens decode to without special tokens, as it
            is or stripped.
        steps: Where the steps stand in it.
        completion_ids: The tokens, EOS and other special tokens included.
        tokenizer: The policy's tokenizer.

    Raises:
        DataError: The tokens do not decode to the response.
    """
    special = {key for key, token in tokenizer.added_tokens_decoder.items() if token.special}
    places = [index for index, token in enumerate(completion_ids) if token not in special]
    ids = [completion_ids[index] for index in places]
    text = str(tokenizer.decode(ids))
    if text.strip() != response.strip():
        raise DataError(
            "the tokens do not decode to the text that was scored",
            expected=repr(response[:80]),
            got=text[:80],
        )
    shift = text.find(response.strip()) - response.find(response.strip())
    offsets = _stock_offsets(text, ids, tokenizer)
    if offsets is not None:
        moved = [(max(start - shift, 0), end - shift) for start, end in offsets]
        return [places[token] for token in step_end_tokens(steps, moved)]
    decoding = _Decoding(text, ids, tokenizer)
    return [places[decoding.last_token(shift + step.end)] for step in steps]


def _stock_offsets(text: str, ids: list[int], tokenizer: PreTrainedTokenizerBase) -> Offsets | None:
    """Return the tokenizer's own offsets, if it has them and would write the text in these ids."""
    if not tokenizer.is_fast:
        return None
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return found["offset_mapping"] if found["input_ids"] == ids else None


CONTEXT = 8
"""Tokens that are decoded again before new ones: how a token reads depends on those before it."""


class _Decoding:
    """Finds the tokens that write a text by decoding them piece by piece."""

    def __init__(self, text: str, ids: list[int], tokenizer: PreTrainedTokenizerBase) -> None:
        self.text, self.ids, self.tokenizer = text, ids, tokenizer
        self._known = (0, 0)

    def last_token(self, end: int) -> int:
        """Return the index of the token that writes the last character of `text[:end]`.

        Tokens that add no text belong to a character that is not complete. Ends must not fall.
        """
        num_tokens, num_characters = self._known
        count = self._count(end, num_tokens, num_characters, max(num_tokens - CONTEXT, 0))
        if count is None:
            count = self._count(end, 0, 0, 0)
        assert count is not None
        return count - 1

    def _count(self, end: int, base: int, done: int, first: int) -> int | None:
        """Return how many tokens write `text[:end]`, given that `base` of them write `text[:done]`.

        Decodes from token `first` on. `None` if these tokens read differently without the others.
        """
        context = len(self._decode(first, base))
        wanted = self.text[done:end]

        def written(count: int) -> str:
            return self._decode(first, count)[context:]

        stop = min(base + 16, len(self.ids))
        while stop < len(self.ids) and not written(stop).startswith(wanted):
            stop = min(base + 2 * (stop - base), len(self.ids))
        counts = range(base, stop + 1)
        count = base + bisect_left(counts, True, key=lambda n: written(n).startswith(wanted))
        if count > stop:
            return None
        while count < len(self.ids) and written(count + 1) == written(count):
            count += 1
        if not written(count).endswith("\ufffd") and self.text.startswith(written(count), done):
            self._known = count, done + len(written(count))
        return count

    def _decode(self, start: int, end: int) -> str:
        return str(self.tokenizer.decode(self.ids[start:end]))
