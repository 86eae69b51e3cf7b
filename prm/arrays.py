"""Types of numpy arrays by what they hold, and what tensors in a dataclass have in common."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Array = NDArray[np.float64]
"""Numbers; NaN is a missing one."""

Indices = NDArray[np.int64]
"""Whole numbers: places, or counts."""

Mask = NDArray[np.bool_]
"""Which of something."""


class OnDevice:
    """A dataclass whose tensors, and whose parts with tensors, move to a device together."""

    __slots__ = ()

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Return the same values with all tensors on `device`."""

        def moved(value: Any) -> Any:
            if isinstance(value, list | tuple) and value and hasattr(value[0], "to"):
                return type(value)(map(moved, value))
            return value.to(device, non_blocking=non_blocking) if hasattr(value, "to") else value

        values: Any = self
        result: Self = replace(
            values, **{f.name: moved(getattr(self, f.name)) for f in fields(values)}
        )
        return result
