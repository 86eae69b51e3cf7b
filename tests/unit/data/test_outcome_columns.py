"""Columns of responses: lists, raters, conversations, and options that do not go together."""

from __future__ import annotations

import json
from typing import Any

import pytest

from prm.data.checks.responses import check_outcomes
from prm.data.formats.base import GRADES
from prm.data.formats.chain_columns import ChainColumns
from prm.data.formats.outcome_columns import OutcomeColumns
from prm.data.formats.ultra_feedback import UltraFeedback
from prm.data.sources.source import Source
from prm.errors import ConfigError, DataError

Row = dict[str, Any]

ASK = {"role": "user", "content": "Name a prime."}


def only(format: Any, row: Row) -> Any:
    (record,) = format.records(row, "f:1")
    return record


def judged(**options: Any) -> OutcomeColumns:
    return OutcomeColumns(**{"better": "w", "objective": "x"} | options)


class TestListsAndRaters:
    def test_ranks_count_from_0_or_1(self) -> None:
        reading = OutcomeColumns(responses="r", ranks="k", objective="x")
        row = {"prompt": "p", "r": ["a", "b", "c"]}
        for ranks in ([1, 0, 1], [2, 1, 2], ["2", "1", "2"], [2.0, 1.0, 2.0]):
            assert only(reading, row | {"k": ranks}).ranks == (1, 0, 1)
        for ranks in ([0, 1], [1, 3, 2.5], [3, 1, 4], [5, 3, 1], ["a", "b", "c"]):
            with pytest.raises(DataError, match="is wrong"):
                reading.records(row | {"k": ranks}, "f:1")

    def test_scores_rank_and_missing_ones_are_left_out(self) -> None:
        reading = OutcomeColumns(responses="r", scores="k", objective="x")
        row = {"prompt": "p", "r": ["a", "b", "c", "d"]}
        ranking = only(reading, row | {"k": [1, 2.5, None, 1]})
        assert (ranking.responses, ranking.ranks) == (("a", "b", "d"), (1, 0, 1))
        with pytest.raises(DataError, match="two or more"):
            reading.records(row | {"k": [1, None, None, None]}, "f:1")
        with pytest.raises(DataError, match="4 cells, one per response"):
            reading.records(row | {"k": [1, 2, 3]}, "f:1")

    def test_ratings_of_a_list_are_records_of_their_own(self) -> None:
        reading = OutcomeColumns(
            responses="r", ratings={"x": "k", "y": "s"}, scales={"y": (1, 5)}, id="i"
        )
        row = {"prompt": "p", "r": ["a", "b"], "k": [3, None], "s": ["5", 1], "i": 7}
        first, second = Source([row], reading)
        assert (first.id, first.response, first.values) == ("7.0", "a", {"x": 3, "y": 1})
        assert (second.id, second.response, second.values) == ("7.1", "b", {"x": None, "y": 0})

    def test_raters_of_a_response_have_a_mean_and_their_agreement(self) -> None:
        reading = OutcomeColumns(response="r", ratings={"x": ["k1", "k2"], "y": "s.*.v"})
        row = {"prompt": "p", "r": "a", "k1": 4, "k2": 1, "s": [{"v": 1}, {"v": None}]}
        rating = only(reading, row)
        assert rating.values == {"x": 2.5, "y": 1}
        assert rating.metadata[GRADES] == {"x": [4, 1]}
        findings = check_outcomes([rating, only(reading, row | {"r": "b"})]).findings
        (agreement,) = (found for found in findings if found.kind == "rater_agreement")
        assert agreement.table[0]["opinions"] == 4

    def test_lists_of_chosen_and_rejected(self) -> None:
        reading = OutcomeColumns(chosen="c", rejected="d", objective="x")
        ranking = only(reading, {"prompt": "p", "c": "a", "d": ["b", "c"]})
        assert (ranking.responses, ranking.ranks) == (("a", "b", "c"), (0, 1, 1))
        with pytest.raises(DataError, match="two or more"):
            reading.records({"prompt": "p", "c": [], "d": ["b"]}, "f:1")

    def test_a_response_that_looks_like_json_stays_text(self) -> None:
        reading = OutcomeColumns(chosen="c", rejected="d", objective="x")
        assert only(reading, {"prompt": "p", "c": '["7"]', "d": "[]"}).responses == ('["7"]', "[]")

    @pytest.mark.parametrize("cell", [None, 3, {"a": "b"}])
    def test_what_is_no_response(self, cell: Any) -> None:
        kinds: list[Row] = [{"response": "c"}, {"chosen": "c", "rejected": "d", "objective": "x"}]
        for options in kinds:
            with pytest.raises(DataError, match="is wrong"):
                OutcomeColumns(**options).records({"prompt": "p", "c": cell, "d": "b"}, "f:1")


class TestConversations:
    def talk(self, text: str, *, shared: bool = False) -> list[Row]:
        if shared:
            turns = (("human", "Name a prime."), ("gpt", text))
            return [{"from": who, "value": said} for who, said in turns]
        return [ASK, {"role": "assistant", "content": text}]

    @pytest.mark.parametrize("shared", [True, False])
    @pytest.mark.parametrize("as_text", [True, False])
    def test_responses_that_hold_their_prompt(self, shared: bool, as_text: bool) -> None:
        row: Row = {name: self.talk(text, shared=shared) for name, text in (("a", "7"), ("b", "8"))}
        if as_text:
            row = {name: json.dumps(talk) for name, talk in row.items()}
        pair = only(judged(first="a", second="b", prompt=None), row | {"w": "b"})
        assert (list(pair.prompt), pair.responses) == ([ASK], ("8", "7"))
        rating = only(OutcomeColumns(prompt=None, response="a", ratings={}), row)
        assert (list(rating.prompt), rating.response) == ([ASK], "7")

    def test_responses_of_one_message_with_their_prompt_apart(self) -> None:
        row = {"prompt": "Name a prime.", "a": self.talk("7")[1:], "b": self.talk("8")[1:]}
        pair = only(judged(first="a", second="b"), row | {"w": "a"})
        assert (pair.prompt, pair.responses) == ("Name a prime.", ("7", "8"))

    @pytest.mark.parametrize(
        ("options", "row", "message"),
        [
            ({}, {"prompt": "p", "a": [ASK, ASK], "b": "x"}, "and a prompt is there as well"),
            ({"prompt": None}, {"a": "x", "b": "y"}, "no column holds the prompt"),
            ({"prompt": None}, {"a": [ASK], "b": [ASK]}, "ends with the assistant's"),
            ({}, {"prompt": None, "a": "x", "b": "y"}, "'prompt' is wrong"),
        ],
    )
    def test_refusals(self, options: Row, row: Row, message: str) -> None:
        with pytest.raises(DataError, match=message):
            judged(first="a", second="b", **options).records(row | {"w": "a"}, "f:1")

    def test_conversations_that_differ_before_their_end(self) -> None:
        other = [{"role": "user", "content": "Name another."}, self.talk("8")[1]]
        with pytest.raises(DataError, match="differ before the last turn"):
            judged(first="a", second="b", prompt=None).records(
                {"a": self.talk("7"), "b": other, "w": "a"}, "f:1"
            )

    def test_a_speaker_that_is_not_known(self) -> None:
        row = {"prompt": [{"from": "narrator", "value": "Once."}], "completions": ["a"]}
        with pytest.raises(DataError, match=r"`from` of a message .* one of human, .*got narrator"):
            ChainColumns().records(row, "f:1")

    @pytest.mark.parametrize("as_text", [True, False])
    @pytest.mark.parametrize("column", ["tools", "functions"])
    def test_tools_are_part_of_the_prompt(self, column: str, as_text: bool) -> None:
        tools = [{"type": "function", "function": {"name": "weather"}}]
        row = {
            "prompt": "Rain?",
            "completions": ["No."],
            "response": "No.",
            column: json.dumps(tools) if as_text else tools,
        }
        for record in (
            *ChainColumns(tools=column).records(row, "f:1"),
            *OutcomeColumns(tools=column, response="response", ratings={}).records(row, "f:1"),
        ):
            assert list(record.prompt) == [{"role": "user", "content": "Rain?", "tools": tools}]
        assert ChainColumns(tools=None).records(row, "f:1")[0].prompt == "Rain?"

    def test_a_column_of_tools_that_are_none(self) -> None:
        row = {"prompt": "Cut it.", "completions": ["Saw."], "tools": "a saw"}
        with pytest.raises(DataError, match="option `tools` to null"):
            ChainColumns().records(row, "f:1")
        with pytest.raises(DataError, match="no column 'functions'"):
            ChainColumns(tools="functions").records(row, "f:1")


def test_the_older_layout_of_ultra_feedback() -> None:
    annotations = {aspect: [{"Rating": "4"}] for aspect in ("honesty", "helpfulness")}
    row = {"instruction": "i", "completions": [{"response": "r", "annotations": annotations}]}
    reading = UltraFeedback(attributes={"honesty": "honesty", "helpfulness": "helpfulness"})
    assert only(reading, row).values == {"honesty": 4.0, "helpfulness": 4.0}
    annotations["honesty"] = []
    with pytest.raises(DataError, match="'honesty' is wrong"):
        reading.records(row, "f:1")


def test_a_row_that_surprises_its_format_is_an_error_in_its_place() -> None:
    rows = [{"instruction": "i", "completions": [3]}, {"instruction": "i", "completions": []}]
    results = list(Source(rows, UltraFeedback()).results())
    assert [type(result) for result in results] == [DataError, DataError]
    assert "rows[0]: the row is not built as its format expects" in str(results[0])


@pytest.mark.parametrize(
    "options",
    [
        {"first": "a", "second": "b", "objective": "x"},
        {"first": "a", "second": "b", "better": "w"},
        {"first": "a", "better": "w", "objective": "x"},
        {"responses": "r", "objective": "x"},
        {"responses": "r", "ranks": "k", "scores": "s", "objective": "x"},
        {"responses": "r", "ratings": {"x": "k"}, "objective": "x"},
        {"chosen": "a", "rejected": "b", "objective": "x", "winners": {"1": 0}},
        {"first": "a", "second": "b", "better": "w", "objective": "x", "ignore": ["c"]},
        {"response": "a", "first": "b", "second": "c", "better": "w"},
    ],
)
def test_columns_that_do_not_go_together(options: Row) -> None:
    with pytest.raises(ConfigError):
        OutcomeColumns(**options)
