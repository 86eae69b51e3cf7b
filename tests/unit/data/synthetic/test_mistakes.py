"""Each kind of mistake, by hand, and the columns of written arithmetic."""

from __future__ import annotations

import pytest

from prm.data.synthetic.equations import Operation, solve
from prm.data.synthetic.mistakes import MISTAKES, ErrorKind


def results(kind: ErrorKind, left: int, operation: Operation, right: int) -> set[int]:
    step = solve(left, operation, right)
    return {wrong.result for wrong in MISTAKES[kind](step, [])} - {step.result}


def test_off_by_one_goes_both_ways() -> None:
    assert results("off_by_one", 17, "+", 25) == {41, 43}


def test_digit_slip_changes_one_digit_and_keeps_the_length() -> None:
    slips = results("digit_slip", 17, "+", 25)
    assert slips == {12, 22, 32, 52, 62, 72, 82, 92} | {40, 41, 43, 44, 45, 46, 47, 48, 49}


def test_digit_swap_exchanges_neighbors_and_writes_no_leading_zero() -> None:
    assert results("digit_swap", 100, "+", 24) == {214, 142}
    assert results("digit_swap", 20, "+", 20) == set()


@pytest.mark.parametrize(
    ("left", "operation", "right", "expected"),
    [
        (17, "+", 25, {32}),
        (58, "+", 67, {115, 25}),
        (99, "+", 1, {90, 0}),
        (42, "-", 17, {35}),
        (100, "-", 1, {109, 199}),
        (47, "*", 8, {326, 76}),
        (12, "+", 25, set()),
    ],
)
def test_dropped_carry_loses_one_column(
    left: int, operation: Operation, right: int, expected: set[int]
) -> None:
    assert results("dropped_carry", left, operation, right) == expected


def test_dropped_carry_leaves_negative_numbers_alone() -> None:
    assert results("dropped_carry", -17, "+", 25) == set()


def test_wrong_operand_computes_rightly_with_another_number() -> None:
    step = solve(17, "+", 25)
    texts = [str(wrong) for wrong in MISTAKES["wrong_operand"](step, [8])]
    assert texts == ["8 + 25 = 33", "17 + 8 = 25"]


@pytest.mark.parametrize(
    ("operation", "expected"), [("+", ["17 - 25 = -8"]), ("-", ["17 + 25 = 42"]), ("*", [])]
)
def test_wrong_operation_exchanges_plus_and_minus(
    operation: Operation, expected: list[str]
) -> None:
    wrong = MISTAKES["wrong_operation"](solve(17, operation, 25), [])
    assert [str(step) for step in wrong] == expected


def test_wrong_sign_flips_the_result() -> None:
    assert results("wrong_sign", 17, "-", 25) == {8}
