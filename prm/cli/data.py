"""`prm data`: check, convert and decontaminate labeled chains, comparisons and ratings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from prm.data.checks.chains import check_chains
from prm.data.checks.linter import CheckReport
from prm.data.checks.overlap import Decontamination, ProblemIndex, without_overlap
from prm.data.checks.responses import check_outcomes
from prm.data.checks.texts import token_counter, tokenizer_rules
from prm.data.formats import Format, all_formats
from prm.data.formats.hf_stepwise import HFStepwise
from prm.data.formats.outcomes import Outcomes
from prm.data.formats.process_bench import ProcessBench
from prm.data.sources.files import Row
from prm.data.sources.rows import read_rows
from prm.data.sources.source import Source
from prm.data.sources.writers import check_output, write_records
from prm.errors import ConfigError
from prm.records import Record
from prm.report.checks import console, print_removed, print_report, say, write_json

Item = TypeVar("Item")

all_formats()  # so that every format can be named by its class alone


def check(
    input: str,
    format: Format | None = None,
    split: str | None = None,
    config_name: str | None = None,
    limit: int | None = None,
    streaming: bool = False,
    against: str | list[str] | None = None,
    against_format: Format | None = None,
    tokenizer: str | None = None,
    max_length: int | None = None,
    ranges: dict[str, tuple[float, float]] | None = None,
    rating_tolerance: float | None = None,
    output: str | None = None,
) -> int:
    """Find what is wrong in labeled data before anything is trained on it.

    All data: rows that cannot be read, copies of rows, special tokens and chat-template markup
    inside texts, double BOS, what truncation would cut, and problems shared with evaluation sets.

    Chains: empty steps, conflicting labels, separators inside steps, and labels that lean on
    position or length.

    Comparisons and ratings: empty texts; preferred responses that are identical, as written, but
    for white space, or once truncated; pairs preferred both ways and preferences in a circle;
    ratings far apart, outside their range, one-sided, or that stand for missing ones; how much
    preferences and ratings lean on length; what supervises each objective; agreement of raters
    (Krippendorff's alpha) where a pair or response was judged more than once.

    The command ends with code 1 if there is an error among the findings, not for warnings.

    Args:
        input: File, folder, glob, saved dataset, or name of a Hugging Face dataset.
        format: What the rows look like. By default as the columns of the first row say: HFStepwise
            (prompt, completions, labels) or Outcomes (chosen and rejected, responses, response).
        split: Split of a Hugging Face or saved dataset.
        config_name: Configuration (subset) of a Hugging Face dataset.
        limit: Largest number of records to look at.
        streaming: Stream a Hugging Face dataset instead of downloading it.
        against: Path, or list of paths, of evaluation sets whose problems must not occur.
        against_format: What the evaluation rows look like; by default as the first row says, or
            ProcessBench.
        tokenizer: Name or path of a tokenizer or model, for the checks that need tokens.
        max_length: Largest number of tokens of a record; by default that of the model's spec.
        ranges: Objective to the lowest and highest rating that is right: '{"quality": [0, 4]}'.
        rating_tolerance: Largest difference between two ratings of one response that is no
            conflict, as a share of the objective's range, in [0, 1]; by default 0.5.
        output: JSON file that the whole report is written to.

    Returns:
        1 if there is an error among the findings, else 0.
    """
    if max_length is not None and tokenizer is None:
        raise ConfigError("option max_length counts tokens", fix="Give --tokenizer as well")
    tokens = None if tokenizer is None else _load_tokenizer(tokenizer, max_length)
    evaluation = _evaluation_records(against, against_format)
    found = _source(input, format, None, split, config_name, limit, streaming)
    if found.format.kind == "responses":
        tolerance = 0.5 if rating_tolerance is None else rating_tolerance
        report = _check_outcomes(found, evaluation, tokens, ranges, tolerance)
    elif ranges is None and rating_tolerance is None:
        report = _check_chains(found, evaluation, tokens)
    else:
        raise ConfigError("options ranges and rating_tolerance are about ratings, not chains")
    print_report(report, input)
    if output:
        write_json(output, {"input": input, **report.to_json()})
    return int(report.has_errors)


def convert(
    input: str,
    output: str,
    format: Format | None = None,
    name: str | None = None,
    split: str | None = None,
    config_name: str | None = None,
    limit: int | None = None,
    streaming: bool = False,
    overwrite: bool = False,
) -> None:
    """Write labeled data of any format as canonical JSON lines or Parquet.

    Chains become rows of HFStepwise, comparisons and ratings rows of Outcomes.

    Args:
        input: File, folder, glob, saved dataset, or name of a Hugging Face dataset.
        output: File to write; its suffix, .jsonl or .parquet, says which kind.
        format: What the rows look like. By default as the columns of the first row say: HFStepwise
            (prompt, completions, labels) or Outcomes (chosen and rejected, responses, response).
        name: Name of the source in the written rows; by default the file's name.
        split: Split of a Hugging Face or saved dataset.
        config_name: Configuration (subset) of a Hugging Face dataset.
        limit: Largest number of records.
        streaming: Stream a Hugging Face dataset instead of downloading it.
        overwrite: Replace the output if it exists.
    """
    check_output(Path(output), overwrite=overwrite)
    source = _source(input, format, name, split, config_name, limit, streaming)
    with _progress("converting", _unit(source)) as tracked:
        count = write_records(tracked(source), Path(output), overwrite=overwrite)
    say(f"{count:,} {_unit(source)} written to {output}")


def decontaminate(
    input: str,
    against: str | list[str],
    output: str,
    format: Format | None = None,
    against_format: Format | None = None,
    name: str | None = None,
    split: str | None = None,
    config_name: str | None = None,
    report: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write the records whose problem is in no evaluation set, and say which were removed.

    Problems are prompts, compared by normalized text: case, white space and LaTeX layout do not
    matter. Chains, comparisons and ratings can be held against each other.

    Args:
        input: File, folder, glob, saved dataset, or name of a Hugging Face dataset.
        against: Path, or list of paths, of the evaluation sets.
        output: File to write the kept records to, .jsonl or .parquet.
        format: What the rows look like. By default as the columns of the first row say: HFStepwise
            (prompt, completions, labels) or Outcomes (chosen and rejected, responses, response).
        against_format: What the evaluation rows look like; by default as the first row says, or
            ProcessBench.
        name: Name of the source in the written rows; by default the file's name.
        split: Split of a Hugging Face or saved dataset.
        config_name: Configuration (subset) of a Hugging Face dataset.
        report: JSON file for the numbers and ids of what was removed.
        overwrite: Replace the output if it exists.
    """
    check_output(Path(output), overwrite=overwrite)
    source = _source(input, format, name, split, config_name)
    index = ProblemIndex.of(_evaluation_records(against, against_format))
    removed = Decontamination()
    with _progress("comparing", _unit(source)) as tracked:
        kept = without_overlap(tracked(source), index, removed)
        write_records(kept, Path(output), overwrite=overwrite)
    if report:
        write_json(report, {"input": input, "against": against, **removed.to_json()})
    print_removed(removed, _unit(source), output)


def _source(
    path: str,
    format: Format | None,
    name: str | None = None,
    split: str | None = None,
    config_name: str | None = None,
    limit: int | None = None,
    streaming: bool = False,
) -> Source:
    """Return the source of a path, in the format given or the one that its first row shows."""
    rows = read_rows(path, split=split, config_name=config_name, streaming=streaming)
    shown = format or _canonical_format(rows) or HFStepwise()
    options: dict[str, Any] = {"name": name, "split": split, "config_name": config_name}
    options |= {"limit": limit, "streaming": streaming}
    return Source(path, shown, **options)


def _canonical_format(rows: Iterator[Row]) -> Format | None:
    """Return the canonical format that the columns of the first row show; `None` if neither."""
    row, _ = next(rows, ({}, ""))
    if "completions" in row:
        return HFStepwise()
    if row.keys() & {"chosen", "rejected", "responses", "response"}:
        return Outcomes()
    return None


def _evaluation_records(paths: str | list[str] | None, format: Format | None) -> Iterator[Record]:
    for path in [paths] if isinstance(paths, str) else paths or ():
        yield from _source(path, format or _canonical_format(read_rows(path)) or ProcessBench())


def _unit(source: Source) -> str:
    return "chains" if source.format.kind == "steps" else "comparisons and ratings"


def _check_chains(
    source: Source, evaluation: Iterable[Record], tokens: tuple[Any, Any] | None
) -> CheckReport:
    with _progress("checking", "rows") as tracked:
        return check_chains(
            tracked(source.results()),
            count_tokens=None if tokens is None else token_counter(*tokens),
            max_length=None if tokens is None else tokens[1].max_length,
            evaluation=evaluation,
            rules=None if tokens is None else tokenizer_rules(tokens[0]),
        )


def _check_outcomes(
    source: Source,
    evaluation: Iterable[Record],
    tokens: tuple[Any, Any] | None,
    ranges: dict[str, tuple[float, float]] | None,
    rating_tolerance: float,
) -> CheckReport:
    builder = None
    if tokens is not None:
        from prm.trees.tokenize import TreeBuilder

        tokenizer, spec = tokens
        builder = TreeBuilder(tokenizer, spec.with_(on_too_long="truncate"))
    with _progress("checking", "rows") as tracked:
        return check_outcomes(
            tracked(source.results()),
            builder=builder,
            evaluation=evaluation,
            rules=None if tokens is None else tokenizer_rules(tokens[0]),
            ranges=ranges,
            rating_tolerance=rating_tolerance,
        )


def _load_tokenizer(name: str, max_length: int | None) -> tuple[Any, Any]:
    """Load a tokenizer with the spec beside it, or with the spec that training starts from."""
    from prm.models.sources import load_tokenizer
    from prm.spec import SPEC_FILE, RewardSpec
    from prm.trees.identity import add_marker

    tokenizer = load_tokenizer(name)
    is_model = (Path(name) / SPEC_FILE).is_file()
    spec = RewardSpec.load(name) if is_model else RewardSpec()
    if not is_model:
        add_marker(tokenizer, spec)
    return tokenizer, spec if max_length is None else spec.with_(max_length=max_length)


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
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        yield _Tracked(progress, progress.add_task(verb, total=None))
