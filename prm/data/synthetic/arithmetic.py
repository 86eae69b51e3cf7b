"""Arithmetic chains with exactly known step labels: unlimited, deterministic, shardable.

A problem is a left-nested expression; each step of its chain computes one operation and writes it
as an equation. In a wrong chain one step makes a mistake of a named kind, and the steps after it go
on correctly from the wrong value. Every step is equally likely to be wrong as long as those before
it were right, so that its position says nothing; and a mistake stays within the number ranges that
correct steps have, so that only doing the arithmetic, or comparing a step with the problem and the
steps before it, tells right from wrong.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, get_args

from prm.data.synthetic.equations import LEVELS, Difficulty, Equation, Level, solve
from prm.data.synthetic.mistakes import ERROR_KINDS, MISTAKES, ErrorKind
from prm.data.synthetic.options import Split, check_choices, split_of
from prm.errors import ConfigError
from prm.records import Chain

AfterError = Literal["unlabeled", "wrong", "local"]

MAX_PROBLEMS = 1000
"""Problems that are tried for one wrong chain before its kinds of mistakes are given up."""


@dataclass(frozen=True, slots=True)
class ArithmeticConfig:
    """Which chains are made.

    What a difficulty is stands in `LEVELS`.

    Args:
        difficulty: Number ranges, operations and number of steps.
        error_rate: Share of chains with a wrong step, in [0, 1).
        error_kinds: Kinds of mistakes to draw from, uniformly among those the step allows.
        after_error: Label of the steps after the first wrong one, which are computed correctly
            from a wrong value: none (`unlabeled`, as ProcessBench sees them), 0 (`wrong`), or 1
            (`local`: each step is judged by itself).
        split: `train` and `test` never share a problem, whatever their seeds; `all` does not care.
        seed: Equal seeds give equal data: record i depends on these options and i alone.

    Raises:
        ConfigError: An option is not one of those above.
    """

    difficulty: Difficulty = "default"
    error_rate: float = 0.5
    error_kinds: tuple[ErrorKind, ...] = ERROR_KINDS
    after_error: AfterError = "unlabeled"
    split: Split = "all"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.error_rate < 1:
            raise ConfigError(
                "error_rate is out of range", expected="a number in [0, 1)", got=self.error_rate
            )
        if not self.error_kinds:
            raise ConfigError("error_kinds is empty", expected="at least one kind")
        check_choices("difficulty", [self.difficulty], get_args(Difficulty))
        check_choices("error_kinds", self.error_kinds, ERROR_KINDS)
        check_choices("after_error", [self.after_error], get_args(AfterError))
        check_choices("split", [self.split], get_args(Split))


def generate(config: ArithmeticConfig, start: int = 0, stride: int = 1) -> Iterator[Chain]:
    """Yield chains `start`, `start + stride`, ... without end; rank r of n takes (r, n).

    Example:
        >>> first, third = itertools.islice(generate(ArithmeticConfig(), stride=2), 2)
        >>> first.id, third.id
        ('arithmetic-default-all-0-0', 'arithmetic-default-all-0-2')
    """
    for index in itertools.count(start, stride):
        yield make_chain(config, index)


def make_chain(config: ArithmeticConfig, index: int) -> Chain:
    """Return chain `index` of a configuration.

    Raises:
        ConfigError: The difficulty has no room for any of the kinds of mistakes, as for
            `wrong_sign` where no result is negative.

    Example:
        >>> chain = make_chain(ArithmeticConfig(seed=1), 6)
        >>> chain.prompt
        'Compute ((2 + 20) + 14) - 14.'
        >>> chain.completions
        ('2 + 20 = 22', '22 + 14 = 36', '36 - 14 = 21')
        >>> chain.labels["correctness"], chain.metadata["error_kind"]
        ((1.0, 1.0, 0.0), 'off_by_one')
    """
    rng = Random(f"{config.difficulty}/{config.split}/{config.seed}/{index}")
    is_wrong = rng.random() < config.error_rate
    level = LEVELS[config.difficulty]
    for _ in range(MAX_PROBLEMS):
        solution = _draw_solution(level, config.split, rng)
        if not is_wrong:
            return _record(config, index, solution, solution)
        error_step = _draw_error_step(config.error_rate, len(solution), rng)
        for kind in rng.sample(config.error_kinds, len(config.error_kinds)):
            steps = _make_mistake(level, solution, error_step, kind, rng)
            if steps:
                return _record(config, index, solution, steps, kind, error_step)
    raise ConfigError(
        "no step of this difficulty can make such a mistake",
        expected=f"error_kinds that fit {config.difficulty!r}",
        got=", ".join(config.error_kinds),
        fix="Add other kinds or choose a harder difficulty",
    )


def expression(steps: Sequence[Equation]) -> str:
    """Return the problem that steps solve, one pair of brackets per step but the last.

    Example:
        >>> expression([solve(17, "+", 25), solve(42, "-", 8)])
        '(17 + 25) - 8'
    """
    text = "(" * (len(steps) - 1) + str(steps[0].left)
    brackets = [")"] * (len(steps) - 1) + [""]
    for step, bracket in zip(steps, brackets, strict=True):
        text += f" {step.operation} {step.right}{bracket}"
    return text


def _draw_solution(level: Level, split: Split, rng: Random) -> list[Equation]:
    while True:
        value = rng.randint(*level.operands)
        steps: list[Equation] = []
        for _ in range(rng.randint(*level.steps)):
            steps.append(level.draw(value, rng))
            value = steps[-1].result
        if split in ("all", split_of(expression(steps))):
            return steps


def _draw_error_step(error_rate: float, num_steps: int, rng: Random) -> int:
    """Draw the wrong step of a wrong chain so that all steps err at one rate if reached.

    The rate r satisfies (1 - r)^num_steps = 1 - error_rate.
    """
    reach = (1 - error_rate) ** (1 / num_steps)
    return rng.choices(range(num_steps), [reach**step for step in range(num_steps)])[0]


def _make_mistake(
    level: Level, solution: Sequence[Equation], error_step: int, kind: ErrorKind, rng: Random
) -> list[Equation] | None:
    """Return the steps of a chain that is wrong at `error_step`, or `None` if it cannot be."""
    right_step = solution[error_step]
    numbers = [solution[0].left, *(step.right for step in solution)]
    numbers += [step.result for step in solution[:error_step]]
    options = {
        step
        for step in MISTAKES[kind](right_step, numbers)
        if step != right_step and step.result != right_step.result and level.allows(step)
    }
    for wrong_step in rng.sample(sorted(options), len(options)):
        steps = [*solution[:error_step], wrong_step]
        for step in solution[error_step + 1 :]:
            steps.append(solve(steps[-1].result, step.operation, step.right))
        if all(level.allows(step) for step in steps):
            return steps
    return None


def _record(
    config: ArithmeticConfig,
    index: int,
    solution: Sequence[Equation],
    steps: Sequence[Equation],
    kind: ErrorKind | None = None,
    error_step: int | None = None,
) -> Chain:
    labels: list[float | None] = [1.0] * len(steps)
    if error_step is not None:
        after = {"unlabeled": None, "wrong": 0.0, "local": 1.0}[config.after_error]
        labels[error_step:] = [0.0] + [after] * (len(steps) - error_step - 1)
    return Chain(
        f"Compute {expression(solution)}.",
        [str(step) for step in steps],
        labels,
        id=f"arithmetic-{config.difficulty}-{config.split}-{config.seed}-{index}",
        source="arithmetic",
        metadata={
            "difficulty": config.difficulty,
            "error_kind": kind,
            "error_step": error_step,
            "operations": [step.operation for step in solution],
            "answer": solution[-1].result,
        },
    )
