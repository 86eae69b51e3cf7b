"""What the policies learn: demonstrations, prompts of either split, and exact gold values."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from statistics import fmean

from prm.data.synthetic import arithmetic, replies
from prm.data.synthetic.equations import Difficulty, Equation, solve
from prm.data.synthetic.gold import OBJECTIVES, gold_values
from prm.data.synthetic.options import Split

STEP = re.compile(r"(\d+) ([-+*]) (\d+) = (-?\d+)")
OPERAND = re.compile(r"\d+|[-+*]")
NUM_OPERATIONS = 3

Gold = Mapping[str, float]


@dataclass(frozen=True)
class Task:
    """A kind of prompt.

    Args:
        name: For folders and commands.
        demonstrations: From a seed to pairs of a prompt and an imperfect response to it, without
            end; training split.
        prompts: From a split and a seed to prompts, without end.
        gold: From a prompt and a response to values in [0, 1], by name.
        max_new_tokens: Longest response, in words.
    """

    name: str
    demonstrations: Callable[[int], Iterator[tuple[str, str]]]
    prompts: Callable[[Split, int], Iterator[str]]
    gold: Callable[[str, str], Gold]
    max_new_tokens: int

    def distinct_prompts(self, split: Split, number: int, seed: int = 0) -> list[str]:
        """Return the first different prompts of a split."""
        seen = dict.fromkeys(islice(self.prompts(split, seed), 4 * number))
        return list(seen)[:number]


def chains(level: Difficulty, seed: int) -> Iterator[tuple[str, str]]:
    """Yield problems with their chains, every other one with a mistake."""
    config = arithmetic.ArithmeticConfig(level, split="train", seed=seed)
    for chain in arithmetic.generate(config):
        yield str(chain.prompt), "\n".join(chain.completions)


def problems(level: Difficulty, split: Split, seed: int) -> Iterator[str]:
    """Yield problems of three operations, which is what the process model was trained on."""
    config = arithmetic.ArithmeticConfig(level, error_rate=0, split=split, seed=seed)
    for chain in arithmetic.generate(config):
        if len(chain.completions) == NUM_OPERATIONS:
            yield str(chain.prompt)


def solution(prompt: str) -> list[Equation]:
    """Return the right steps of a generated problem.

    Example:
        >>> [str(step) for step in solution("Compute (2 + 20) - 4.")]
        ['2 + 20 = 22', '22 - 4 = 18']
    """
    first, *rest = OPERAND.findall(prompt)
    value, steps = int(first), []
    for operation, right in zip(rest[::2], rest[1::2], strict=True):
        steps.append(solve(value, operation, int(right)))  # type: ignore[arg-type]
        value = steps[-1].result
    return steps


def arithmetic_gold(prompt: str, response: str) -> Gold:
    """Judge a chain.

    - correct: 1 if it is the solution: every step, and so the answer, is right, none is missing.
    - answer: 1 if its last number is the answer.
    - steps: share of its steps that are true equations, whatever they have to do with the problem.
    - complete: 1 if it has as many steps as the problem has operations.

    Example:
        >>> arithmetic_gold("Compute (2 + 20) - 4.", "2 + 20 = 23\\n23 - 4 = 19")
        {'correct': 0.0, 'answer': 0.0, 'steps': 0.5, 'complete': 1.0}
    """
    right = [str(step) for step in solution(prompt)]
    written = [line.strip() for line in response.split("\n") if line.strip()]
    answer = written[-1].rpartition(" ")[2] if written else ""
    return {
        "correct": float(written == right),
        "answer": float(answer == right[-1].rpartition(" ")[2]),
        "steps": sum(map(_is_true, written)) / max(len(written), 1),
        "complete": float(len(written) == len(right)),
    }


def _is_true(step: str) -> bool:
    found = STEP.fullmatch(step)
    if not found:
        return False
    left, operation, right, _ = found.groups()
    return str(solve(int(left), operation, int(right))) == step  # type: ignore[arg-type]


def reply_demonstrations(seed: int) -> Iterator[tuple[str, str]]:
    """Yield prompts with one reply each, of any quality."""
    config = replies.ReplyConfig(num_responses=1, split="train", seed=seed)
    for candidates in replies.generate_candidates(config):
        yield candidates.prompt, candidates.replies[0].text


def reply_prompts(split: Split, seed: int) -> Iterator[str]:
    """Yield prompts."""
    config = replies.ReplyConfig(num_responses=1, split=split, seed=seed)
    return (candidates.prompt for candidates in replies.generate_candidates(config))


def reply_gold(prompt: str, response: str) -> Gold:
    """Return the gold values and their mean; factuality is 0 where nothing is stated."""
    values = gold_values(prompt, response)
    known = {name: values[name] or 0.0 for name in OBJECTIVES}
    return known | {"mean": fmean(known.values())}


def _arithmetic(name: str, level: Difficulty) -> Task:
    return Task(name, partial(chains, level), partial(problems, level), arithmetic_gold, 24)


ARITHMETIC = _arithmetic("arithmetic", "default")
EASY_ARITHMETIC = _arithmetic("arithmetic-easy", "easy")
REPLIES = Task("replies", reply_demonstrations, reply_prompts, reply_gold, 64)
TASKS = {task.name: task for task in (ARITHMETIC, EASY_ARITHMETIC, REPLIES)}
