"""verl: `compute_score` for its reward managers, and a reward manager with dense step rewards.

In verl's configuration::

    reward.custom_reward_function.path=pkg://prm.rl.verl
    +reward.custom_reward_function.reward_kwargs.model=runs/replies/model

and for dense rewards also::

    reward.reward_manager.source=importlib
    reward.reward_manager.name=StepRewardManager
    reward.reward_manager.module.path=pkg://prm.rl.verl
    +reward.custom_reward_function.reward_kwargs.mode=difference
"""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from prm.errors import ConfigError, DataError, MissingDependencyError
from prm.rl.objective_columns import known_objectives
from prm.rl.reward_function import CompletionReward, RewardFunction
from prm.rl.shared import shared_reward_function
from prm.rl.token_rewards import StepCredit, completion_token_rewards

if TYPE_CHECKING:
    StepRewardManager: type[Any]

SCORE = "score"
"""What verl calls the reward in the dictionary that `compute_score` returns."""

CREDIT = ("mode", "temperature", "initial", "unscored")
"""Options that the reward manager gives to `StepCredit`."""


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    *,
    model: str,
    prompt_key: str = "prompt",
    unscored: float | None = None,
    reward_router_address: str | None = None,
    reward_model_tokenizer: Any = None,
    **options: Any,
) -> dict[str, float]:
    """Return the reward of one response and the value of each objective.

    verl's managers call it once per response, from several threads. Where rewards are the
    bottleneck, give the address of a `prm serve`: it scores what arrives together in one batch.

    Args:
        data_source: Not used.
        solution_str: The response.
        ground_truth: Not used.
        extra_info: The row's extra information; it must hold the prompt.
        model: Folder of the model, or the address of a `prm serve`.
        prompt_key: Where the prompt, a text or messages, is in `extra_info`.
        unscored: Reward of a response that could not be scored, and its value of each objective;
            `None` refuses it.
        reward_router_address: Not used: verl's own reward model.
        reward_model_tokenizer: Not used: verl's own reward model.
        options: Of `RewardFunction`, as plain values.

    Returns:
        `score` and each objective: the keys, the same for every response, that
        `algorithm.gdpo_reward_keys` can name. An objective that is missing in a response that has
        a reward is NaN.

    Raises:
        DataError: There is no prompt, or the response has no reward.
        ConfigError: An option is unknown.
    """
    function = shared_reward_function(model, **options)
    (found,) = function.score([_prompt(extra_info, prompt_key)], [solution_str])
    return _values(found, unscored)


def compute_scores(
    data_sources: Sequence[str],
    solution_strs: Sequence[str],
    ground_truths: Sequence[Any],
    extra_infos: Sequence[Mapping[str, Any] | None],
    *,
    model: str,
    prompt_key: str = "prompt",
    unscored: float | None = None,
    **options: Any,
) -> list[dict[str, float]]:
    """Return what `compute_score` does for a batch: the form of verl's older batch manager."""
    function = shared_reward_function(model, **options)
    prompts = [_prompt(info, prompt_key) for info in extra_infos]
    found = function.score(prompts, list(solution_strs))
    return [_values(item, unscored) for item in found]


def _prompt(extra_info: Mapping[str, Any] | None, key: str) -> Any:
    prompt = None if extra_info is None else extra_info.get(key)
    if prompt is None:
        raise DataError(
            "extra_info does not hold the prompt",
            expected=f"a text or messages under {key!r}",
            got=sorted(extra_info or {}),
            fix="Write it there when the data set is prepared, or set reward_kwargs.prompt_key",
        )
    return prompt.tolist() if hasattr(prompt, "tolist") else prompt


def _values(item: CompletionReward, unscored: float | None) -> dict[str, float]:
    if SCORE in item.objectives:
        raise ConfigError(f"an objective is called {SCORE!r}", expected="another name")
    if item.reward is not None:
        return {SCORE: item.reward, **known_objectives(item, math.nan)}
    if unscored is not None:
        return {SCORE: unscored, **known_objectives(item, unscored)}
    raise DataError(
        "a response has no reward",
        got=item.score.reason,
        fix="Say what stands for it (reward_kwargs.unscored)",
    )


class DenseScore(float):
    """The total of a response's token rewards, which brings them along.

    verl passes scores around as numbers. Where it lets the reward manager place them
    (`assemble_rm_scores`, with a colocated reward model), each step's reward reaches its token;
    elsewhere the total lands on the last token.

    Attributes:
        token_rewards: One reward per token of the response.

    Example:
        >>> DenseScore([0.0, 0.5, 0.25]), DenseScore([0.0, 0.5, 0.25]).token_rewards
        (0.75, (0.0, 0.5, 0.25))
    """

    token_rewards: tuple[float, ...]

    def __new__(cls, token_rewards: Sequence[float]) -> DenseScore:
        score = super().__new__(cls, math.fsum(token_rewards))
        score.token_rewards = tuple(token_rewards)
        return score

    def __reduce__(self) -> tuple[Any, ...]:
        return DenseScore, (self.token_rewards,)


def dense_rm_scores(responses: Tensor, lengths: Tensor, scores: Sequence[float]) -> Tensor:
    """Return dense rewards in the place of verl's `rm_scores`.

    Args:
        responses: Response ids, padded on the right, shape `[batch, length]`.
        lengths: Number of tokens of each response, shape `[batch]`.
        scores: `DenseScore` of each response.

    Returns:
        Rewards `[batch, length]` in float32.

    Raises:
        DataError: A score has no token rewards, or another number than its response has tokens.
    """
    result = torch.zeros(responses.shape, dtype=torch.float32, device=responses.device)
    for row, (length, score) in enumerate(zip(lengths.tolist(), scores, strict=True)):
        rewards = getattr(score, "token_rewards", ())
        if len(rewards) != length:
            raise DataError(
                "token rewards do not belong to the response",
                expected=f"{length} of them",
                got=len(rewards),
                where=f"response {row}",
            )
        result[row, :length] = torch.tensor(rewards)
    return result


def score_item(
    item: Any,
    function: RewardFunction,
    tokenizer: Any,
    credit: StepCredit,
    prompt_key: str = "prompt",
) -> dict[str, Any]:
    """Return what a reward manager's `run_single` returns for one row.

    Args:
        item: A `DataProtoItem`.
        function: What scores completions.
        tokenizer: The policy's tokenizer.
        credit: How step probabilities become step rewards.
        prompt_key: Where the prompt is in `extra_info`; without it, `raw_prompt` is the prompt.

    Raises:
        DataError: There is no prompt, something has no reward, or it is not known which tokens
            the policy wrote.
    """
    ids, written = _response_tokens(item)
    row = item.non_tensor_batch
    prompt = _prompt(
        {prompt_key: row.get("raw_prompt")} | (row.get("extra_info") or {}), prompt_key
    )
    own = [ids[place] for place in written]
    (found,) = function.score([prompt], [tokenizer.decode(own, skip_special_tokens=True)])
    rewards = [0.0] * len(ids)
    dense = completion_token_rewards(found, own, tokenizer, credit=credit)
    for place, reward in zip(written, dense, strict=True):
        rewards[place] = reward
    values = _values(found, credit.unscored)
    return {"reward_score": DenseScore(rewards), "reward_extra_info": values}


def _response_tokens(item: Any) -> tuple[list[int], list[int]]:
    """Return the ids of a row's response, and which of them the policy wrote."""
    responses = item.batch["responses"]
    length = int(item.batch["attention_mask"][-len(responses) :].sum())
    if "response_mask" in item.batch.keys():  # noqa: SIM118 (a TensorDict has no `in`)
        mask = item.batch["response_mask"][:length].bool()
    elif (item.non_tensor_batch.get("__num_turns__") or 0) > 2:
        raise DataError("a response of several turns needs a response_mask")
    else:
        mask = torch.ones(length, dtype=torch.bool)
    return responses[:length].tolist(), mask.nonzero().squeeze(-1).tolist()


@functools.cache
def _manager_class() -> type[Any]:
    """Build the reward manager on verl's base, so that this module loads without verl."""
    try:
        from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase
    except ImportError as error:
        raise MissingDependencyError("StepRewardManager needs verl", fix=str(error)) from None

    class StepRewardManager(RewardManagerBase):  # type: ignore[misc]
        """Writes the reward of each step to its last token.

        Its options are those of `compute_score` (`reward.custom_reward_function.reward_kwargs`)
        and of `StepCredit`.
        """

        def __init__(
            self,
            config: Any,
            tokenizer: Any,
            compute_score: Any,
            reward_router_address: str | None = None,
            reward_model_tokenizer: Any = None,
        ) -> None:
            super().__init__(config, tokenizer, compute_score)
            options = dict(config.reward.custom_reward_function.get("reward_kwargs") or {})
            self.prompt_key = options.pop("prompt_key", "prompt")
            self.credit = StepCredit(**{key: options.pop(key) for key in CREDIT if key in options})
            self.options = options

        async def run_single(self, data: Any) -> dict[str, Any]:
            """Return the reward and the objectives of the last sequence in `data`."""
            return await asyncio.to_thread(self._score, data[-1:][0])

        def _score(self, item: Any) -> dict[str, Any]:
            function = shared_reward_function(**self.options)
            return score_item(item, function, self.tokenizer, self.credit, self.prompt_key)

        @classmethod
        def assemble_rm_scores(cls, data: Any, scores: Sequence[float]) -> Tensor:
            """Return `rm_scores` with each step's reward on its last token."""
            width = data.batch["prompts"].size(1)
            lengths = data.batch["attention_mask"][:, width:].sum(dim=1)
            return dense_rm_scores(data.batch["responses"], lengths, scores)

    return StepRewardManager


def __getattr__(name: str) -> Any:
    if name == "StepRewardManager":
        return _manager_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
