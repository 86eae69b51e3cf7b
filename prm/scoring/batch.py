"""Batch scoring: any number of records in, one row per record out, whatever interrupts it.

A record is a chain or a single response. Memory is bounded by one block of records. A run that was
killed at any point continues after its last whole block when it is started again. On the same
hardware, with the same number of threads and `max_tokens`, the finished file is byte for byte that
of an uninterrupted run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import prm
from prm.atomic import write_text
from prm.data.sources.writers import check_output
from prm.errors import DataError
from prm.records import Chain, Rating
from prm.scores.partial import PartialFile, in_blocks
from prm.scores.publish import publish

if TYPE_CHECKING:
    from prm.scoring.scorer import RewardScorer
    from prm.spec import RewardSpec

NUM_REASONS = 3
"""Different reasons for unscored records that a summary names."""


@dataclass(frozen=True, slots=True)
class Survey:
    """Records that were read once: they are all readable, and it is known how many and which.

    Args:
        records: The records; iterating them again gives the same ones.
        num_records: Their number.
        fingerprint: Hash of their texts, labels and ids, in order.
    """

    records: Iterable[Chain | Rating]
    num_records: int
    fingerprint: str


def survey(records: Iterable[Chain | Rating]) -> Survey:
    """Read records once, in bounded memory.

    Args:
        records: A list, a `Source`, or anything else that can be iterated repeatedly.

    Raises:
        DataError: A row cannot be read, or there is none.

    Example:
        >>> survey([Chain("1 + 1?", ["2"]), Chain("1 + 2?", ["3"])]).num_records
        2
    """
    digest = hashlib.sha256()
    count = 0
    for record in records:
        count += 1
        digest.update(json.dumps(record.to_row(), default=str).encode())
    if count == 0:
        raise DataError("there is nothing to score")
    return Survey(records, count, digest.hexdigest()[:16])


@dataclass(slots=True)
class Summary:
    """What batch scoring did.

    Args:
        num_records: Rows in the output.
        num_scored: Records with a reward.
        num_truncated: Records of which something was cut off at the model's `max_length`.
        num_resumed: Rows that an earlier, interrupted run had written.
        total_reward: Sum of the rewards.
        reasons: Why the first records without a reward have none.
    """

    num_records: int = 0
    num_scored: int = 0
    num_truncated: int = 0
    num_resumed: int = 0
    total_reward: float = 0.0
    reasons: list[str] = field(default_factory=list)

    @property
    def mean_reward(self) -> float | None:
        """Mean reward of the scored records; `None` if there is none."""
        return self.total_reward / self.num_scored if self.num_scored else None

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Count rows of the output."""
        for row in rows:
            self.num_records += 1
            self.num_truncated += row["num_truncated"] > 0
            if row["reward"] is not None:
                self.num_scored += 1
                self.total_reward += row["reward"]
            elif len(self.reasons) < NUM_REASONS and row["reason"] not in self.reasons:
                self.reasons.append(row["reason"])


@dataclass(frozen=True, slots=True)
class RowFormat:
    """How scores become rows of the output.

    Args:
        threshold: The first step of a chain with a probability below it is its `first_error`.
        keep_text: Add prompt, completions or response, and labels to the rows.
    """

    threshold: float = 0.5
    keep_text: bool = False

    def rows(
        self, records: Sequence[Chain | Rating], scores: Sequence[Any]
    ) -> list[dict[str, Any]]:
        """Return one row per record."""
        return [self._row(record, score) for record, score in zip(records, scores, strict=True)]

    def _row(self, record: Chain | Rating, score: Any) -> dict[str, Any]:
        if isinstance(record, Chain):
            row: dict[str, Any] = score.to_row(self.threshold)
            labels: dict[str, Any] = {name: list(values) for name, values in record.labels.items()}
            texts = {"prompt": record.to_row()["prompt"], "completions": list(record.completions)}
        else:
            row = score.to_row()
            labels = dict(record.values)
            texts = {"prompt": record.to_row()["prompt"], "response_text": record.response}
        return row | (texts | {"labels": labels or None} if self.keep_text else {})


@runtime_checkable
class BlockScorer(Protocol):
    """Scores blocks of records: this process, or the workers of a cluster."""

    @property
    def spec(self) -> RewardSpec:
        """The spec of the model, with the aggregations that are used."""

    def identity(self) -> dict[str, str]:
        """Return the hash of the model as `model`, and the type of its weights as `dtype`."""

    def score_blocks(
        self, records: Iterable[Chain | Rating], start: int, size: int, rows: RowFormat
    ) -> Generator[list[dict[str, Any]], None, None]:
        """Yield the rows of each block of `size` records, in order, from record `start` on."""


class LocalBlockScorer:
    """Scores blocks in this process; arguments as for `score_file`."""

    def __init__(self, scorer: RewardScorer) -> None:
        self.scorer = scorer
        self.spec = scorer.spec

    def identity(self) -> dict[str, str]:
        """Return what the model is known by; its golden scores stand for the weights."""
        from prm.models.golden import score_chains, score_responses

        model = self.scorer.model
        spec = model.spec.with_(
            golden_chains=model.spec.golden_chains or score_chains(model),
            golden_responses=model.spec.golden_responses or score_responses(model),
        )
        dtype = str(next(model.backbone.parameters()).dtype).removeprefix("torch.")
        return {"model": model_hash(spec), "dtype": dtype}

    def score_blocks(
        self, records: Iterable[Chain | Rating], start: int, size: int, rows: RowFormat
    ) -> Generator[list[dict[str, Any]], None, None]:
        """Yield the rows of each block."""
        for block in blocks_of(records, start, size):
            yield rows.rows(block, self.scorer.score(block))


def model_hash(spec: RewardSpec) -> str:
    """Return the hash of a model's spec with its golden scores."""
    return hashlib.sha256(spec.to_json().encode()).hexdigest()[:16]


def blocks_of(
    records: Iterable[Chain | Rating], start: int, size: int
) -> Iterator[list[Chain | Rating]]:
    """Return the records from `start` on in blocks of `size`.

    Example:
        >>> [len(block) for block in blocks_of([Chain("1?", ["1"])] * 5, 1, 3)]
        [3, 1]
    """
    return in_blocks(islice(records, start, None), size)


def score_file(
    scorer: RewardScorer | BlockScorer,
    inputs: Survey,
    output: str | Path,
    *,
    threshold: float = 0.5,
    keep_text: bool = False,
    overwrite: bool = False,
    block: int = 256,
    on_block: Callable[[Summary], None] | None = None,
) -> Summary:
    """Score records into a file, or continue where an earlier call was interrupted.

    Every record has one row, in the order of the input: `ChainScore.to_row()` or
    `ResponseScore.to_row()`, with a null reward and a reason if it could not be scored. Until it is
    complete, the file is `<output>.partial`. The model's spec is written beside it,
    `<output>.spec.json`, so that the scores can be aggregated anew without the model.

    Args:
        scorer: Scores the records: a `RewardScorer` in this process, or a `RayBlockScorer`.
        inputs: The records, from `survey`.
        output: JSON lines (`.jsonl`) or Parquet (`.parquet`).
        threshold: The first step of a chain with a probability below it is its `first_error`.
        keep_text: Add prompt, completions or response, and labels to the rows.
        overwrite: Replace an output, or unfinished rows that were made with other settings.
        block: Records that are scored and synced to the disk together; a kill loses at most these.
        on_block: Called at the start and after every block with the summary so far.

    Raises:
        OutputError: The output exists, or cannot be written; finished blocks stay for the next run.
        ConfigError: Unfinished rows were made with another model, input or option.
        DataError: The records are not those that were surveyed.

    Example:
        >>> score_file(scorer, survey(chains), "scores.jsonl").mean_reward  # doctest: +SKIP
        0.731
    """
    from prm.scores.tables import spec_path

    output = Path(output)
    own = scorer if isinstance(scorer, BlockScorer) else LocalBlockScorer(scorer)
    row_format = RowFormat(threshold, keep_text)
    partial = PartialFile(output, _settings(own, inputs, row_format), block)
    summary = Summary()
    with partial.opened(overwrite=overwrite):
        check_output(output, overwrite=overwrite)  # another process may have just written it
        blocks = own.score_blocks(inputs.records, partial.num_rows, block, row_format)
        partial.fill(blocks, summary, on_block)
        _check_complete(summary, inputs)
        write_text(spec_path(output), own.spec.to_json())
        publish(partial, keep_text)
    return summary


def _settings(scorer: BlockScorer, inputs: Survey, row_format: RowFormat) -> dict[str, Any]:
    """Return everything that rows depend on."""
    identity, chosen = scorer.identity(), scorer.spec.to_dict()
    fields = ("step_aggregation", "objective_aggregation", "shaping")
    return {
        "model": identity["model"],
        "input": f"of {inputs.num_records} records ({inputs.fingerprint})",
        "dtype": identity["dtype"],
        "aggregation": {name: chosen[name] for name in fields},
        "threshold": row_format.threshold,
        "keep_text": row_format.keep_text,
        "version of prm": prm.__version__,
    }


def _check_complete(summary: Summary, inputs: Survey) -> None:
    if summary.num_records != inputs.num_records:
        raise DataError(
            "the input changed while it was scored",
            expected=f"{inputs.num_records} records",
            got=summary.num_records,
            fix="Score it again with --overwrite",
        )
