"""Batch scoring: chains of any number in, one row per chain out, in order, whatever interrupts it.

Memory is bounded by one block of chains. A run that was killed at any point continues after its
last whole block when it is started again. On the same hardware, with the same number of threads and
`max_tokens`, the finished file is byte for byte that of an uninterrupted run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import prm
from prm.atomic import atomic_file
from prm.data.writers import check_output
from prm.errors import DataError, OutputError
from prm.records import Chain
from prm.scoring.partial import PartialFile

if TYPE_CHECKING:
    import pyarrow as pa

    from prm.scoring.scorer import ChainScore, RewardScorer

BLOCK = 256
"""Chains that are scored and synced to the disk together; a kill loses at most these."""

NUM_REASONS = 3
"""Unscored chains that a summary names."""

_ROWS_PER_GROUP = 1024


@dataclass(frozen=True, slots=True)
class Survey:
    """Chains that were read once: they are all readable, and it is known how many and which.

    Args:
        chains: The chains; iterating them again gives the same ones.
        num_chains: Their number.
        fingerprint: Hash of their texts, labels and ids, in order.
    """

    chains: Iterable[Chain]
    num_chains: int
    fingerprint: str


def survey(chains: Iterable[Chain]) -> Survey:
    """Read chains once, in bounded memory.

    Args:
        chains: A list, a `ChainSource`, or anything else that can be iterated repeatedly.

    Raises:
        DataError: A row cannot be read, or there is none.

    Example:
        >>> survey([Chain("1 + 1?", ["2"]), Chain("1 + 2?", ["3"])]).num_chains
        2
    """
    digest = hashlib.sha256()
    count = 0
    for chain in chains:
        count += 1
        digest.update(json.dumps(chain.to_row(), default=str).encode())
    if count == 0:
        raise DataError("there is no chain to score")
    return Survey(chains, count, digest.hexdigest()[:16])


@dataclass(slots=True)
class Summary:
    """What batch scoring did.

    Args:
        num_chains: Rows in the output.
        num_scored: Chains with a reward.
        num_truncated: Chains with steps that were cut off at the model's `max_length`.
        num_resumed: Rows that an earlier, interrupted run had written.
        total_reward: Sum of the rewards.
        reasons: Why the first chains without a reward have none.
    """

    num_chains: int = 0
    num_scored: int = 0
    num_truncated: int = 0
    num_resumed: int = 0
    total_reward: float = 0.0
    reasons: list[str] = field(default_factory=list)

    @property
    def mean_reward(self) -> float | None:
        """Mean reward of the scored chains; `None` if there is none."""
        return self.total_reward / self.num_scored if self.num_scored else None

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Count rows of the output."""
        for row in rows:
            self.num_chains += 1
            self.num_truncated += row["num_truncated"] > 0
            if row["reward"] is not None:
                self.num_scored += 1
                self.total_reward += row["reward"]
            elif len(self.reasons) < NUM_REASONS:
                self.reasons.append(row["reason"])


def score_file(
    scorer: RewardScorer,
    inputs: Survey,
    output: str | Path,
    *,
    threshold: float = 0.5,
    keep_text: bool = False,
    overwrite: bool = False,
    on_block: Callable[[Summary], None] | None = None,
) -> Summary:
    """Score chains into a file, or continue where an earlier call was interrupted.

    Every chain has one row, in the order of the input: `ChainScore.to_row()`, with a null reward
    and a reason if it could not be scored. Until it is complete, the file is `<output>.partial`.

    Args:
        scorer: Scores the chains.
        inputs: The chains, from `survey`.
        output: JSON lines (`.jsonl`) or Parquet (`.parquet`).
        threshold: The first step with a probability below it is the row's `first_error`.
        keep_text: Add `prompt`, `completions` and `labels` to the rows.
        overwrite: Replace an output, or unfinished rows that were made with other settings.
        on_block: Called at the start and after every block with the summary so far.

    Raises:
        OutputError: The output exists, or cannot be written; finished blocks stay for the next run.
        ConfigError: Unfinished rows were made with another model, input or option.
        DataError: The chains are not those that were surveyed.

    Example:
        >>> score_file(scorer, survey(chains), "scores.jsonl").mean_reward  # doctest: +SKIP
        0.731
    """
    output = Path(output)
    check_output(output, overwrite=overwrite)
    settings = _settings(scorer, inputs, threshold, keep_text)
    partial = PartialFile(output, settings, BLOCK)
    with partial.opened(overwrite=overwrite):
        summary = Summary(num_resumed=partial.num_rows)
        summary.add(partial.rows())
        _report(on_block, summary)
        for block in _blocks(islice(inputs.chains, partial.num_rows, None)):
            scores = scorer.score(block)
            rows = [_row(*pair, threshold, keep_text) for pair in zip(block, scores, strict=True)]
            partial.append(rows)
            summary.add(rows)
            _report(on_block, summary)
        _check_complete(summary, inputs)
        _publish(partial, [objective.name for objective in scorer.spec.objectives], keep_text)
    return summary


def _report(on_block: Callable[[Summary], None] | None, summary: Summary) -> None:
    if on_block is not None:
        on_block(summary)


def _blocks(chains: Iterator[Chain]) -> Iterator[list[Chain]]:
    while block := list(islice(chains, BLOCK)):
        yield block


def _settings(
    scorer: RewardScorer, inputs: Survey, threshold: float, keep_text: bool
) -> dict[str, Any]:
    """Return everything that rows depend on; the golden scores stand for the weights."""
    from prm.aggregation.steps import to_dict
    from prm.models.checkpoint import golden_scores

    spec = scorer.spec.with_(golden=scorer.spec.golden or golden_scores(scorer.model))
    return {
        "model": hashlib.sha256(spec.to_json().encode()).hexdigest()[:16],
        "input": f"of {inputs.num_chains} chains ({inputs.fingerprint})",
        "dtype": str(next(scorer.model.backbone.parameters()).dtype).removeprefix("torch."),
        "aggregation": to_dict(scorer.aggregation),
        "threshold": threshold,
        "keep_text": keep_text,
        "version of prm": prm.__version__,
    }


def _row(chain: Chain, score: ChainScore, threshold: float, keep_text: bool) -> dict[str, Any]:
    row = score.to_row(threshold)
    if keep_text:
        text = chain.to_row()
        labels = {name: list(values) for name, values in chain.labels.items()}
        row |= {
            "prompt": text["prompt"],
            "completions": text["completions"],
            "labels": labels or None,
        }
    return row


def _check_complete(summary: Summary, inputs: Survey) -> None:
    if summary.num_chains != inputs.num_chains:
        raise DataError(
            "the input changed while it was scored",
            expected=f"{inputs.num_chains} chains",
            got=summary.num_chains,
            fix="Score it again with --overwrite",
        )


def _publish(partial: PartialFile, objectives: list[str], keep_text: bool) -> None:
    if partial.output.suffix == ".jsonl":
        partial.publish()
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema(objectives, _text_fields(partial) if keep_text else [])
    with (
        atomic_file(partial.output) as stream,
        pq.ParquetWriter(stream, schema) as writer,
    ):
        for rows in _groups(partial):
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    partial.remove()


def _groups(partial: PartialFile) -> Iterator[list[dict[str, Any]]]:
    rows = partial.rows()
    while group := list(islice(rows, _ROWS_PER_GROUP)):
        yield group


def _schema(objectives: list[str], text_fields: list[pa.Field]) -> pa.Schema:
    import pyarrow as pa

    def by_objective(kind: pa.DataType) -> pa.DataType:
        return pa.struct([(name, kind) for name in objectives])

    number, numbers = pa.float64(), pa.list_(pa.float64())
    return pa.schema(
        [
            ("id", pa.string()),
            ("reward", number),
            ("aggregation", pa.string()),
            ("scores", by_objective(number)),
            ("step_probabilities", by_objective(numbers)),
            ("step_logits", by_objective(numbers)),
            ("first_error", pa.int64()),
            ("num_truncated", pa.int64()),
            ("reason", pa.string()),
            *text_fields,
        ]
    )


def _text_fields(partial: PartialFile) -> list[pa.Field]:
    """Return the fields of the texts; their types are known when all rows have been seen."""
    import pyarrow as pa

    names = ("prompt", "completions", "labels")
    schema = pa.schema([])
    try:
        for rows in _groups(partial):
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
