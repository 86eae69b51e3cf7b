"""Weights of objectives that are learned beside them, from how noisy each one is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from prm.errors import ConfigError


class UncertaintyWeights(nn.Module):
    """One learned log-variance per objective: the noisier its labels, the less its loss counts.

    The total is `sum_n [ exp(-s_n) L_n + s_n / 2 ]`, where `s_n` starts at 0 and `L_n` is the mean
    loss of objective n over the optimizer batch. Both parts are exposed, so that sums can be
    accumulated over micro-batches: `factor(n)` belongs to the loss, `penalty(names)` is added once.

    Args:
        names: The objectives, each once.

    Raises:
        ConfigError: There is none, or one is named twice.

    Example:
        >>> weights = UncertaintyWeights(["helpfulness", "safety"])
        >>> weights.factor("safety").item(), weights.penalty(["safety"]).item()
        (1.0, 0.0)

    Source: Kendall, Gal and Cipolla 2018, "Multi-task learning using uncertainty to weigh losses",
    equation 10, with `s = log sigma^2`.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        if not names or len(set(names)) != len(names):
            raise ConfigError(
                "objectives to weight are wrong", expected="one or more, each once", got=list(names)
            )
        self.names = tuple(names)
        self.log_variances = nn.Parameter(torch.zeros(len(names)))

    def factor(self, name: str) -> Tensor:
        """Return `exp(-s_n)`, a scalar."""
        return torch.exp(-self.log_variances[self._index(name)])

    def penalty(self, names: Sequence[str]) -> Tensor:
        """Return the sum of `s_n / 2` over some objectives, a scalar; 0 with a graph if none."""
        indices = [self._index(name) for name in names]
        return self.log_variances[indices].sum() / 2

    def extra_repr(self) -> str:
        return f"names={self.names!r}"

    def _index(self, name: str) -> int:
        if name not in self.names:
            expected = "one of " + ", ".join(self.names)
            raise ConfigError("objective has no learned weight", expected=expected, got=name)
        return self.names.index(name)
