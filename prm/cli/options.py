"""Options: a command is a dataclass of them, and those that several commands share stand here once.

A command inherits the groups that it needs; the first line of a group is its heading in the help.
Nothing here imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from prm.data.sources.source import OnError
from prm.errors import ConfigError

if TYPE_CHECKING:
    import torch


OptionRules = tuple[tuple[str, ...], ...]
"""Groups of options that have to do with each other, as they are written: `--engine ray`."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options that are checked when they are set, before anything heavy is loaded.

    A command is a subclass with a method `run` that returns its exit code (`None` counts as 0).

    Raises:
        ConfigError: Options contradict each other, or the other half of one is missing.
    """

    CONFLICTS: ClassVar[OptionRules] = ()
    """Options that do not go together."""

    NEEDS: ClassVar[OptionRules] = ()
    """An option, and those of which it needs one."""

    def __post_init__(self) -> None:
        given = self.given()
        for first, second in self._rules("CONFLICTS"):
            if {first, second} <= given:
                problem = f"{first} and {second} contradict each other"
                raise ConfigError(problem, fix="Give one of them")
        for name, *others in self._rules("NEEDS"):
            if name in given and not given.intersection(others):
                missing = " or ".join(others)
                raise ConfigError(f"{name} needs {missing}", fix=f"Give {missing} as well")

    def given(self) -> set[str]:
        """Return the options that differ from their default: `--engine`, and `--engine ray`."""
        found = set()
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                found |= {f"--{field.name}", f"--{field.name} {value}"}
        return found

    def _rules(self, name: str) -> list[tuple[str, ...]]:
        """Return the rules of all groups, those of the command itself last."""
        return [rule for owner in type(self).__mro__[::-1] for rule in vars(owner).get(name, ())]


def check_least(option: str, value: float | None, least: int) -> None:
    """Refuse a number that is given and too small.

    Raises:
        ConfigError: It is below `least`.
    """
    if value is not None and value < least:
        raise ConfigError(f"{option} is wrong", expected=f"at least {least}", got=value)


@dataclass(frozen=True, kw_only=True)
class RowOptions(Options):
    """What is read.

    Args:
        on_error: What a wrong row, or one whose id came before, does: raise stops the command, skip
            leaves it out, and says at the end how many there were for each reason.
    """

    on_error: OnError = "raise"


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Options):
    """The model.

    Args:
        model: Folder of the reward model, as `prm fit` saved it.
    """

    model: Path


@dataclass(frozen=True, kw_only=True)
class StoredOptions(Options):
    """Scores, stored or to be made.

    Args:
        scores: Scores that `prm score` wrote, .jsonl or .parquet.
        model: Folder of the model that gave the scores, if no spec lies beside them.
    """

    scores: Path | None = None
    model: Path | None = None

    def given(self) -> set[str]:
        return super().given() | (set() if self.scores is None else {"SCORES"})


@dataclass(frozen=True, kw_only=True)
class OverwriteOptions(Options):
    """What exists already.

    Args:
        overwrite: Replace the output if it exists, and what lies beside it: scores, unfinished rows
            of other options. A folder is replaced only if it holds what the command writes.
    """

    NEEDS: ClassVar[OptionRules] = (("--overwrite", "--output"),)

    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class JsonOptions(Options):
    """How results are shown.

    Args:
        json: Print each result as one line of JSON instead of drawing it.
    """

    json: bool = False


@dataclass(frozen=True, kw_only=True)
class AggregationOptions(Options):
    """How scores become the reward.

    Args:
        aggregation: Of objectives: a class (WeightedSum, WorstCase, ...), or a YAML file as in
            configs/aggregation. Of steps: min, product, mean, last, mean_logit or softmin. By
            default as the spec says, and stored rewards stay as they are.
        aggregation_overrides: Parameters of the aggregation to change, as JSON;
            --aggregation.weights.safety=2 is the short way to write {"weights.safety": 2}, and
            --aggregation.beta=20 sharpens softmin.
    """

    aggregation: str | None = None
    aggregation_overrides: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class ShapingOptions(Options):
    """How scores become the reward.

    Args:
        shaping: Fields of the reward's shaping to change, as JSON; --shaping.clip='[-5,5]' is the
            short way to write {"clip": [-5, 5]}.
    """

    shaping: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class DTypeOptions(Options):
    """Where and how models run.

    Args:
        dtype: Type of the backbone's weights; by default as stored. Heads stay float32.
    """

    dtype: Literal["float32", "bfloat16", "float16"] | None = None

    def torch_dtype(self) -> torch.dtype | None:
        """Return the type as torch has it; `None` if it is not given."""
        import torch

        found: torch.dtype | None = None if self.dtype is None else getattr(torch, self.dtype)
        return found


@dataclass(frozen=True, kw_only=True)
class ForwardOptions(Options):
    """Where and how models run.

    Args:
        device: cpu, cuda, cuda:1, ...; auto takes a GPU if there is one.
        max_tokens: Tokens in one forward pass of the reward model: sets the memory, not the scores.

    Raises:
        ConfigError: A forward pass has no tokens.
    """

    device: str = "auto"
    max_tokens: int = 16384

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least("--max_tokens", self.max_tokens, 1)


@dataclass(frozen=True, kw_only=True)
class ScoringOptions(AggregationOptions, ForwardOptions):
    """What a model is asked to score with."""
