"""Chains: what is accepted, what is refused, and what labels mean."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prm.errors import DataError
from prm.records import CORRECTNESS, Chain, prompt_text


def test_a_plain_list_of_labels_is_correctness() -> None:
    chain = Chain("q", ["a", "b"], [True, None])
    assert chain.labels == {CORRECTNESS: (1.0, None)}


def test_soft_labels_keep_their_value() -> None:
    assert Chain("q", ["a"], [0.99]).labels[CORRECTNESS] == (0.99,)


def test_several_objectives() -> None:
    chain = Chain("q", ["a"], {"correctness": [1], "redundancy": [None]})
    assert chain.labels["redundancy"] == (None,)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([1, 0, 1], 1),
        ([1, 1, 1], -1),
        ([1, None, 0], None),
        ([0, None, None], 0),
        ([1, 1, None], None),
        ([0.5, 0.49, 1], 1),
        (None, None),
    ],
)
def test_first_error(labels: list[float | None] | None, expected: int | None) -> None:
    assert Chain("q", ["a", "b", "c"], labels).first_error() == expected


def test_first_error_of_another_objective_and_threshold() -> None:
    chain = Chain("q", ["a", "b"], {"clarity": [0.9, 0.7]})
    assert chain.first_error() is None
    assert chain.first_error("clarity") == -1
    assert chain.first_error("clarity", threshold=0.8) == 1


@pytest.mark.parametrize(
    "label", [-0.1, 1.1, math.nan, math.inf, "1", "good", -100, [1.0], {"a": 1}, 1 + 0j]
)
def test_a_label_that_is_no_probability_is_refused(label: Any) -> None:
    with pytest.raises(DataError, match=r"label 1 of 'correctness' is wrong: expected a prob"):
        Chain("q", ["a", "b"], [1, label])


@pytest.mark.parametrize("labels", [[1], [1, 0, 1], [], "11", 3, {CORRECTNESS: 1}])
def test_labels_that_do_not_match_the_steps_are_refused(labels: Any) -> None:
    with pytest.raises(DataError, match="correctness"):
        Chain("q", ["a", "b"], labels)


@pytest.mark.parametrize("steps", [[], ["", " \n"], "one text", None, [1], ["a", None], b"ab"])
def test_wrong_steps_are_refused(steps: Any) -> None:
    with pytest.raises(DataError, match="completions"):
        Chain("q", steps)


@pytest.mark.parametrize("prompt", [None, 3, [], [{"role": "user"}], ["hello"], [{"content": "a"}]])
def test_wrong_prompts_are_refused(prompt: Any) -> None:
    with pytest.raises(DataError, match="'prompt'"):
        Chain(prompt, ["a"])


def test_errors_name_the_file_line_and_row() -> None:
    with pytest.raises(DataError, match=r"^a\.jsonl:3, row 'r7': field 'completions' has no step"):
        Chain("q", [], id="r7", origin="a.jsonl:3")


def test_empty_steps_keep_their_place() -> None:
    assert Chain("q", ["a", "", "b"], [1, None, 0]).completions == ("a", "", "b")


def test_a_conversation_is_copied_and_joined_as_text() -> None:
    message = {"role": "user", "content": "hello"}
    chain = Chain([{"role": "system", "content": "be brief"}, message], ["a"])
    message["content"] = "changed"
    assert prompt_text(chain.prompt) == "be brief\n\nhello"
    assert chain.group == "be brief\n\nhello"


def test_group_defaults_to_the_prompt() -> None:
    assert Chain("q", ["a"]).group == "q"
    assert Chain("q", ["a"], group="problem 3").group == "problem 3"


def test_origin_is_no_part_of_equality() -> None:
    assert Chain("q", ["a"], [1], origin="x:1") == Chain("q", ["a"], [1], origin="y:2")
    assert Chain("q", ["a"], [1]) != Chain("q", ["a"], [0])


def test_with_labels_keeps_everything_else() -> None:
    chain = Chain("q", ["a"], [1], id="i", source="s", group="g", metadata={"k": 1}, origin="f:1")
    other = chain.with_labels({"clarity": [0.5]})
    assert other.labels == {"clarity": (0.5,)}
    assert other.with_labels(chain.labels) == chain
    assert other.origin == "f:1"


labels = st.none() | st.floats(0, 1)


@given(st.lists(st.tuples(st.text(max_size=5), labels), min_size=1, max_size=5))
def test_rows_come_back_as_the_same_chain(steps: list[tuple[str, float | None]]) -> None:
    texts = [text for text, _ in steps] + ["end"]
    values = [value for _, value in steps] + [None]
    chain = Chain("q", texts, values, id="i", metadata={"n": 1})
    row = json.loads(json.dumps(chain.to_row()))
    again = Chain(
        row["prompt"], row["completions"], row["labels"], id=row["id"], metadata=row["metadata"]
    )
    assert again == chain
