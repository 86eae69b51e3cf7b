"""Heads: from the hidden state at a read position to the columns of all objectives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Self

import torch
from torch import Tensor, nn

HeadKind = Literal["linear", "mlp"]


class Float32Module(nn.Module):
    """A module whose weights stay float32 when the model around it is cast."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move with the model, and stay float32 when the model is cast."""

        def keep_float32(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            half = moved.dtype in (torch.bfloat16, torch.float16)
            return tensor.to(moved.device) if half else moved

        super()._apply(keep_float32, recurse)  # type: ignore[no-untyped-call]
        return self


class Heads(Float32Module):
    """One linear map, or a two-layer perceptron, to the head columns of all objectives.

    Weights and outputs are float32 whatever the precision of the backbone: in bfloat16, rewards
    0.02 apart would tie nearly half of the time.

    Args:
        hidden_size: Width of the hidden states.
        num_columns: Columns of all objectives together.
        kind: `linear`, which stock transformers and serving engines can load, or `mlp`
            (`linear -> ReLU -> linear`), which only prm reads back.
        bias: Whether the last layer has a bias; stock sequence classifiers on decoders have none.
    """

    def __init__(
        self,
        hidden_size: int,
        num_columns: int,
        kind: HeadKind = "linear",
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.kind = kind
        output = nn.Linear(hidden_size, num_columns, bias=bias, dtype=torch.float32)
        nn.init.normal_(output.weight, std=hidden_size**-0.5 / 10)
        if bias:
            nn.init.zeros_(output.bias)
        self.layers: nn.Module = (
            output
            if kind == "linear"
            else nn.Sequential(
                nn.Linear(hidden_size, hidden_size, dtype=torch.float32), nn.ReLU(), output
            )
        )

    def forward(self, states: Tensor) -> Tensor:
        """Map hidden states `[read, hidden]` to columns `[read, column]`, float32."""
        with torch.autocast(states.device.type, enabled=False):
            columns: Tensor = self.layers(states.float())
        return columns

    def extra_repr(self) -> str:
        return f"kind={self.kind!r}"
