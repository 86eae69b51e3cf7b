"""`prm data make`: write generated data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

from prm.data.sources.writers import write_records
from prm.data.synthetic.arithmetic import AfterError, ArithmeticConfig, generate
from prm.data.synthetic.equations import Difficulty
from prm.data.synthetic.mistakes import ERROR_KINDS, ErrorKind
from prm.data.synthetic.options import Split
from prm.data.synthetic.replies import Correlation, ReplyConfig
from prm.data.synthetic.reply_labels import LabelConfig, Supervision, make_records
from prm.errors import ConfigError

T = TypeVar("T")


def arithmetic(
    output: Path,
    num_chains: int = 10_000,
    difficulty: Difficulty = "default",
    error_rate: float = 0.5,
    error_kinds: tuple[ErrorKind, ...] = ERROR_KINDS,
    after_error: AfterError = "unlabeled",
    split: Split = "all",
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Write arithmetic chains whose step labels are known exactly.

    Args:
        output: File to write: JSON lines, or Parquet if the name ends in `.parquet`.
        num_chains: Number of chains, at least 1.
        difficulty: Number ranges, operations and number of steps.
        error_rate: Share of chains with a wrong step, in [0, 1).
        error_kinds: Kinds of mistakes to make.
        after_error: Label of the steps after the first wrong one: none, 0 or 1.
        split: Which problems to use; `train` and `test` never share one, whatever their seeds.
        seed: Same seed, same chains.
        overwrite: Replace the file if it exists.
    """
    if num_chains < 1:
        raise ConfigError("num_chains is too small", expected="at least 1", got=num_chains)
    config = ArithmeticConfig(difficulty, error_rate, error_kinds, after_error, split, seed)
    chains = _show_progress(islice(generate(config), num_chains), num_chains, "Generating chains")
    write_records(chains, output, overwrite=overwrite)


def replies(
    output: Path,
    num_prompts: int = 10_000,
    num_responses: int = 4,
    correlation: Correlation = "independent",
    supervision: Supervision = "mixed",
    label_noise: float = 0.0,
    num_votes: int = 0,
    split: Split = "all",
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Write assistant replies whose helpfulness, safety and factuality are known exactly.

    Args:
        output: File to write: JSON lines, or, unless supervision is mixed, Parquet.
        num_prompts: Number of prompts, at least 1.
        num_responses: Replies per prompt, 1 to 16.
        correlation: How the objectives go together: all rise together, they say nothing about each
            other, or the most helpful replies are the unsafe and wrong ones.
        supervision: Rate every reply for every objective (`ratings`), compare every two replies to
            a prompt for every objective (`pairs`), or supervise one objective per prompt: pairs for
            helpfulness, ratings for safety and factuality (`mixed`).
        label_noise: Probability that a judgment is turned around, in [0, 0.5].
        num_votes: Raters who vote on each pair; 0 for one judgment without a vote count.
        split: Which prompts to use; `train` and `test` never ask for the same, whatever their
            seeds.
        seed: Same seed, same replies.
        overwrite: Replace the file if it exists.
    """
    if num_prompts < 1:
        raise ConfigError("num_prompts is too small", expected="at least 1", got=num_prompts)
    config = ReplyConfig(num_responses, correlation, split, seed)
    labels = LabelConfig(supervision, label_noise, num_votes)
    indices = _show_progress(range(num_prompts), num_prompts, "Generating replies")
    records = chain.from_iterable(make_records(config, labels, index) for index in indices)
    write_records(records, output, overwrite=overwrite)


def _show_progress(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(items, what, total=total, console=console, transient=True)
