"""`prm data`: check, convert and decontaminate labeled chains."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from prm.atomic import atomic_file
from prm.data.checks import CheckReport, check_chains
from prm.data.findings import Finding
from prm.data.formats import Format, all_formats
from prm.data.formats.hf_stepwise import HFStepwise
from prm.data.formats.process_bench import ProcessBench
from prm.data.overlap import Decontamination, ProblemIndex, without_overlap
from prm.data.readers import ChainSource
from prm.data.text_checks import CountTokens, TextRules
from prm.data.writers import check_output, write_chains
from prm.errors import ConfigError, DataError
from prm.records import Chain

if TYPE_CHECKING:
    from rich.console import Console

Item = TypeVar("Item")

all_formats()  # so that every format can be named by its class alone


def check(
    input: str,
    format: Format | None = None,
    split: str | None = None,
    limit: int | None = None,
    streaming: bool = False,
    against: str | list[str] | None = None,
    against_format: Format | None = None,
    tokenizer: str | None = None,
    max_length: int | None = None,
    output: str | None = None,
) -> int:
    """Find what is wrong in labeled chains before anything is trained on them.

    Looks for rows that cannot be read, empty steps, duplicates and conflicting labels, separators
    and special tokens inside texts, double BOS, chains that truncation would cut or empty, labels
    that lean on position or length, and problems shared with evaluation sets.

    Args:
        input: File, folder, glob, saved dataset, or name of a Hugging Face dataset.
        format: What the rows look like; by default prompt, completions, labels.
        split: Split of a Hugging Face or saved dataset.
        limit: Largest number of chains to look at.
        streaming: Stream a Hugging Face dataset instead of downloading it.
        against: Path, or list of paths, of evaluation sets whose problems must not occur.
        against_format: What the evaluation rows look like; by default ProcessBench.
        tokenizer: Name or path of a tokenizer or model, for the checks that need tokens.
        max_length: Largest number of tokens of a chain; by default that of the model's spec.
        output: JSON file that the whole report is written to.

    Returns:
        1 if there is an error among the findings, else 0.
    """
    count_tokens, max_length, rules = _token_checks(tokenizer, max_length)
    source = ChainSource(input, format or HFStepwise(), None, split, limit, streaming)
    with _progress("checking", "rows") as tracked:
        report = check_chains(
            tracked(source.results()),
            count_tokens=count_tokens,
            max_length=max_length,
            evaluation_chains=_evaluation_chains(against, against_format),
            rules=rules,
        )
    _print_report(report, input)
    if output:
        _write_json(output, {"input": input, **report.to_json()})
    return int(report.has_errors)


def convert(
    input: str,
    output: str,
    format: Format | None = None,
    name: str | None = None,
    split: str | None = None,
    limit: int | None = None,
    streaming: bool = False,
    overwrite: bool = False,
) -> None:
    """Write labeled chains of any format as canonical JSON lines or Parquet.

    Args:
        input: File, folder, glob, saved dataset, or name of a Hugging Face dataset.
        output: File to write; its suffix, .jsonl or .parquet, says which kind.
        format: What the rows look like; by default prompt, completions, labels.
        name: Name of the source in the written rows; by default the file's name.
        split: Split of a Hugging Face or saved dataset.
        limit: Largest number of chains.
        streaming: Stream a Hugging Face dataset instead of downloading it.
        overwrite: Replace the output if it exists.
    """
    check_output(Path(output), overwrite=overwrite)
    source = ChainSource(input, format or HFStepwise(), name, split, limit, streaming)
    with _progress("converting", "chains") as tracked:
        count = write_chains(tracked(source), Path(output), overwrite=overwrite)
    message = f"{count:,} chains written to {output}"
    _console().print(message, highlight=False, markup=False, soft_wrap=True)


def decontaminate(
    input: str,
    against: str | list[str],
    output: str,
    format: Format | None = None,
    against_format: Format | None = None,
    name: str | None = None,
    split: str | None = None,
    report: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write the chains whose problem is in no evaluation set, and say which were removed.

    Problems are compared by normalized text: case, white space and LaTeX layout do not matter.

    Args:
        input: File, folder, glob, saved dataset, or name of a Hugging Face dataset.
        against: Path, or list of paths, of the evaluation sets.
        output: File to write the kept chains to, .jsonl or .parquet.
        format: What the rows look like; by default prompt, completions, labels.
        against_format: What the evaluation rows look like; by default ProcessBench.
        name: Name of the source in the written rows; by default the file's name.
        split: Split of a Hugging Face or saved dataset.
        report: JSON file for the numbers and ids of what was removed.
        overwrite: Replace the output if it exists.
    """
    check_output(Path(output), overwrite=overwrite)
    source = ChainSource(input, format or HFStepwise(), name, split)
    index = ProblemIndex.of(_evaluation_chains(against, against_format))
    removed = Decontamination()
    with _progress("comparing", "chains") as tracked:
        kept = without_overlap(tracked(source), index, removed)
        write_chains(kept, Path(output), overwrite=overwrite)
    if report:
        _write_json(report, {"input": input, "against": against, **removed.to_json()})
    _print_removed(removed, output)


def _evaluation_chains(paths: str | list[str] | None, format: Format | None) -> Iterator[Chain]:
    for path in [paths] if isinstance(paths, str) else paths or ():
        yield from ChainSource(path, format or ProcessBench())


def _token_checks(
    name: str | None, max_length: int | None
) -> tuple[CountTokens | None, int | None, TextRules | None]:
    """Return token counter, limit and text rules of a tokenizer; nothing without one."""
    if name is None:
        if max_length is not None:
            raise ConfigError("option max_length counts tokens", fix="Give --tokenizer as well")
        return None, None, None
    from prm.data.text_checks import token_counter, tokenizer_rules

    tokenizer, spec = _load_tokenizer(name)
    limit = spec.max_length if max_length is None else max_length
    return token_counter(tokenizer, spec), limit, tokenizer_rules(tokenizer)


def _load_tokenizer(name: str) -> tuple[Any, Any]:
    """Load a tokenizer with the spec beside it, or with the spec that training starts from."""
    from prm.data.tokenize import add_marker
    from prm.models.sources import load_tokenizer
    from prm.spec import SPEC_FILE, RewardSpec

    tokenizer = load_tokenizer(name)
    if (Path(name) / SPEC_FILE).is_file():
        return tokenizer, RewardSpec.load(name)
    spec = RewardSpec()
    add_marker(tokenizer, spec)
    return tokenizer, spec


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr)


class _Tracked:
    """Counts what passes through on a progress bar."""

    def __init__(self, progress: Any, task: Any) -> None:
        self._progress = progress
        self._task = task

    def __call__(self, items: Iterable[Item]) -> Iterator[Item]:
        for item in items:
            self._progress.advance(self._task)
            yield item


@contextmanager
def _progress(verb: str, unit: str) -> Iterator[_Tracked]:
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description} {task.completed:,.0f} " + unit),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=_console(stderr=True), transient=True) as progress:
        yield _Tracked(progress, progress.add_task(verb, total=None))


_COLORS = {"error": "red", "warning": "yellow", "info": "cyan"}


def _print_report(report: CheckReport, path: str) -> None:
    from rich.table import Table
    from rich.text import Text

    console = _console()
    console.print(
        f"{path}: {report.num_chains:,} chains, {report.num_steps:,} steps, "
        f"{report.num_labels:,} labels",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    table = Table("", "finding", "count", "what")
    for finding in report.findings:
        table.add_row(
            Text(finding.severity, style=_COLORS[finding.severity]),
            Text(finding.kind, no_wrap=True),
            f"{finding.count:,}",
            Text(finding.message),
        )
    console.print(table)
    for finding in report.findings:
        _print_examples(finding, console)
    _print_balance(report, console)


def _print_examples(finding: Finding, console: Console) -> None:
    if finding.severity == "info" or not finding.examples:
        return
    console.print(f"{finding.kind}:", style=_COLORS[finding.severity])
    for example in finding.examples:
        row = f" (row {example.id})" if example.id else ""
        line = f"  {example.origin}{row}: {example.detail}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _print_balance(report: CheckReport, console: Console) -> None:
    from rich.table import Table

    balance = [finding for finding in report.findings if finding.kind == "label_balance"]
    rows = [row for finding in balance for row in finding.table]
    if not rows:
        return
    table = Table("objective", "step", "labels", "mean", "below 0.5", title="Labels by position")
    for row in rows:
        table.add_row(
            row["objective"],
            row["position"],
            f"{row['labels']:,}",
            f"{row['mean_label']:.3f}",
            f"{row['share_wrong']:.1%}",
        )
    console.print(table)


def _print_removed(removed: Decontamination, output: str) -> None:
    console = _console()
    console.print(
        f"removed {removed.num_removed:,} chains about {len(removed.problems):,} problems, "
        f"wrote {removed.num_kept:,} to {output}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    for name, count in sorted(removed.removed_by_set.items()):
        console.print(f"  {name}: {count:,} chains", highlight=False, markup=False)


def _write_json(path: str, value: dict[str, Any]) -> None:
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise DataError("the report cannot be written as JSON", got=str(error)) from error
    with atomic_file(Path(path)) as stream:
        stream.write(text.encode("utf-8") + b"\n")
