"""The columns of score rows: as they are written, read, stored in Parquet and served.

Adding a column here adds it to all of them; a score gives its value under the same name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin, get_type_hints

from typing_extensions import TypedDict  # pydantic takes that of typing from Python 3.12 on

if TYPE_CHECKING:
    import pyarrow as pa


Row = dict[str, Any]
"""A row as JSON values, of any kind and with any more columns."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Smallest and largest number that the server takes."""

    ge: float
    le: float

    def __get_pydantic_core_schema__(
        self, source: Any, handler: Callable[[Any], dict[str, Any]]
    ) -> dict[str, Any]:
        return {**handler(source), "ge": self.ge, "le": self.le}


Number = Annotated[float, Limits(-1e6, 1e6)]
Probability = Annotated[float, Limits(0, 1)]


RECORD_COLUMNS = ("id", "group")
"""The columns of every row that say which record a score is of."""


def record_columns(record: object) -> dict[str, Any]:
    """Return what a record, or its score, has in the columns that say which record it is."""
    return {name: getattr(record, name) for name in RECORD_COLUMNS}


class ChainRow(TypedDict):
    """The score of a chain, as `prm score` writes it."""

    id: str
    group: str
    reward: Number | None
    aggregation: str
    scores: dict[str, Number | None]
    step_probabilities: dict[str, list[Probability | None]]
    step_logits: dict[str, list[Number | None]]
    first_error: int | None
    num_truncated: int
    reason: str


class ResponseRow(TypedDict):
    """The score of a response, as `prm score` writes it."""

    id: str
    group: str
    response: int
    scores: dict[str, Number | None]
    spreads: dict[str, Number | None] | None
    gates: dict[str, Number | None] | None
    utilities: dict[str, Number | None]
    reward: Number | None
    aggregation: str
    num_truncated: int
    reason: str


class RankColumns(TypedDict):
    """What a ranking adds to a row."""

    rank: int | None
    margin: Number | None
    win_probability: Probability | None


RowKind = type[ChainRow] | type[ResponseRow]


def row_kind(row: Mapping[str, Any]) -> RowKind:
    """Return whether a row is the score of a chain or of a response."""
    return ChainRow if "step_logits" in row else ResponseRow


def row_of(kind: RowKind, score: object, **computed: Any) -> dict[str, Any]:
    """Return a score as a row.

    Args:
        kind: The columns.
        score: Has the values of the columns as attributes.
        computed: Values of columns that are no attributes.
    """
    return {
        name: computed[name] if name in computed else _plain(getattr(score, name))
        for name in kind.__annotations__
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def arrow_fields(
    kind: RowKind, objectives: Iterable[str], names: Iterable[str] | None = None
) -> list[pa.Field]:
    """Return columns of a row as those of a table.

    Args:
        kind: The columns.
        objectives: Names of the objectives.
        names: Which columns; all of them if not given.
    """
    import pyarrow as pa

    known = [*objectives]
    hints = get_type_hints(kind)
    return [pa.field(name, _arrow_type(hints[name], known)) for name in names or hints]


def column_type(name: str, values: Iterable[Any]) -> pa.DataType | None:
    """Return the type of a column with some values; `None` for one that stands in no row here."""
    kinds = [kind for kind in (ChainRow, ResponseRow, RankColumns) if name in kind.__annotations__]
    if not kinds:
        return None
    objectives = next((list(value) for value in values if isinstance(value, Mapping)), [])
    return _arrow_type(get_type_hints(kinds[0])[name], objectives)


def _arrow_type(hint: Any, objectives: list[str]) -> pa.DataType:
    import pyarrow as pa

    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _arrow_type(arguments[0], objectives)
    if origin is dict:
        return pa.struct([(name, _arrow_type(arguments[1], objectives)) for name in objectives])
    if origin is list:
        return pa.list_(_arrow_type(arguments[0], objectives))
    return {str: pa.string(), int: pa.int64(), float: pa.float64()}[hint]
