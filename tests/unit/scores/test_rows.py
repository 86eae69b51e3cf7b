"""The columns of score rows are those that are declared, wherever they are used."""

from __future__ import annotations

import pyarrow as pa

from prm.scores.chains import ChainScore
from prm.scores.responses import ResponseScore
from prm.scores.rows import ChainRow, ResponseRow, arrow_fields, column_type, row_kind

CHAIN = ChainScore(
    "a", {"correctness": (0.5, None)}, {"correctness": 0.6}, 0.6, "correctness", "min"
)
RESPONSE = ResponseScore("a", "g", 1, {"safety": 2.0}, None, {"safety": 2.0}, 2.0, "weighted_sum")


def test_rows_have_the_declared_columns_in_their_order() -> None:
    for score, kind in ((CHAIN, ChainRow), (RESPONSE, ResponseRow)):
        row = score.to_row()
        assert list(row) == list(kind.__annotations__)
        assert row_kind(row) is kind


def test_what_is_computed_is_a_column_too() -> None:
    row = CHAIN.to_row(threshold=0.7)
    assert row["first_error"] == 0
    assert row["step_logits"] == {"correctness": [0.5, None]}
    assert row["step_probabilities"]["correctness"][1] is None


def test_columns_of_a_table() -> None:
    names = ("id", "first_error", "scores", "step_logits")
    steps = pa.struct([("correctness", pa.list_(pa.float64()))])
    assert pa.schema(arrow_fields(ChainRow, ["correctness"], names)) == pa.schema(
        [
            ("id", pa.string()),
            ("first_error", pa.int64()),
            ("scores", pa.struct([("correctness", pa.float64())])),
            ("step_logits", steps),
        ]
    )
    fields = arrow_fields(ResponseRow, ["safety", "wit"])
    assert [field.name for field in fields] == list(ResponseRow.__annotations__)


def test_a_column_of_nulls_has_a_type() -> None:
    assert column_type("rank", [None]) == pa.int64()
    assert column_type("margin", [None]) == pa.float64()
    expected = pa.struct([("safety", pa.float64())])
    assert column_type("scores", [{"safety": None}]) == expected
    assert column_type("dropped_because", ["reward below 0"]) is None
