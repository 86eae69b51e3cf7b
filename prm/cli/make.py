"""`prm data make`: write generated data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from prm.data.synthetic.arithmetic import AfterError, ArithmeticConfig, Split, generate
from prm.data.synthetic.equations import Difficulty
from prm.data.synthetic.mistakes import ERROR_KINDS, ErrorKind
from prm.data.writers import write_chains
from prm.errors import ConfigError
from prm.records import Chain


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
    chains = _show_progress(islice(generate(config), num_chains), num_chains)
    write_chains(chains, output, overwrite=overwrite)


def _show_progress(chains: Iterable[Chain], total: int) -> Iterator[Chain]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(chains, "Generating chains", total=total, console=console, transient=True)
