"""Hugging Face stepwise supervision, which is also the canonical format that `prm` writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from prm.data.formats.base import Format, list_field, wrong_field
from prm.errors import DataError
from prm.records import Chain


class HFStepwise(Format):
    """Rows with `prompt`, `completions` and, where known, `labels`.

    `labels` is a list with one entry per step (true, false, a probability, or null) or an object
    of such lists by objective name. `id`, `source`, `group` and `metadata` are read where present
    (metadata may be JSON text, as Parquet files hold it); other columns are ignored.

    Example:
        >>> row = {"prompt": "1 + 1 + 1", "completions": ["1 + 1 = 2", "3"], "labels": [True, None]}
        >>> HFStepwise().chains(row, "a.jsonl:1")[0].labels
        {'correctness': (1.0, None)}
    """

    def chains(self, row: Mapping[str, Any], origin: str) -> list[Chain]:
        """Return the row's one chain."""
        if "prompt" not in row:
            raise DataError(
                "field 'prompt' is missing",
                got=f"fields {sorted(row)}",
                where=origin,
                fix="Is this the right format for the file?",
            )
        chain = Chain(
            row["prompt"],
            list_field(row, "completions", origin),
            _labels(row.get("labels")),
            id=_name(row, "id", origin),
            source=_name(row, "source", origin),
            group=_name(row, "group", origin),
            metadata=_metadata(row.get("metadata"), origin),
            origin=origin,
        )
        return [chain]


def _labels(value: Any) -> Any:
    """Return labels without the objectives that a columnar file fills with null."""
    if isinstance(value, Mapping):
        return {name: labels for name, labels in value.items() if labels is not None}
    return value


def _name(row: Mapping[str, Any], field: str, origin: str) -> str:
    value = row.get(field)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise wrong_field(field, "text or an integer", value, origin)
    return str(value)


def _metadata(value: Any, origin: str) -> Mapping[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            raise wrong_field("metadata", "an object or its JSON text", value, origin) from None
    if value is not None and not isinstance(value, Mapping):
        raise wrong_field("metadata", "an object", value, origin)
    return value or {}
