"""The finished output of batch scoring: the rows of a `PartialFile` as JSON lines or Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from prm.atomic import atomic_file
from prm.errors import OutputError
from prm.scores.partial import PartialFile, in_blocks
from prm.scores.rows import arrow_fields, row_kind

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS_PER_GROUP = 1024


def publish(partial: PartialFile, keep_text: bool) -> None:
    """Make the rows the output, in the file type of its name.

    Args:
        partial: The rows, all of them.
        keep_text: Whether the rows have texts.

    Raises:
        OutputError: The output cannot be written, or texts of several types share a column.
    """
    if partial.output.suffix == ".jsonl":
        partial.publish()
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema(partial, keep_text)
    with (
        atomic_file(partial.output) as stream,
        pq.ParquetWriter(stream, schema) as writer,
    ):
        for rows in in_blocks(partial.rows(), _ROWS_PER_GROUP):
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    partial.remove()


def _schema(partial: PartialFile, keep_text: bool) -> pa.Schema:
    """Return the columns of the rows; types of texts are known when all rows have been seen."""
    import pyarrow as pa

    first = next(partial.rows())
    columns = arrow_fields(row_kind(first), first["scores"])
    known = {column.name for column in columns}
    texts = [name for name in first if name not in known]
    return pa.schema([*columns, *(_text_fields(partial, texts) if keep_text else [])])


def _text_fields(partial: PartialFile, names: Sequence[str]) -> list[pa.Field]:
    import pyarrow as pa

    schema = pa.schema([])
    try:
        for rows in in_blocks(partial.rows(), _ROWS_PER_GROUP):
            seen = pa.Table.from_pylist([{name: row[name] for name in names} for row in rows])
            schema = pa.unify_schemas([schema, seen.schema], promote_options="permissive")
    except pa.ArrowException as error:
        raise OutputError(
            "the texts do not fit into Parquet columns",
            got=str(error).splitlines()[0],
            where=str(partial.output),
            fix="Text and conversation prompts cannot share a column: write .jsonl instead",
        ) from error
    return list(schema)
