"""A report as a folder: Markdown, pictures, JSON, and whatever lies beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from prm.atomic import atomic_file
from prm.errors import DataError
from prm.report.document import Document
from prm.report.markdown import render


def write_report(
    document: Document,
    data: Mapping[str, Any],
    folder: Path,
    name: str = "report",
    files: Mapping[str, bytes] | None = None,
) -> list[Path]:
    """Write files, plots, Markdown and JSON, each whole or not at all.

    The JSON is written last, so that a folder that has it is complete. Without matplotlib the plots
    are left out and the Markdown says so.

    Args:
        document: The report for people.
        data: The report as JSON values.
        folder: Where to; it is made if needed, and files of the same names are replaced.
        name: Name of the Markdown and JSON files, without their endings.
        files: What lies beside them, by name.

    Returns:
        The files written, in order.

    Raises:
        OutputError: A file cannot be written.
        DataError: The data are no JSON values.
    """
    contents = dict(files or {})
    with_plots = find_spec("matplotlib") is not None
    if with_plots:
        from prm.report.plots.figure import png

        contents |= {f"{plot.name}.png": png(plot) for plot in document.plots}
    contents[f"{name}.md"] = render(document, with_plots=with_plots).encode()
    contents[f"{name}.json"] = encode_json(data)
    return write_files(contents, folder)


def write_files(contents: Mapping[str, bytes], folder: Path) -> list[Path]:
    """Write files, each whole or not at all, and return where they are."""
    for name, content in contents.items():
        with atomic_file(folder / name) as stream:
            stream.write(content)
    return [folder / name for name in contents]


def encode_json(data: Mapping[str, Any]) -> bytes:
    """Return values as JSON to be read by people too.

    Raises:
        DataError: They are no JSON values, or have a NaN among them.
    """
    try:
        text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise DataError("the report cannot be written as JSON", got=str(error)) from error
    return f"{text}\n".encode()
