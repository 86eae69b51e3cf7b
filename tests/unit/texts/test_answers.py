from __future__ import annotations

import pytest

from prm.errors import ConfigError
from prm.texts.answers import canonical_answer, extractor


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"So \boxed{14}.", "14"),
        (r"First \boxed{1}, then \boxed{21}", "21"),
        (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
        (r"\fbox{x + 1}", None),
        (r"\boxed{1} and \boxed{2", "1"),
        (r"\boxed{}", ""),
        ("no box = 3", None),
    ],
)
def test_boxed(response: str, answer: str | None) -> None:
    assert extractor("boxed")(response) == answer


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("2 + 3 = 5\n5 * 4 = 20", "20"),
        ("2 + 3 = 5\nso it is 7", "5"),
        ("total = $1,234.50 in all", "2469/2"),
        ("x = -3.", "-3"),
        ("x =\u22123", "-3"),
        ("p = 1/2", "1/2"),
        ("version = 1.2.3", None),
        ("name = x2", None),
        ("x = 3y + 4", "3"),
        ("nothing", None),
        ("", None),
    ],
)
def test_number(response: str, answer: str | None) -> None:
    assert extractor("number")(response) == answer


def test_auto_takes_the_box_if_there_is_one() -> None:
    assert extractor()("1 + 1 = 2\n" r"\boxed{3}") == "3"
    assert extractor()("1 + 1 = 2") == "2"


def test_regular_expression_takes_its_last_match() -> None:
    find = extractor(r"#### (.+)")
    assert find("#### 1\n#### 1,000") == "1000"
    assert find("= 3") is None


@pytest.mark.parametrize("kind", ["(", "no group", "(a)(b)", ""])
def test_neither_a_kind_nor_a_regular_expression(kind: str) -> None:
    with pytest.raises(ConfigError, match="one group"):
        extractor(kind)


@pytest.mark.parametrize(
    "same",
    [
        ("14", "14.0", " 14 ", "$14$", "+14", "14.", "28/2", r"\frac{28}{2}"),
        ("1000", "1,000", "1000.00"),
        ("0", "-0", "0.0"),
        ("1/2", "0.5", r"\dfrac12".replace("12", "{1}{2}"), "2/4"),
        ("yes", r"\text{yes}", "yes."),
        ("(1,2)", "( 1, 2 )", r"\left(1,\,2\right)"),
    ],
)
def test_equal_answers_share_a_form(same: tuple[str, ...]) -> None:
    assert {canonical_answer(text) for text in same} == {same[0]}


@pytest.mark.parametrize(
    ("first", "second"), [("1", "21"), ("12", "1,2"), ("1/0", "0"), ("x", "X"), ("1e3", "1000")]
)
def test_different_answers_stay_apart(first: str, second: str) -> None:
    assert canonical_answer(first) != canonical_answer(second)


def test_endless_numbers_are_left_alone() -> None:
    digits = "9" * 5000
    assert canonical_answer(digits) == digits
    assert extractor()(f"= {digits}") == digits
