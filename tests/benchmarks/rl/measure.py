"""What is measured of a policy: gold values, proxy reward, divergence from its start, length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from prm.rl.reward_function import RewardFunction
from tests.benchmarks.rl.policy import IGNORED, collate, load_policy, sample
from tests.benchmarks.rl.tasks import Task


class Examiner:
    """Measures policies on the held-out prompts of a task.

    Args:
        task: The task.
        start: Folder of the policy that training starts from.
        proxy: The reward that policies are trained with.
        seed: Seed of the samples.
    """

    def __init__(self, task: Task, start: Path, proxy: RewardFunction, seed: int) -> None:
        self.task = task
        self.proxy = proxy
        self.seed = seed
        self.start, self.tokenizer = load_policy(start)

    def examine(self, policy: Any, num_prompts: int) -> list[dict[str, Any]]:
        """Return a row per held-out prompt, each with one sampled response."""
        prompts = self.task.distinct_prompts("test", num_prompts)
        with torch.random.fork_rng(devices=[]):
            limit = self.task.max_new_tokens
            responses = sample(policy, self.tokenizer, prompts, limit, self.seed)
        scores = self.proxy.score(prompts, responses)
        ratios = self.log_ratios(policy, prompts, responses)
        return [
            {
                "prompt": prompt,
                "response": response,
                "gold": dict(self.task.gold(prompt, response)),
                "utility": dict(score.objectives),
                "proxy": score.reward,
                "kl": ratio,
                "length": len(self.tokenizer(response).input_ids),
            }
            for prompt, response, score, ratio in zip(
                prompts, responses, scores, ratios, strict=True
            )
        ]

    @torch.inference_mode()
    def log_ratios(
        self, policy: Any, prompts: Sequence[str], responses: Sequence[str]
    ) -> list[float]:
        """Return log p(response) - log p_start(response), in nats; the mean is the divergence."""
        pairs = list(zip(prompts, responses, strict=True))
        ids, targets = collate(self.tokenizer, pairs)
        targets = targets[:, 1:]
        chosen = targets.clamp(min=0).unsqueeze(-1)
        ratios = torch.zeros(len(pairs))
        for model, sign in ((policy, 1), (self.start, -1)):
            logits = model(input_ids=ids).logits[:, :-1].log_softmax(-1)
            log_probabilities = logits.gather(-1, chosen).squeeze(-1)
            ratios += sign * log_probabilities.where(targets != IGNORED, 0.0).sum(-1)
        return [float(ratio) for ratio in ratios]


def flat(row: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the numbers of a row by name: `gold/safety`, `utility/safety`, `proxy`, ..."""
    nested = {f"{kind}/{k}": v for kind in ("gold", "utility") for k, v in row[kind].items()}
    return nested | {name: row[name] for name in ("proxy", "kl", "length")}


def means(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean of each number of the rows, over the rows that have it."""
    columns: dict[str, list[float]] = {}
    for row in rows:
        for name, value in flat(row).items():
            if value is not None:
                columns.setdefault(name, []).append(value)
    return {name: fmean(values) for name, values in columns.items()}
