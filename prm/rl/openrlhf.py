"""OpenRLHF: the `reward_func` that `--reward.remote_url reward.py` loads.

The file that OpenRLHF is given holds two lines::

    from prm.rl.openrlhf import OpenRLHFReward
    reward_func = OpenRLHFReward("runs/replies/model", policy="Qwen/Qwen3-4B")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from prm.errors import DataError
from prm.rl.objective_columns import objective_columns
from prm.rl.reward_function import CompletionReward
from prm.rl.shared import shared_reward_function
from prm.scores.reaggregate import unit_score
from prm.texts.policy import PolicyText


class OpenRLHFReward:
    """A `reward_func(queries, prompts, labels)` for OpenRLHF.

    The model is loaded at the first call, once per process; each vLLM engine of OpenRLHF is a
    process. With many engines, let them share one `prm serve` and give its address.

    Args:
        model: Folder of the model, or the address of a `prm serve`.
        policy: Folder or name of the policy's tokenizer. Its special tokens are left out of
            responses, and prompts that its chat template rendered become messages again. Without
            it both are scored as they are.
        policy_options: What its chat template was given beside messages, such as
            `reasoning_effort`. Thinking turned on or off, and the date, are recognized without it.
        unscored: Reward of a response that could not be scored. If `None` the call fails; OpenRLHF
            logs that and goes on with a response that has no reward.
        options: Of `RewardFunction`, as plain values.

    Raises:
        ConfigError: An option is unknown or does not fit the model.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        policy: str | Path | None = None,
        policy_options: Mapping[str, Any] | None = None,
        unscored: float | None = None,
        **options: Any,
    ) -> None:
        self.function = shared_reward_function(model, **options)
        tokenizer = None if policy is None else AutoTokenizer.from_pretrained(policy)
        self.texts = PolicyText(tokenizer, policy_options)
        self.unscored = unscored

    def __call__(
        self, queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any], **_: Any
    ) -> dict[str, Tensor | dict[str, Tensor]]:
        """Return rewards, one per query.

        Args:
            queries: Prompts and responses as one text each, with special tokens.
            prompts: The prompts as the policy was given them.
            labels: Not used.

        Returns:
            `rewards`; `scores` in [0, 1], for dynamic filtering; and `extra_logs` with each
            objective, NaN where it is missing.

        Raises:
            DataError: A query does not begin with its prompt, or has no reward.
        """
        pairs = [self.texts.read(*pair) for pair in zip(queries, prompts, strict=True)]
        found = self.function.score([prompt for prompt, _ in pairs], [text for _, text in pairs])
        return {
            "rewards": torch.tensor([self._reward(item) for item in found]),
            "scores": torch.tensor([self._score(item) for item in found]),
            "extra_logs": objective_columns(found),
        }

    def _reward(self, item: CompletionReward) -> float:
        reward = self.unscored if item.reward is None else item.reward
        if reward is None:
            raise DataError(
                "a response has no reward",
                got=item.score.reason,
                fix="Say what stands for it (`unscored`)",
            )
        return reward

    def _score(self, item: CompletionReward) -> float:
        score = unit_score(item.score, self.function.spec)
        return min(max(self._reward(item), 0.0), 1.0) if score is None else score
