"""`prm data`: check, convert and decontaminate labeled chains, comparisons and ratings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from prm.cli.options import Options, OverwriteOptions, RowOptions
from prm.data.checks.chains import check_chains
from prm.data.checks.linter import CheckReport
from prm.data.checks.overlap import Decontamination, without_overlap
from prm.data.checks.problems import ProblemIndex
from prm.data.checks.responses import check_outcomes
from prm.data.checks.texts import token_counter, tokenizer_rules
from prm.data.formats import Format, all_formats
from prm.data.formats.hf_stepwise import HFStepwise
from prm.data.formats.outcomes import Outcomes
from prm.data.formats.process_bench import ProcessBench
from prm.data.sources.rows import row_results
from prm.data.sources.source import OnError, Skipped, Source
from prm.data.sources.writers import check_output, write_records
from prm.errors import ConfigError, DataError
from prm.records import Record
from prm.report.checks import console, print_removed, print_report, say, write_json

Item = TypeVar("Item")

all_formats()  # so that every format can be named by its class alone


@dataclass(frozen=True, kw_only=True)
class SourceOptions(RowOptions):
    """What is read.

    Args:
        input: File, folder, glob, saved dataset, or name of a Hugging Face dataset.
        format: What the rows look like. By default as the columns of the first row say: HFStepwise
            (prompt, completions, labels) or Outcomes (chosen and rejected, responses, response).
        split: Split of a Hugging Face or saved dataset.
        config_name: Configuration (subset) of a Hugging Face dataset.
    """

    input: str
    format: Format | None = None
    split: str | None = None
    config_name: str | None = None

    def source(self, **options: Any) -> Source:
        """Return the source, in the format given or the one that its first row shows.

        Args:
            options: `name`, `limit`, `sample_seed` and `streaming`, as of a source.
        """
        options |= {"split": self.split, "config_name": self.config_name}
        options["on_error"] = self.on_error
        return _source(self.input, self.format, **options)


@dataclass(frozen=True, kw_only=True)
class LimitOptions(Options):
    """What is read.

    Args:
        limit: Largest number of records to look at: the first ones.
        sample_seed: Draw the records of --limit at random instead, with this seed.
        streaming: Stream a Hugging Face dataset instead of downloading it.
    """

    limit: int | None = None
    sample_seed: int | None = None
    streaming: bool = False

    @property
    def limited(self) -> dict[str, Any]:
        """The options, as of a source."""
        return {name: getattr(self, name) for name in ("limit", "sample_seed", "streaming")}


@dataclass(frozen=True, kw_only=True)
class AgainstOptions(Options):
    """Evaluation sets.

    Args:
        against: Path, or list of paths, of evaluation sets whose problems must not occur.
        against_format: What the evaluation rows look like; by default as the first row says, or
            ProcessBench.
    """

    against: str | list[str] | None = None
    against_format: Format | None = None

    def evaluation(self, on_error: OnError, skipped: Skipped) -> Iterator[Record]:
        """Yield the records of the evaluation sets; they may repeat ids.

        Args:
            on_error: Whether a wrong row is an error.
            skipped: Counts those that are left out.
        """
        paths = [self.against] if isinstance(self.against, str) else self.against or ()
        for path in paths:
            shown = self.against_format or _canonical_format(path) or ProcessBench()
            source = _source(path, shown, on_error=on_error)
            yield from source.records(skipped, unique=False)


@dataclass(frozen=True, kw_only=True)
class WriteOptions(OverwriteOptions):
    """What is written.

    Args:
        output: File to write; its suffix, .jsonl or .parquet, says which kind.
        name: Name of the source in the written rows; by default the file's name.
    """

    output: str
    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class Check(LimitOptions, SourceOptions, AgainstOptions):
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

    The command ends with code 1 if there is an error among the findings, not for warnings. Wrong
    rows of the input are findings; --on_error is about those of evaluation sets.

    Args:
        tokenizer: Name or path of a tokenizer or model, for the checks that need tokens.
        max_length: Largest number of tokens of a record; by default that of the model's spec.
        ranges: Objective to the lowest and highest rating that is right: '{"quality": [0, 4]}'.
        rating_tolerance: Largest difference between two ratings of one response that is no
            conflict, as a share of the objective's range, in [0, 1]; by default 0.5.
        output: JSON file that the whole report is written to.
    """

    tokenizer: str | None = None
    max_length: int | None = None
    ranges: dict[str, tuple[float, float]] | None = None
    rating_tolerance: float | None = None
    output: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_length is not None and self.tokenizer is None:
            raise ConfigError("option max_length counts tokens", fix="Give --tokenizer as well")

    def run(self) -> int:
        """Print what is found, and return 1 if there is an error among it, else 0."""
        skipped = Skipped()
        report = self._report(skipped)
        print_report(report, self.input)
        _say_skipped(str(self.against), skipped)
        if self.output:
            write_json(self.output, {"input": self.input, **report.to_json()})
        return int(report.has_errors)

    def _report(self, skipped: Skipped) -> CheckReport:
        options: dict[str, Any] = {"evaluation": self.evaluation(self.on_error, skipped)}
        tokens = None
        if self.tokenizer is not None:
            tokens = _load_tokenizer(self.tokenizer, self.max_length)
            options["rules"] = tokenizer_rules(tokens[0])
        source = self.source(**self.limited)
        check: Callable[..., CheckReport] = check_chains
        if source.format.kind == "responses":
            check = check_outcomes
            tolerance = 0.5 if self.rating_tolerance is None else self.rating_tolerance
            options |= {"ranges": self.ranges, "rating_tolerance": tolerance}
            if tokens:
                from prm.trees.tokenize import TreeBuilder

                spec = tokens[1].with_(on_too_long="truncate")
                options["builder"] = TreeBuilder(tokens[0], spec)
        elif self.ranges is not None or self.rating_tolerance is not None:
            raise ConfigError("options ranges and rating_tolerance are about ratings, not chains")
        elif tokens:
            options |= {"count_tokens": token_counter(*tokens), "max_length": tokens[1].max_length}
        with _progress("checking", "rows") as tracked:
            return check(tracked(source.results()), **options)


@dataclass(frozen=True, kw_only=True)
class Convert(LimitOptions, SourceOptions, WriteOptions):
    """Write labeled data of any format as canonical JSON lines or Parquet.

    Chains become rows of HFStepwise, comparisons and ratings rows of Outcomes.
    """

    def run(self) -> None:
        """Write the file, and say how many records it has."""
        check_output(Path(self.output), overwrite=self.overwrite)
        source = self.source(name=self.name, **self.limited)
        skipped = Skipped()
        with _progress("converting", _unit(source)) as tracked:
            records = tracked(source.records(skipped))
            count = write_records(records, Path(self.output), overwrite=self.overwrite)
        _say_skipped(self.input, skipped)
        say(f"{count:,} {_unit(source)} written to {self.output}")


@dataclass(frozen=True, kw_only=True)
class Decontaminate(AgainstOptions, SourceOptions, WriteOptions):
    """Write the records whose problem is in no evaluation set, and say which were removed.

    Problems are prompts, compared by normalized text: case, white space, layout and notation do not
    matter (LaTeX, Unicode or plain), nor does an instruction around a problem. A problem of ten
    tokens or more is also found as whole sentences of a longer prompt. Chains, comparisons and
    ratings can be held against each other.

    Args:
        report: JSON file for the numbers and ids of what was removed.
    """

    against: str | list[str] = field()  # which is needed here
    report: str | None = None

    def run(self) -> None:
        """Write the file, and print what was removed."""
        check_output(Path(self.output), overwrite=self.overwrite)
        source = self.source(name=self.name)
        skipped, unread = Skipped(), Skipped()
        index = ProblemIndex.of(self.evaluation(self.on_error, unread))
        removed = Decontamination()
        with _progress("comparing", _unit(source)) as tracked:
            kept = without_overlap(tracked(source.records(skipped)), index, removed)
            write_records(kept, Path(self.output), overwrite=self.overwrite)
        if self.report:
            facts = {"input": self.input, "against": self.against, **removed.to_json()}
            facts |= {"num_skipped": skipped.count, "num_skipped_of_evaluation_sets": unread.count}
            write_json(self.report, facts)
        _say_skipped(self.input, skipped)
        _say_skipped(str(self.against), unread)
        print_removed(removed, _unit(source), self.output)


def _source(
    path: str,
    format: Format | None,
    *,
    name: str | None = None,
    limit: int | None = None,
    sample_seed: int | None = None,
    on_error: OnError = "raise",
    **dataset: Any,
) -> Source:
    """Return the source of a path, in the format given or the one that its first row shows.

    Args:
        path: As the input of a command.
        format: The format that was asked for.
        name: Name of the source.
        limit: Largest number of records.
        sample_seed: As of a source.
        on_error: What a wrong row does.
        dataset: `split`, `config_name` and `streaming`, as of a source.
    """
    shown = format or _canonical_format(path, **dataset) or HFStepwise()
    return Source(
        path,
        shown,
        name=name,
        limit=limit,
        sample_seed=sample_seed,
        on_error=on_error,
        **dataset,
    )


def _say_skipped(path: str, skipped: Skipped) -> None:
    for line in skipped.lines():
        say(f"{path}: {line}")


def _canonical_format(path: str, **dataset: Any) -> Format | None:
    """Return the canonical format that the columns of the first row show; `None` if neither."""
    rows = (row for row in row_results(path, **dataset) if not isinstance(row, DataError))
    row, _ = next(rows, ({}, ""))
    if "completions" in row:
        return HFStepwise()
    if row.keys() & {"chosen", "rejected", "responses", "response"}:
        return Outcomes()
    return None


def _unit(source: Source) -> str:
    return "chains" if source.format.kind == "steps" else "comparisons and ratings"


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


@contextmanager
def _progress(verb: str, unit: str) -> Iterator[Callable[[Iterable[Item]], Iterable[Item]]]:
    """Count what passes through, on a progress bar."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description} {task.completed:,.0f} " + unit),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        yield partial(progress.track, task_id=progress.add_task(verb, total=None))
