"""Search over a file of prompts: one row per prompt, whatever interrupts it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import prm
from prm.records import Prompt
from prm.scores.partial import PartialFile, in_blocks
from prm.scores.rows import Row
from prm.search.candidates import SearchResult
from prm.search.problems import Problem, check_output, fingerprint

NUM_REASONS = 3
"""Different reasons for prompts without a choice that a summary names."""

Search = Callable[[Sequence[Prompt]], list[SearchResult]]


@dataclass(slots=True)
class SearchSummary:
    """What a search over a file did.

    Args:
        num_prompts: Rows in the output.
        num_chosen: Prompts with a chosen response.
        num_candidates: Everything that was scored.
        num_resumed: Rows that an earlier, interrupted run had written.
        total_reward: Sum of the rewards of the chosen ones that have one.
        num_rewards: Their number.
        reasons: Why the first prompts without a choice have none.
    """

    num_prompts: int = 0
    num_chosen: int = 0
    num_candidates: int = 0
    num_resumed: int = 0
    total_reward: float = 0.0
    num_rewards: int = 0
    reasons: list[str] = field(default_factory=list)

    @property
    def mean_reward(self) -> float | None:
        """Mean reward of the chosen responses; `None` if there is none."""
        return self.total_reward / self.num_rewards if self.num_rewards else None

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Count rows of the output."""
        for row in rows:
            self.num_prompts += 1
            self.num_candidates += len(row["candidates"])
            self.num_chosen += row["best"] is not None
            if row["reward"] is not None:
                self.num_rewards += 1
                self.total_reward += row["reward"]
            if row["best"] is None and len(self.reasons) < NUM_REASONS:
                self.reasons = list(dict.fromkeys([*self.reasons, row["reason"]]))


def search_file(
    search: Search,
    problems: Sequence[Problem],
    output: Path,
    settings: Mapping[str, Any],
    *,
    overwrite: bool = False,
    block: int = 8,
    on_block: Callable[[SearchSummary], None] | None = None,
) -> SearchSummary:
    """Search each prompt, or continue where an earlier call was interrupted.

    Every prompt has one row, in order: its id and `SearchResult.to_row()`. Until it is complete,
    the file is `<output>.partial`.

    Args:
        search: Searches a few prompts together.
        problems: The prompts.
        output: JSON lines.
        settings: What the rows depend on beside the prompts, as JSON values by name.
        overwrite: Replace an output, or unfinished rows that were made with other settings.
        block: Prompts that are searched and synced to the disk together; a kill loses at most
            these.
        on_block: Called at the start and after every block with the summary so far.

    Raises:
        OutputError: The output exists, or cannot be written; finished blocks stay for the next run.
        ConfigError: Unfinished rows were made with other prompts or settings.
        PrmError: The search fails.
    """
    known = {"input": fingerprint(problems), **settings, "version of prm": prm.__version__}
    partial = PartialFile(output, known, block)
    summary = SearchSummary()
    with partial.opened(overwrite=overwrite):
        check_output(output, overwrite=overwrite)  # another process may have just written it
        rest = problems[partial.num_rows :]
        partial.fill(_found(search, rest, block), summary, on_block)
        partial.publish()
    return summary


def _found(
    search: Search, problems: Sequence[Problem], block: int
) -> Generator[list[Row], None, None]:
    """Yield the rows of problems, block by block."""
    for some in in_blocks(problems, block):
        found = search([problem.prompt for problem in some])
        yield [
            {"id": problem.id, **result.to_row()}
            for problem, result in zip(some, found, strict=True)
        ]
