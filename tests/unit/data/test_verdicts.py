"""Which of two responses is better: words for it, raters, and columns that contradict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prm.cli.main import main
from prm.data.formats.base import VERDICTS
from prm.data.formats.outcome_columns import OutcomeColumns
from prm.data.formats.outcomes import Outcomes
from prm.data.formats.trl_preference import TRLPreference
from prm.data.formats.verdicts import usual_winners
from prm.errors import DataError

Row = dict[str, Any]


def only(format: Any, row: Row) -> Any:
    (record,) = format.records(row, "f:1")
    return record


def judged(**options: Any) -> OutcomeColumns:
    return OutcomeColumns(**{"better": "w", "objective": "x"} | options)


class TestWhichIsBetter:
    @pytest.mark.parametrize(
        ("columns", "words"),
        [
            (
                ("response_A", "response_B"),
                {"A": 0, "b": 1, "A>B": 0, "B > A": 1, "A<B": 1, "B>>A": 1, "[[B]]": 1, "A=B": None}
                | {"model_a": 0, "response_B": 1, "tie": None, "Tie (bothbad)": None},
            ),
            (("answerB", "answerA"), {"A": 1, "b": 0, "A>B": 1}),
            (("response_1", "response_2"), {1: 0, "2": 1, 2.0: 1, "A": 0, "model_b": 1}),
            (("out_2", "out_1"), {1: 1, 2: 0, "A": 1, "B": 0}),
            (("summaries.0.text", "summaries.1.text"), {0: 0, 1: 1, "tie": None}),
            (("ours", "theirs"), {"ours": 0, "Theirs": 1, "A": 0, "draw": None}),
        ],
    )
    def test_usual_words(self, columns: tuple[str, str], words: dict[Any, int | None]) -> None:
        texts = ("first", "second")
        row: Row = {"prompt": "p", **dict(zip(columns, texts, strict=True))}
        if "." in columns[0]:
            row = {"prompt": "p", "summaries": [{"text": text} for text in texts]}
        for word, better in words.items():
            pair = only(judged(first=columns[0], second=columns[1]), row | {"w": word})
            assert pair.is_tie == (better is None), word
            assert pair.responses[0] == texts[better or 0], word

    @pytest.mark.parametrize(
        ("columns", "word"),
        [
            (("a", "b"), 0),
            (("a", "b"), 1),
            (("r1", "r2"), 0),
            (("r0", "r1"), 2),
            (("a", "b"), "c"),
            (("a", "b"), None),
            (("a", "b"), True),
        ],
    )
    def test_what_may_mean_either_is_refused(self, columns: tuple[str, str], word: Any) -> None:
        row = {"prompt": "p", columns[0]: "x", columns[1]: "y", "w": word}
        with pytest.raises(DataError, match=r"'w' is wrong: expected one of .*option `winners`"):
            judged(first=columns[0], second=columns[1]).records(row, "f:1")

    def test_words_of_ones_own(self) -> None:
        winners = {"0": 0, "1": 1, "both": "tie", "none": None}
        reading = judged(first="a", second="b", winners=winners)
        row = {"prompt": "p", "a": "x", "b": "y"}
        assert only(reading, row | {"w": 1}).responses == ("y", "x")
        assert only(reading, row | {"w": "both"}).is_tie
        assert reading.records(row | {"w": "none"}, "f:1") == []

    def test_raters_in_columns(self) -> None:
        reading = judged(first="a", second="b", better=["r1", "r2", "r3"])
        row = {"prompt": "p", "a": "x", "b": "y", "r1": "b", "r2": "B", "r3": "tie"}
        pair = only(reading, row)
        assert (pair.responses, pair.votes) == (("y", "x"), (2.5, 0.5))
        assert pair.metadata[VERDICTS] == [1, 1, 0]
        split = only(reading, row | {"r2": "a"})
        assert (split.is_tie, split.votes) == (True, (1.5, 1.5))
        listed = only(judged(first="a", second="b", better="r.*.w"), row | {"r": [{"w": "b"}] * 2})
        assert (listed.responses, listed.votes) == (("y", "x"), (2.0, 0.0))

    def test_a_margin_is_of_decided_pairs(self) -> None:
        reading = judged(first="a", second="b", margin="m")
        row = {"prompt": "p", "a": "x", "b": "y", "m": "2"}
        assert only(reading, row | {"w": "b"}).strength == 2
        assert only(reading, row | {"w": "tie"}).strength is None

    def test_from_the_command_line(self, tmp_path: Path) -> None:
        rows = tmp_path / "rows.csv"
        rows.write_text("q,a,b,r1,r2\np,x,y,1,2\np,x,y,2,2\n")
        output = tmp_path / "out.jsonl"
        words = ["--format.prompt", "q", "--format.first", "a", "--format.second", "b"]
        words += ["--format.better", '["r1", "r2"]', "--format.winners", '{"1": 0, "2": 1}']
        command = ["data", "convert", "--input", str(rows), "--output", str(output)]
        named = ["--format", "OutcomeColumns", "--format.objective", "x"]
        assert main([*command, *named, *words]) == 0
        first, second = map(json.loads, output.read_text().splitlines())
        assert (first["ranks"], second["chosen"], second["votes"]) == ([0, 0], "y", [2, 0])

    def test_numbers_mean_nothing_without_numbered_columns(self) -> None:
        assert not {"0", "1", "2"} & usual_winners("response_a", "response_b").keys()
        assert not {"0", "1", "2"} & usual_winners("ours", "theirs").keys()


class TestContradictions:
    @pytest.mark.parametrize(
        ("columns", "other"),
        [
            (("response_A", "response_B"), {"label": "B>A"}),
            (("response_A", "response_B"), {"label": "A=B"}),
            (("response_A", "response_B"), {"anything": "B>A"}),
            (("response_A", "response_B"), {"who": "model_b"}),
            (("answer_a", "answer_b"), {"winner": "tie"}),
            (("response_0", "response_1"), {"better_response_id": 1}),
            (("output_1", "output_2"), {"label": 2}),
            (("eval_A", "eval_B"), {"chosen_position": "B"}),
            (("chosen", "rejected"), {"chosen_rating": 2, "rejected_rating": 5.0}),
            (("chosen", "rejected"), {"score_chosen": "1", "score_rejected": "2"}),
            (("answer_a", "answer_b"), {"score_a": 0.1, "score_b": 0.2}),
            (("gpt", "llama"), {"winner": "Llama"}),
        ],
    )
    def test_a_column_that_says_otherwise_is_named(
        self, columns: tuple[str, str], other: Row
    ) -> None:
        row = {"prompt": "p", columns[0]: "x", columns[1]: "y", **other}
        options: Row = {"chosen": columns[0], "rejected": columns[1], "objective": "x"}
        name = next(iter(other))
        with pytest.raises(DataError, match=rf"'{columns[0]}' is chosen, but '{name}' says"):
            OutcomeColumns(**options).records(row, "f:1")
        pair = only(OutcomeColumns(**options, ignore=[name]), row)
        assert pair.responses == ("x", "y")

    def test_columns_inside_the_objects_of_a_pair(self) -> None:
        reading = OutcomeColumns(chosen="chosen.text", rejected="rejected.text", objective="x")
        row = {"prompt": "p", "chosen": {"text": "x", "score": 1}}
        row["rejected"] = {"text": "y", "score": 2}
        with pytest.raises(DataError, match=r"'chosen\.score' says"):
            reading.records(row, "f:1")

    @pytest.mark.parametrize(
        ("columns", "other"),
        [
            (("response_A", "response_B"), {"label": "A>B", "answer": "B", "note": "model"}),
            (("response_A", "response_B"), {"label": "law", "gold": "B"}),
            (("chosen", "rejected"), {"winner": "model_b", "label": 1, "chosen_length": 1}),
            (("chosen", "rejected"), {"label": "chosen", "kind": "rejected"}),
            (("chosen", "rejected"), {"chosen_length": 1, "rejected_length": 9}),
            (("chosen", "rejected"), {"chosen_rating": 5, "rejected_rating": 5}),
            (("chosen", "rejected"), {"chosen_rating": None, "rejected_rating": 5}),
        ],
    )
    def test_what_does_not_contradict_passes(self, columns: tuple[str, str], other: Row) -> None:
        row = {"prompt": "p", columns[0]: "x", columns[1]: "y", **other}
        reading = OutcomeColumns(chosen=columns[0], rejected=columns[1], objective="x")
        assert only(reading, row).responses == ("x", "y")

    @pytest.mark.parametrize("format", [TRLPreference(), Outcomes(objective="x")])
    def test_other_formats_of_pairs_look_as_well(self, format: Any) -> None:
        row = {"prompt": "p", "chosen": "x", "rejected": "y", "chosen_score": 1}
        assert only(format, row | {"rejected_score": 0}).responses == ("x", "y")
        with pytest.raises(DataError, match="'chosen_score' says"):
            format.records(row | {"rejected_score": 2}, "f:1")
