from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prm.errors import SpecError
from prm.spec import StepFormat
from prm.texts.steps import split_steps

SEPARATORS = st.sampled_from(["\n", "\n\n", " | ", "."])


@given(st.text(alphabet="ab \n.|é🙂", max_size=40), SEPARATORS)
def test_a_step_is_what_stands_at_its_place(response: str, separator: str) -> None:
    steps = split_steps(response, StepFormat(separator=separator))

    assert all(response[step.start : step.end] == step.text for step in steps)
    assert all(step.text == step.text.strip() != "" for step in steps)
    assert all(separator not in step.text for step in steps)


@given(st.text(alphabet="ab \n.|é🙂", max_size=40), SEPARATORS)
def test_only_separators_and_white_space_are_left_out(response: str, separator: str) -> None:
    steps = split_steps(response, StepFormat(separator=separator))

    kept = "".join(step.text for step in steps)
    assert "".join(kept.split()) == "".join("".join(response.split(separator)).split())
    assert [step.start for step in steps] == sorted(step.start for step in steps)


@pytest.mark.parametrize("response", ["", "\n", " \n\n \t"])
def test_a_response_without_text_has_no_step(response: str) -> None:
    assert split_steps(response, StepFormat()) == ()


def test_steps_hold_line_breaks_that_do_not_separate() -> None:
    steps = split_steps("a\nb\n\nc", StepFormat(separator="\n\n"))

    assert [step.text for step in steps] == ["a\nb", "c"]


def test_an_empty_separator_is_refused() -> None:
    with pytest.raises(SpecError, match="separator is empty"):
        StepFormat(separator="")


def test_a_line_feed_of_the_separator_may_come_from_windows() -> None:
    steps = split_steps("a\r\n\r\n b\r\nc\n\n", StepFormat(separator="\n\n"))

    assert [(step.text, step.start) for step in steps] == [("a", 0), ("b\r\nc", 6)]
