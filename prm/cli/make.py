"""`prm data make`: write generated data."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from prm.cli.options import OverwriteOptions
from prm.cli.stored import progress
from prm.data.sources.writers import write_records
from prm.data.synthetic.arithmetic import ArithmeticConfig, generate
from prm.data.synthetic.replies import ReplyConfig
from prm.data.synthetic.reply_labels import LabelConfig, make_records
from prm.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Arithmetic(OverwriteOptions, ArithmeticConfig):
    """Write arithmetic chains whose step labels are known exactly.

    Args:
        output: File to write: JSON lines, or Parquet if the name ends in `.parquet`.
        num_chains: Number of chains, at least 1.
    """

    output: Path
    num_chains: int = 10_000

    def __post_init__(self) -> None:
        if self.num_chains < 1:
            raise ConfigError("num_chains is too small", expected="at least 1", got=self.num_chains)
        ArithmeticConfig.__post_init__(self)

    def run(self) -> None:
        """Write the file."""
        count = self.num_chains
        chains = progress("Generating chains", count)(islice(generate(self), count))
        write_records(chains, self.output, overwrite=self.overwrite)


@dataclass(frozen=True, kw_only=True)
class Replies(OverwriteOptions, ReplyConfig, LabelConfig):
    """Write assistant replies whose helpfulness, safety and factuality are known exactly.

    Args:
        output: File to write: JSON lines, or, unless supervision is mixed, Parquet.
        num_prompts: Number of prompts, at least 1.
    """

    output: Path
    num_prompts: int = 10_000

    def __post_init__(self) -> None:
        if self.num_prompts < 1:
            got = self.num_prompts
            raise ConfigError("num_prompts is too small", expected="at least 1", got=got)
        ReplyConfig.__post_init__(self)
        LabelConfig.__post_init__(self)

    def run(self) -> None:
        """Write the file."""
        count = self.num_prompts
        indices = progress("Generating replies", count)(range(count))
        records = chain.from_iterable(make_records(self, self, index) for index in indices)
        write_records(records, self.output, overwrite=self.overwrite)
