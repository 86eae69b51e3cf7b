"""Hugging Face stepwise supervision, which is also the canonical format that `prm` writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prm.data.formats.base import ChainFormat, list_field, record_fields
from prm.errors import DataError
from prm.messages import with_tools
from prm.records import Chain


class HFStepwise(ChainFormat):
    """Rows with `prompt`, `completions` and, where known, `labels`.

    `labels` is a list with one entry per step (true, false, a probability, or null) or an object
    of such lists by objective name. `id`, `source`, `group` and `metadata` are read where present
    (metadata may be JSON text, as Parquet files hold it); other columns are ignored.

    Example:
        >>> row = {"prompt": "1 + 1 + 1", "completions": ["1 + 1 = 2", "3"], "labels": [True, None]}
        >>> HFStepwise().records(row, "a.jsonl:1")[0].labels
        {'correctness': (1.0, None)}
    """

    def records(self, row: Mapping[str, Any], origin: str) -> list[Chain]:
        """Return the row's one chain."""
        if "prompt" not in row:
            raise DataError(
                "field 'prompt' is missing",
                got=f"fields {sorted(row)}",
                where=origin,
                fix="Is this the right format for the file?",
            )
        chain = Chain(
            with_tools(row["prompt"], row.get("tools"), origin),
            list_field(row, "completions", origin),
            _labels(row.get("labels")),
            **record_fields(row, origin),
        )
        return [chain]


def _labels(value: Any) -> Any:
    """Return labels without the objectives that a columnar file fills with null."""
    if isinstance(value, Mapping):
        return {name: labels for name, labels in value.items() if labels is not None}
    return value
