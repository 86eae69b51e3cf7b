"""`MemoryStore`: units and items in lists, for data that fit into memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from prm.data.items import Facts, LabeledItem, Reading, labeled
from prm.data.splits import split_by_group
from prm.trees.prompts import DroppedRecord
from prm.trees.tokenize import TreeBuilder
from prm.trees.units import Unit

Value = TypeVar("Value")


class MemoryStore:
    """Holds units and items in lists; has the methods of `RecordStore`."""

    def units(self, reading: Reading) -> list[Unit]:
        """Return the units."""
        return list(reading)

    def split(
        self, units: Sequence[Unit], shares: dict[str, float], seed: int
    ) -> dict[str, list[Unit]]:
        """Split units by problem."""
        return split_by_group(units, shares, seed)

    def items(
        self, units: Sequence[Unit], builder: TreeBuilder
    ) -> tuple[list[LabeledItem], Facts, list[tuple[Unit, str]]]:
        """Return the items of units, their facts, and the units without one, with the reason."""
        items: list[LabeledItem] = []
        dropped = []
        for unit, item in zip(units, labeled(builder, units), strict=True):
            if isinstance(item, DroppedRecord):
                dropped.append((unit, str(item)))
            else:
                items.append(item)
        return items, Facts.of(items), dropped

    def take(self, values: Sequence[Value], places: NDArray[np.int64]) -> list[Value]:
        """Return some of the values, in the order of `places`."""
        return [values[place] for place in places]
