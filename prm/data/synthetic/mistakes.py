"""Named kinds of mistakes: each turns a correct step into the wrong steps it could have become."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, get_args

from prm.data.synthetic.equations import Equation, solve

ErrorKind = Literal[
    "off_by_one",
    "digit_slip",
    "digit_swap",
    "dropped_carry",
    "wrong_operand",
    "wrong_operation",
    "wrong_sign",
]
ERROR_KINDS: tuple[ErrorKind, ...] = get_args(ErrorKind)


def off_by_one(step: Equation, numbers: Sequence[int]) -> Iterator[Equation]:
    """Yield the step with a result one too high or too low."""
    for change in (-1, 1):
        yield step._replace(result=step.result + change)


def digit_slip(step: Equation, numbers: Sequence[int]) -> Iterator[Equation]:
    """Yield the step with one digit of the result replaced by any other."""
    digits = str(abs(step.result))
    for place in range(len(digits)):
        for digit in "0123456789":
            yield _with_digits(step, digits[:place] + digit + digits[place + 1 :])


def digit_swap(step: Equation, numbers: Sequence[int]) -> Iterator[Equation]:
    """Yield the step with two neighboring digits of the result exchanged."""
    digits = str(abs(step.result))
    for place in range(len(digits) - 1):
        swapped = digits[place + 1] + digits[place]
        yield _with_digits(step, digits[:place] + swapped + digits[place + 2 :])


def dropped_carry(step: Equation, numbers: Sequence[int]) -> Iterator[Equation]:
    """Yield the step with the carry (or borrow) out of one column forgotten.

    Only for operands that are not negative, as written arithmetic goes column by column.
    """
    if step.left < 0 or step.result < 0:
        return
    unit = 1
    while unit <= max(step.left, step.right):
        carry = _carry(step, unit)
        yield step._replace(result=step.result - carry * unit * 10)
        unit *= 10


def wrong_operand(step: Equation, numbers: Sequence[int]) -> Iterator[Equation]:
    """Yield the correct step for another number of the problem or of an earlier step."""
    for number in numbers:
        yield solve(number, step.operation, step.right)
        yield solve(step.left, step.operation, number)


def wrong_operation(step: Equation, numbers: Sequence[int]) -> Iterator[Equation]:
    """Yield the correct step with addition and subtraction exchanged."""
    if step.operation != "*":
        yield solve(step.left, "-" if step.operation == "+" else "+", step.right)


def wrong_sign(step: Equation, numbers: Sequence[int]) -> Iterator[Equation]:
    """Yield the step with the sign of its result flipped."""
    yield step._replace(result=-step.result)


MISTAKES: Mapping[ErrorKind, Callable[[Equation, Sequence[int]], Iterator[Equation]]] = {
    "off_by_one": off_by_one,
    "digit_slip": digit_slip,
    "digit_swap": digit_swap,
    "dropped_carry": dropped_carry,
    "wrong_operand": wrong_operand,
    "wrong_operation": wrong_operation,
    "wrong_sign": wrong_sign,
}


def _with_digits(step: Equation, digits: str) -> Equation:
    if len(digits) > 1 and digits[0] == "0":
        return step
    return step._replace(result=int(digits) if step.result >= 0 else -int(digits))


def _carry(step: Equation, unit: int) -> int:
    """Return what the column of `unit` carries into the next: negative for a borrow."""
    below = unit * 10
    if step.operation == "*":
        return step.left % below * step.right // below
    left, right = step.left % below, step.right % below
    return (left + right) // below if step.operation == "+" else (left - right) // below
