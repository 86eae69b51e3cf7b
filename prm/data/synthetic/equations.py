"""Equations and the difficulty levels that say which of them may occur."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Literal, NamedTuple

Operation = Literal["+", "-", "*"]
Difficulty = Literal["easy", "default", "hard"]

COMPUTE: Mapping[Operation, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
}


class Equation(NamedTuple):
    """One written step, right or wrong: `left operation right = result`."""

    left: int
    operation: Operation
    right: int
    result: int

    def __str__(self) -> str:
        return f"{self.left} {self.operation} {self.right} = {self.result}"


def solve(left: int, operation: Operation, right: int) -> Equation:
    """Return the correct equation.

    Example:
        >>> str(solve(17, "+", 25))
        '17 + 25 = 42'
    """
    return Equation(left, operation, right, COMPUTE[operation](left, right))


@dataclass(frozen=True, slots=True)
class Level:
    """The numbers and operations that a difficulty uses.

    Args:
        steps: Fewest and most steps of a chain; the number is drawn uniformly.
        operations: Operations to draw from, uniformly among those that stay in range.
        operands: Smallest and largest number added or subtracted, and to start from.
        factors: Smallest and largest number to multiply by.
        results: Smallest and largest result of a step, right or wrong.
    """

    steps: tuple[int, int]
    operations: tuple[Operation, ...]
    operands: tuple[int, int]
    factors: tuple[int, int]
    results: tuple[int, int]

    def rights(self, operation: Operation) -> tuple[int, int]:
        """Return the smallest and largest number that may stand right of `operation`."""
        return self.factors if operation == "*" else self.operands

    def allows(self, step: Equation) -> bool:
        """Tell whether a step of this level may look like `step`, its correctness aside."""
        low, high = self.rights(step.operation)
        lowest, highest = self.results
        return low <= step.right <= high and lowest <= step.result <= highest

    def draw(self, left: int, rng: Random) -> Equation:
        """Draw a correct equation that continues from `left`."""
        while True:
            operation = rng.choice(self.operations)
            step = solve(left, operation, rng.randint(*self.rights(operation)))
            if self.allows(step):
                return step


LEVELS: Mapping[Difficulty, Level] = {
    "easy": Level((2, 3), ("+", "-"), (1, 9), (2, 9), (0, 20)),
    "default": Level((3, 3), ("+", "-"), (1, 20), (2, 9), (0, 50)),
    "hard": Level((4, 8), ("+", "-", "*"), (1, 999), (2, 99), (-9999, 9999)),
}
"""What each difficulty means."""
