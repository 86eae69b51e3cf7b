"""Columns of steps: paths into rows, and labels as words, on scales and of several raters."""

from __future__ import annotations

from typing import Any

import pytest

from prm.data.formats.cells import read_cell
from prm.data.formats.chain_columns import ChainColumns
from prm.errors import ConfigError, DataError

Row = dict[str, Any]

NESTED: Row = {
    "turns": [{"text": "Hi", "notes": ["a", "b"]}, {"text": "Hello", "notes": []}],
    "a.b": 1,
    "a": {"b": 2, "c.d": 3, "e": None, "json": '{"x": [4, 5]}'},
}


def only(format: Any, row: Row) -> Any:
    (record,) = format.records(row, "f:1")
    return record


class TestPaths:
    @pytest.mark.parametrize(
        ("path", "value"),
        [
            ("turns.0.text", "Hi"),
            ("turns.-1.text", "Hello"),
            ("turns.*.text", ["Hi", "Hello"]),
            ("turns.*.notes.*", [["a", "b"], []]),
            ("a.b", 1),
            ("a.c.d", 3),
            ("a.e", None),
            ("a.e.f.0", None),
            ("a.json.x.1", 5),
        ],
    )
    def test_a_path_leads_into_a_row(self, path: str, value: Any) -> None:
        assert read_cell(NESTED, path, "f:1") == value

    @pytest.mark.parametrize(
        ("path", "message"),
        [
            ("turn.0", r"no column 'turn\.0': expected one of turns, a\.b, a\."),
            ("turns.2.text", r"'turns\.2\.text': expected in 'turns', 0 to 1, or \*"),
            ("turns.0.txt", r"expected in 'turns\.0', one of text, notes"),
            ("turns.0.text.x", r"expected in 'turns\.0\.text', an object or a list"),
            ("turns.*.x", r"expected in 'turns\.\*', one of text, notes"),
            ("turns.one", r"expected in 'turns', 0 to 1"),
            ("a.b.c", r"expected in 'a\.b', an object"),
        ],
    )
    def test_a_wrong_path_says_what_is_there(self, path: str, message: str) -> None:
        with pytest.raises(DataError, match=message):
            read_cell(NESTED, path, "f:1")


class TestStepLabels:
    @pytest.mark.parametrize(
        ("options", "cell", "labels"),
        [
            ({"values": {"+": 1, "-": 0}}, ["+", "-", "+"], (1, 0, 1)),
            (
                {"values": {"correct": 1, "incorrect": 0, "neutral": None}},
                ["Correct", "neutral", "incorrect "],
                (1, None, 0),
            ),
            ({"values": {"1": 1, "0": 0.5, "-1": 0}}, [1, 0, -1.0], (1, 0.5, 0)),
            ({"values": {"true": 0, "false": 1}}, [True, False, None], (0, 1, None)),
            ({"scales": (1, 5)}, [1, "5", 3], (0, 1, 0.5)),
            ({"scales": (5, 1)}, [1, 5, None], (1, 0, None)),
            ({}, '[true, "false", 0.5]', (1, 0, 0.5)),
        ],
    )
    def test_words_and_scales(self, options: Row, cell: Any, labels: Any) -> None:
        given: Row = {name: {"correctness": value} for name, value in options.items()}
        row = {"prompt": "p", "completions": ["a", "b", "c"], "l": cell}
        chain = only(ChainColumns(labels="l", **given), row)
        assert chain.labels == {"correctness": labels}

    def test_labels_of_steps_that_are_objects(self) -> None:
        steps = [{"t": "a", "r": [1, 0]}, {"t": "b", "r": []}, {"t": ["c", "d"], "r": [1, None]}]
        reading = ChainColumns(prompt="q", completions="s.*.t", labels="s.*.r.*")
        chain = only(reading, {"q": "p", "s": steps})
        assert chain.completions == ("a", "b", "c\nd")
        assert chain.labels == {"correctness": (0.5, None, 1.0)}

    @pytest.mark.parametrize(
        ("options", "cell", "message"),
        [
            ({}, ["+", "-"], r"'l' is wrong: expected a number.*option `values`"),
            ({}, [[1], [0]], "'l' is wrong"),
            ({}, [1, -1], "label 1 of 'correctness' is wrong"),
            ({"values": {"+": 1}}, ["+", "-"], r"expected one of \+, got -"),
            ({"scales": (1, 5)}, [1, 6], "expected a number from 1 to 5, got 6"),
            ({}, "+-", "labels of 'correctness' are wrong"),
        ],
    )
    def test_other_cells_are_refused(self, options: Row, cell: Any, message: str) -> None:
        given: Row = {name: {"correctness": value} for name, value in options.items()}
        row = {"prompt": "p", "completions": ["a", "b"], "l": cell}
        with pytest.raises(DataError, match=message):
            ChainColumns(labels="l", **given).records(row, "f:1")

    def test_further_objectives_have_words_too(self) -> None:
        reading = ChainColumns(objectives={"new": "n"}, values={"new": {"yes": 1, "no": 0}})
        row = {"prompt": "p", "completions": ["a", "b"], "n": ["yes", "no"]}
        assert only(reading, row).labels == {"new": (1.0, 0.0)}

    def test_what_no_error_is_called(self) -> None:
        reading = ChainColumns(first_error="e", index_base=1, no_error=[0, "none"])
        row = {"prompt": "p", "completions": ["a", "b"]}
        for cell in (0, "0", "None", 0.0):
            assert only(reading, row | {"e": cell}).first_error() == -1
        assert only(reading, row | {"e": 2}).first_error() == 1
        with pytest.raises(DataError, match="a step from 1 to 2, or one of 0, none"):
            reading.records(row | {"e": -1}, "f:1")

    @pytest.mark.parametrize(
        "options",
        [
            {"values": {"correctness": {"+": 1}}},
            {"labels": "l", "values": {"other": {"+": 1}}},
            {
                "labels": "l",
                "values": {"correctness": {"+": 1}},
                "scales": {"correctness": (0, 1)},
            },
            {"labels": "l", "scales": {"correctness": (1, 1)}},
            {"no_error": [0]},
        ],
    )
    def test_wrong_options(self, options: Row) -> None:
        with pytest.raises(ConfigError):
            ChainColumns(**options)
