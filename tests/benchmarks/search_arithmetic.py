"""What search is worth on arithmetic: accuracy by method and budget. Run after `make demo`:

    python -m tests.benchmarks.search_arithmetic
    python -m tests.benchmarks.search_arithmetic --problems 40 --samples 32

The policy is that of the RL studies, trained from scratch on chains of which every other one has a
mistake (about two minutes on one thread, once); the reward model is the demo's. One set of samples
serves all methods: best of n is the exact mean over all subsets of n samples, votes are the mean
over random subsets, and beam search with width times expand = n is run for itself. Results go to
`runs/search/arithmetic.json`.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from prm.atomic import write_text
from prm.generators.generator import Sampling
from prm.generators.local import LocalGenerator
from prm.metrics.best_of_n import expected_best_of_n, pass_at_n
from prm.metrics.intervals import cluster_bootstrap
from prm.scores.reaggregate import with_aggregations
from prm.scoring.scorer import RewardScorer
from prm.scoring.session import ScoringSession
from prm.search.beam import beam_search
from prm.search.best_of_n import best_of_n, choose_again
from prm.search.candidates import SearchResult
from prm.search.choice import count_votes
from prm.spec import Template
from tests.benchmarks.rl.policy import policy_folder
from tests.benchmarks.rl.tasks import ARITHMETIC, solution

MODEL, OUTPUT = Path("runs/arithmetic/model"), Path("runs/search/arithmetic.json")
AGGREGATIONS = ("min", "product", "mean", "last")
BEAMS = {4: (2, 2), 8: (2, 4), 16: (4, 4), 32: (4, 8)}
"""Budget to width and expand."""

NUM_SUBSETS = 50
"""Random subsets of the samples that a vote is averaged over."""

Accuracies = list[float]
"""Chance of a right answer, problem by problem."""


def right(result: SearchResult) -> str:
    """Return the answer of a problem."""
    return str(solution(str(result.prompt))[-1].result)


def by_reward(found: Sequence[SearchResult], n: int) -> Accuracies:
    """Return the accuracy of the best of n by the rewards at hand."""
    return [
        expected_best_of_n(
            [-1.0 if one.reward is None else one.reward for one in result.candidates],
            [one.answer == right(result) for one in result.candidates],
            n,
        )
        for result in found
    ]


def by_oracle(found: Sequence[SearchResult], n: int) -> Accuracies:
    """Return the chance that one of n is right."""
    return [
        pass_at_n(
            sum(one.answer == right(result) for one in result.candidates),
            len(result.candidates),
            n,
        )
        for result in found
    ]


def by_vote(found: Sequence[SearchResult], n: int, *, weighted: bool) -> Accuracies:
    """Return the accuracy of a vote among n, averaged over random subsets."""
    return [
        fmean(_vote(result, subset, weighted) for subset in _subsets(len(result.candidates), n))
        for result in found
    ]


def _vote(result: SearchResult, subset: Sequence[int], weighted: bool) -> float:
    voters = [result.candidates[index] for index in subset]
    weights = [one.vote if weighted else 1.0 for one in voters]
    votes = count_votes([one.answer for one in voters], weights)
    return float(next(iter(votes), None) == right(result))


def _subsets(size: int, n: int) -> list[list[int]]:
    draw = random.Random(n)
    return [draw.sample(range(size), n) for _ in range(1 if n == size else NUM_SUBSETS)]


def sampled_methods(
    scorer: RewardScorer, found: Sequence[SearchResult]
) -> dict[str, Callable[[int], Accuracies]]:
    """Return what each method makes of n of the samples."""
    rewarded = {
        name: [choose_again(one, with_aggregations(scorer.spec, name, None)) for one in found]
        for name in AGGREGATIONS
    }
    best = {
        f"best of n, {name}": lambda n, own=own: by_reward(own, n) for name, own in rewarded.items()
    }
    return {
        "random sample": lambda n: by_oracle(found, 1),
        "majority": lambda n: by_vote(found, n, weighted=False),
        **best,
        "weighted vote, min": lambda n: by_vote(rewarded["min"], n, weighted=True),
        "weighted vote, product": lambda n: by_vote(rewarded["product"], n, weighted=True),
        "oracle (pass at n)": lambda n: by_oracle(found, n),
    }


def run_beams(
    model: RewardScorer, generator: LocalGenerator, problems: Sequence[str], n: int, name: str
) -> dict[str, Any]:
    """Search with beams and return accuracies and cost."""
    session = ScoringSession(RewardScorer(model.model, step_aggregation=name))
    width, expand = BEAMS[n]
    before, start = generator.num_tokens, time.perf_counter()
    found = beam_search(session, generator, problems, width=width, expand=expand, seed=1)
    return {
        "accuracies": [float(result.answer == right(result)) for result in found],
        "generated": (generator.num_tokens - before) / len(problems),
        "seconds": time.perf_counter() - start,
        "computed": session.stats.computed / len(problems),
        "requested": session.stats.requested / len(problems),
    }


def interval(accuracies: Accuracies) -> str:
    """Return the mean over problems with its bootstrap interval."""
    values = np.array(accuracies)
    mean, low, high = cluster_bootstrap(lambda m: m @ values / m.sum(), len(values))
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--problems", type=int, default=200, help="held-out problems")
    options.add_argument("--samples", type=int, default=16, help="samples of each")
    options.add_argument("--temperature", type=float, default=1.0)
    options.add_argument("--model", type=Path, default=MODEL, help="the reward model")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study, print its table and write the numbers."""
    options = parser().parse_args(argv)
    torch.set_num_threads(1)
    scorer = RewardScorer.from_pretrained(options.model)
    generator = LocalGenerator(
        policy_folder(ARITHMETIC),
        sampling=Sampling(options.temperature, max_tokens=2 * ARITHMETIC.max_new_tokens),
        template=Template(suffix=""),
        batch_size=256,
    )
    problems = ARITHMETIC.distinct_prompts("test", options.problems)
    start = time.perf_counter()
    found = best_of_n(scorer, generator, problems, options.samples)
    cost = generator.num_tokens / len(problems) / options.samples
    sys.stdout.write(
        f"{len(problems)} held-out problems, {options.samples} samples each in "
        f"{time.perf_counter() - start:.0f} s, {cost:.1f} tokens per sample\n\n"
    )
    budgets = [n for n in (1, 2, 4, 8, 16, 32, 64) if n <= options.samples]
    table = {
        name: {n: method(n) for n in budgets}
        for name, method in sampled_methods(scorer, found).items()
    }
    beams = {
        name: {n: run_beams(scorer, generator, problems, n, name) for n in BEAMS if n in budgets}
        for name in ("min", "product", "last")
    }
    for name, own in beams.items():
        table[f"beam, {name}"] = {n: one["accuracies"] for n, one in own.items()}
    _show(table, budgets, beams)
    rows = {name: {n: interval(values) for n, values in own.items()} for name, own in table.items()}
    write_text(OUTPUT, json.dumps({"options": vars(options), "rows": rows}, default=str, indent=2))
    return 0


def _show(
    table: dict[str, dict[int, Accuracies]],
    budgets: Sequence[int],
    beams: dict[str, dict[int, dict[str, Any]]],
) -> None:
    lines = ["| method | " + " | ".join(f"n = {n}" for n in budgets) + " |"]
    lines.append("|---" * (len(budgets) + 1) + "|")
    for name, own in table.items():
        cells = [interval(own[n]) if n in own else "" for n in budgets]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines.append("")
    for n, one in beams["min"].items():
        lines.append(
            f"beam of {n}: {one['generated']:.0f} tokens generated and {one['computed']:.0f} of "
            f"{one['requested']:.0f} scored tokens computed per problem, {one['seconds']:.1f} s"
        )
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
