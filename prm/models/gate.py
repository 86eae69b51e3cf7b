"""The gate: weights of the objectives that depend on the prompt."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from prm.models.heads import Float32Module

MIN_SCALE = 1e-6


class Gate(Float32Module):
    """A two-layer perceptron from the state at a prompt's last token to weights of the objectives.

        g = softmax(W_2 relu(W_1 (h - center) / scale) / temperature)

    The last token of a prompt sees all of the prompt and nothing of a response, so all responses to
    a prompt get the same weights. A new gate weighs all objectives equally. Like heads, gates are
    float32 whatever the precision of the backbone.

    Args:
        hidden_size: Width of the hidden states.
        num_objectives: Number of objectives.
        width: Width of the hidden layer.
        temperature: Above 0; the higher, the closer the weights stay to equal.

    Attributes:
        sizes: `hidden_size` and `num_objectives`.

    Example:
        >>> Gate(8, 4)(torch.randn(1, 8))
        tensor([[0.2500, 0.2500, 0.2500, 0.2500]], grad_fn=<SoftmaxBackward0>)

    Source: Wang et al. 2024 (arXiv 2406.12845), section 3.
    """

    center: Tensor
    scale: Tensor
    temperature: Tensor

    def __init__(
        self, hidden_size: int, num_objectives: int, width: int = 64, temperature: float = 1.0
    ) -> None:
        super().__init__()
        self.sizes = (hidden_size, num_objectives)
        output = nn.Linear(width, num_objectives, dtype=torch.float32)
        nn.init.zeros_(output.weight)
        nn.init.zeros_(output.bias)
        first = nn.Linear(hidden_size, width, dtype=torch.float32)
        self.layers = nn.Sequential(first, nn.ReLU(), output)
        self.register_buffer("center", torch.zeros(hidden_size, dtype=torch.float32))
        self.register_buffer("scale", torch.ones(hidden_size, dtype=torch.float32))
        self.register_buffer("temperature", torch.tensor(temperature, dtype=torch.float32))

    def standardize(self, states: Tensor) -> None:
        """Fit center and scale to states `[prompt, hidden]`, at least two."""
        self.center.copy_(states.mean(dim=0))
        self.scale.copy_(states.std(dim=0).clamp(min=MIN_SCALE))

    def forward(self, states: Tensor) -> Tensor:
        """Map states `[..., hidden]` to weights `[..., objective]` that sum to 1, float32."""
        with torch.autocast(states.device.type, enabled=False):
            logits: Tensor = self.layers((states.float() - self.center) / self.scale)
            return (logits / self.temperature).softmax(dim=-1)

    @classmethod
    def of_state(cls, state: dict[str, Tensor]) -> Self:
        """Rebuild a gate from its `state_dict`.

        Raises:
            KeyError: A tensor is missing.
            RuntimeError: Shapes do not fit each other.
        """
        width, hidden_size = state["layers.0.weight"].shape
        gate = cls(hidden_size, len(state["layers.2.bias"]), width)
        gate.load_state_dict(state)
        return gate
