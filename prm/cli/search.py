"""`prm search`: a generator proposes, a reward model chooses.

Everything that can be wrong with the options and the input is found before torch is imported.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from prm.cli.generator import GeneratorOptions
from prm.cli.inputs import check_kind, model_kind, say_skipped
from prm.cli.options import (
    JsonOptions,
    ModelOptions,
    OptionRules,
    Options,
    OverwriteOptions,
    RowOptions,
    ScoringOptions,
    check_least,
)
from prm.cli.stored import bar, wide_console
from prm.data.sources.source import Skipped
from prm.errors import ConfigError
from prm.records import Prompt
from prm.search.problems import Problem, check_output, read_problems
from prm.texts.answers import extractor
from prm.texts.completions import RewardFrom

if TYPE_CHECKING:
    from prm.generators.generator import Generator
    from prm.scoring.scorer import RewardScorer
    from prm.search.choice import ChoiceRule
    from prm.search.run import Search as Searcher
    from prm.search.run import SearchSummary

CHOICES: dict[str, ChoiceRule] = {
    "best_of_n": "best",
    "weighted_vote": "weighted_vote",
    "majority": "majority",
}
"""How each method that samples whole responses chooses one."""

BEAM = {"width": 4, "expand": 4, "max_steps": 32}
"""Options of beam search, and what they are if not given."""


@dataclass(frozen=True, kw_only=True)
class BeamOptions(Options):
    """Beam search (--method beam).

    Args:
        width: Chains that are kept in a round; by default 4.
        expand: Next steps that are sampled for each of them; by default 4.
        max_steps: Rounds; by default 32.

    Raises:
        ConfigError: A number is below 1.
    """

    NEEDS: ClassVar[OptionRules] = tuple((f"--{name}", "--method beam") for name in BEAM)

    width: int | None = None
    expand: int | None = None
    max_steps: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in BEAM:
            check_least(f"--{name}", getattr(self, name), 1)

    def beam(self) -> dict[str, Any]:
        """Return the numbers, with those that are not given."""
        return {name: getattr(self, name) or default for name, default in BEAM.items()}


@dataclass(frozen=True, kw_only=True)
class Search(
    RowOptions,
    BeamOptions,
    GeneratorOptions,
    ScoringOptions,
    OverwriteOptions,
    JsonOptions,
    ModelOptions,
):
    r"""Search for good answers: best of N, votes, or beam search over steps.

    One prompt, drawn with all candidates and the steps of the chosen one::

        prm search --model runs/arithmetic/model --generator path/to/policy \
            --prompt 'Compute ((2 + 20) + 14) - 14.' --n 16

    A file of prompts, with a generator that a server runs; when interrupted, the same command
    continues. The key is read from $OPENAI_API_KEY, if there is one::

        prm search --model runs/arithmetic/model --generator http://127.0.0.1:8000 \
            --method beam --width 4 --expand 4 --input problems.jsonl --output found.jsonl

    A row of the output holds the chosen response, its answer and reward, the index of the best
    candidate, and all candidates with their steps and scores.

    Args:
        method: best_of_n takes the highest reward; majority the most frequent final answer,
            weighted_vote the one with most reward; beam grows chains step by step and keeps the
            best, and needs a model that scores steps.
        prompt: The prompt to answer.
        input: File, folder, glob or dataset of rows with `prompt`, and `id` if they have one.
        output: File for the results of `input`: .jsonl.
        n: Responses that are sampled for a prompt; by default 8.
        seed: Equal seeds give equal samples, as far as a server keeps to them.
        answer: Where final answers are: boxed, number (after the last =), auto (one or the other),
            or a regular expression with one group.
        reward_from: Whether a joint model scores steps or the response; by default the response.
    """

    CONFLICTS: ClassVar[OptionRules] = (
        ("--prompt", "--input"),
        ("--n", "--method beam"),
        ("--reward_from", "--method beam"),
    )
    NEEDS: ClassVar[OptionRules] = (
        ("--input", "--output"),
        ("--output", "--input"),
        ("--json", "--prompt"),
    )

    method: Literal["best_of_n", "weighted_vote", "majority", "beam"] = "best_of_n"
    prompt: str | None = None
    input: str | None = None
    output: Path | None = None
    n: int | None = None
    seed: int = 0
    answer: str = "auto"
    reward_from: RewardFrom | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompt is None and self.input is None:
            raise ConfigError("there is nothing to search", fix="Give --prompt or --input")
        check_least("--n", self.n, 1)
        extractor(self.answer)

    def run(self) -> int:
        """Search, and return 1 if nothing could be chosen, else 0."""
        kind = model_kind(self.model)
        if self.method == "beam" or self.reward_from is not None:
            check_kind(kind, chains=self.method == "beam" or self.reward_from == "steps")
        if self.output is None or self.input is None:
            return self._search_prompt(self.prompt or "")
        check_output(self.output, overwrite=self.overwrite)
        skipped = Skipped()
        problems = read_problems(self.input, self.on_error, skipped)
        say_skipped(self.input, skipped)
        return self._search_file(problems, self.output)

    def _search_prompt(self, prompt: Prompt) -> int:
        """Search one prompt, and draw or print what was found."""
        from rich.console import Console

        from prm.report.search import draw_search

        scorer, generator = self._load()
        with Console(stderr=True).status("searching"):
            (result,) = self._searcher(scorer, generator)([prompt])
        if self.json:
            print(json.dumps(result.to_row(), ensure_ascii=False))
            return int(result.best is None)
        draw_search(wide_console(), result)
        print(f"{len(result.candidates)} candidates, {_cost(scorer, generator)}")
        return int(result.best is None)

    def _search_file(self, problems: Sequence[Problem], output: Path) -> int:
        """Search prompts into a file with a progress bar."""
        from prm.search.run import search_file

        scorer, generator = self._load()
        settings = self._settings(scorer, generator)
        search = self._searcher(scorer, generator)
        try:
            with _progress(len(problems)) as on_block:
                summary = search_file(
                    search, problems, output, settings, overwrite=self.overwrite, on_block=on_block
                )
        except KeyboardInterrupt:
            print("The same command continues where it was stopped.", file=sys.stderr)
            raise
        _print_summary(summary, output, _cost(scorer, generator))
        return int(summary.num_chosen == 0)

    def _load(self) -> tuple[RewardScorer, Generator]:
        from prm.cli.scoring import load_scorer, scorer_options
        from prm.scoring.session import ScoringSession

        scorer = load_scorer(scorer_options(self.model, self))
        used = ScoringSession(scorer) if self.method == "beam" else scorer
        return used, self.load_generator()

    def _searcher(self, scorer: RewardScorer, generator: Generator) -> Searcher:
        """Return what searches prompts together."""
        from prm.search.beam import beam_search
        from prm.search.best_of_n import best_of_n

        shared: dict[str, Any] = {"answer": self.answer, "seed": self.seed}
        if self.method == "beam":
            return partial(beam_search, scorer, generator, **shared, **self.beam())
        return partial(
            best_of_n,
            scorer,
            generator,
            n=self.n or 8,
            choice=CHOICES[self.method],
            reward_from=self.reward_from,
            **shared,
        )

    def _settings(self, scorer: RewardScorer, generator: Generator) -> dict[str, Any]:
        """Return what the rows depend on."""
        from prm.scoring.batch import LocalBlockScorer

        spec = scorer.spec.to_dict()
        return {
            **LocalBlockScorer(scorer).identity(),
            "aggregation": {k: spec[k] for k in ("step_aggregation", "objective_aggregation")},
            **generator.identity(),
            "method": self.method,
            "n": self.n or 8,
            **self.beam(),
            "answer": self.answer,
            "reward_from": self.reward_from,
            "seed": self.seed,
        }


def _cost(scorer: RewardScorer, generator: Generator) -> str:
    from prm.scoring.session import ScoringSession

    cost = f"{generator.num_tokens:,} tokens generated"
    if isinstance(scorer, ScoringSession):
        stats = scorer.stats
        cost += f", {stats.computed:,} of {stats.requested:,} scored tokens computed"
    return cost


@contextmanager
def _progress(total: int) -> Iterator[Callable[[SearchSummary], None]]:
    with bar("searching") as shown:
        task = shown.add_task("searching", total=total)
        yield lambda summary: shown.update(task, completed=summary.num_prompts)


def _print_summary(summary: SearchSummary, output: Path, cost: str) -> None:
    mean = summary.mean_reward
    parts = [
        f"{summary.num_chosen:,} of {summary.num_prompts:,} prompts answered",
        f"mean reward {mean:.4f}" if mean is not None else "",
        f"{summary.num_candidates:,} candidates",
        cost,
        f"{summary.num_resumed:,} rows kept from before" if summary.num_resumed else "",
    ]
    print(f"{output}: {', '.join(filter(None, parts))}")
    for reason in summary.reasons:
        print(f"  nothing chosen: {reason}")
