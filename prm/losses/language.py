"""Next-token loss on the same forward pass, a regularizer of reward models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from prm.errors import ConfigError


class LanguageModelLoss:
    """Next-token cross-entropy on the tokens of steps or responses, added to the other losses.

    Keeping the backbone a language model regularizes the reward it shares its states with.

    Args:
        loss_weight: Factor of the mean loss per token, above 0.
        tokens: `good`: tokens of steps whose reward objective is labeled at least 0.5, and of
            responses that no comparison ranks below another. `all`: tokens of all of them.

    Source: Yang et al. 2024, "Regularizing Hidden States Enables Learning Generalizable Reward
    Model for LLMs" (GRM), arXiv 2406.10216.
    """

    def __init__(
        self,
        loss_weight: float = 0.1,
        tokens: Literal["good", "all"] = "good",
    ) -> None:
        if not 0 < loss_weight < float("inf"):
            raise ConfigError("loss_weight is wrong", expected="a number above 0", got=loss_weight)
        if tokens not in ("good", "all"):
            raise ConfigError("tokens is wrong", expected="'good' or 'all'", got=tokens)
        self.loss_weight = loss_weight
        self.tokens = tokens

    def selected_steps(self, labels: Tensor) -> Tensor:
        """Return which steps count, shape `[read]`, bool, from their labels (NaN: unlabeled)."""
        return labels >= 0.5 if self.tokens == "good" else torch.ones_like(labels).bool()

    def selected_responses(self, preferred: Tensor) -> Tensor:
        """Return which responses count, shape `[read]`, bool, from whether none beats them."""
        return preferred if self.tokens == "good" else torch.ones_like(preferred)


NextTokenLogits = Callable[[Tensor], Tensor]
"""Maps hidden states `[token, hidden]` to logits over the next token, `[token, vocabulary]`."""


def next_token_loss(
    states: Tensor,
    logits: NextTokenLogits,
    targets: Tensor,
    sources: Tensor,
    chunk: int = 2048,
) -> Tensor:
    """Return the summed cross-entropy of some tokens, each predicted from an earlier state.

    `sum_i -log softmax(f(h_{s_i}))[x_i]`, in float32, over chunks whose logits are recomputed in
    the backward pass.

    Args:
        states: Hidden states, shape `[token, hidden]`.
        logits: `f`, the language model's own map from states to finite logits.
        targets: Token ids x_i, shape `[target]`.
        sources: Index s_i of the state that predicts each target, shape `[target]`.
        chunk: Targets whose logits over the vocabulary exist at the same time.

    Returns:
        A scalar; 0, still connected to states and weights, if there is no target.
    """
    if targets.numel() == 0:
        return states.sum() * 0.0 + logits(states[:1]).sum() * 0.0
    losses = [
        checkpoint(_chunk_loss, states[source], logits, target, use_reentrant=False)
        for source, target in zip(sources.split(chunk), targets.split(chunk), strict=True)
    ]
    return torch.stack(losses).sum()


def _chunk_loss(states: Tensor, logits: NextTokenLogits, targets: Tensor) -> Tensor:
    return functional.cross_entropy(logits(states).float(), targets, reduction="sum")
