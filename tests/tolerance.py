"""How close floats must be that are the same number, computed in another way.

The same inputs in the same shapes, on as many threads, give the same bits: tests of loading, of
continuing and of resuming compare those. In another batch, on other ranks or threads, or with the
kernels of another processor, sums are taken in another order, and what rounding leaves is in
proportion to the largest values that took part. So the rule is one number for each type, relative
to the size of what is compared; a score below 1 counts as 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

FLOAT32 = 1e-5
"""84 units in the last place; rounding takes up to some 20 of them in the models of the tests."""

BFLOAT16 = 2e-2
"""Two and a half units in the last place; rounding takes one."""

GRADIENT = 1e-4
"""Of the largest element of a parameter's gradient, which is a sum over many tokens.

To it comes a hundredth of that of the largest gradient of all: where large terms cancel to a small
sum, their rounding remains.
"""

TRAINED = 1e-4
"""Of weights that were trained with a learning rate of 0.01: a hundredth of a step.

Adam moves a weight by about the learning rate however small its gradient is, and makes the rounding
of gradients near zero as large as it made them.
"""


def near(expected: Any, tolerance: float = FLOAT32) -> Any:
    """Return what equals a number, or a list or dict of numbers, up to rounding."""
    return pytest.approx(expected, rel=tolerance, abs=tolerance)


def assert_same_gradients(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Compare the gradients of all parameters of a model."""
    sizes = [gradient.abs().max().item() for gradient in expected]
    for ours, theirs, size in zip(actual, expected, sizes, strict=True):
        allowed = GRADIENT * (size + 0.01 * max(sizes))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=allowed)
