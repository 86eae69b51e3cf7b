"""The prompts that a search over a file is asked, and where its results may go; without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prm.data.sources.rows import row_results
from prm.data.sources.source import OnError, Skipped
from prm.errors import DataError, OutputError
from prm.messages import with_tools
from prm.records import Chain, Prompt


@dataclass(frozen=True, slots=True)
class Problem:
    """A prompt of a file.

    Args:
        id: Name of its row: the row's own, or its number.
        prompt: The prompt.
    """

    id: str
    prompt: Prompt


def check_output(path: Path, *, overwrite: bool) -> None:
    """Refuse an output that cannot be written, before any work is done.

    Raises:
        OutputError: It exists and `overwrite` is false, or it is no .jsonl file.
    """
    if path.suffix != ".jsonl":
        raise OutputError(
            "the output's kind is not known", expected="a name that ends in .jsonl", got=path.name
        )
    if path.exists() and not overwrite:
        raise OutputError("the output exists", got=str(path), fix="Give --overwrite to replace it")


def read_problems(
    path: str, on_error: OnError = "raise", skipped: Skipped | None = None
) -> list[Problem]:
    """Return the prompts of a file, folder, glob or dataset; other fields than `id` are left out.

    Args:
        path: Where the rows are.
        on_error: Whether a wrong row, or one whose id came before, is an error or left out.
        skipped: Counts the rows that are left out.

    Raises:
        DataError: A row has no prompt, two rows have the same id, or there is no row.
    """
    problems: dict[str, Problem] = {}
    for index, row in enumerate(row_results(path)):
        try:
            problem = _problem(index, row)
            if problem.id in problems:
                raise DataError("two rows have the same id", got=problem.id, where=path)
            problems[problem.id] = problem
        except DataError as error:
            if on_error == "raise":
                raise
            if skipped is not None:
                skipped.add(error)
    if not problems:
        raise DataError("there is nothing to search", where=path)
    return list(problems.values())


def fingerprint(problems: Sequence[Problem]) -> str:
    """Return what tells these prompts from others."""
    digest = hashlib.sha256()
    for problem in problems:
        digest.update(json.dumps([problem.id, problem.prompt]).encode())
    return f"of {len(problems)} prompts ({digest.hexdigest()[:16]})"


def _problem(index: int, result: tuple[Mapping[str, Any], str] | DataError) -> Problem:
    if isinstance(result, DataError):
        raise result
    row, where = result
    if "prompt" not in row:
        raise DataError("field 'prompt' is missing", got=", ".join(row) or "{}", where=where)
    checked = Chain(with_tools(row["prompt"], row.get("tools"), where), ["."], origin=where)
    return Problem(str(row.get("id", index)), checked.prompt)
