"""Types of numpy arrays by what they hold; a docstring says the shape."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
"""Numbers; NaN is a missing one."""

Indices = NDArray[np.int64]
"""Whole numbers: places, or counts."""

Mask = NDArray[np.bool_]
"""Which of something."""
