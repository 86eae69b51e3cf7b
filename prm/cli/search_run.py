"""What `prm search` does once its options are known to be right: load, search, draw, report."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from prm.cli.score_first import Scoring
from prm.cli.stored import wide_console
from prm.generators.generator import Generator, Sampling
from prm.records import Prompt
from prm.report.search import draw_search
from prm.scoring.batch import LocalBlockScorer
from prm.scoring.scorer import RewardScorer
from prm.scoring.session import ScoringSession
from prm.search.beam import beam_search
from prm.search.best_of_n import best_of_n
from prm.search.choice import ChoiceRule
from prm.search.problems import Problem
from prm.search.run import Search, SearchSummary, search_file
from prm.spec import Template
from prm.texts.completions import RewardFrom

CHOICES: dict[str, ChoiceRule] = {
    "best_of_n": "best",
    "weighted_vote": "weighted_vote",
    "majority": "majority",
}
"""How each method that samples whole responses chooses one."""


@dataclass(frozen=True, slots=True)
class Generating:
    """The options of `prm search` that are about the generator.

    Args:
        name: Folder or URL.
        sampling: How tokens are drawn.
        prompt_suffix: What follows a plain prompt; `None` for the generator's own template.
        device: Where a local model runs.
        batch_size: Samples that a local model draws together.
        model: Name of the model on a server.
        api_key_variable: Environment variable with the server's key.
        concurrency: Requests to a server at the same time.
    """

    name: str
    sampling: Sampling
    prompt_suffix: str | None
    device: str
    batch_size: int
    model: str | None
    api_key_variable: str
    concurrency: int

    def load(self) -> Generator:
        """Load the model, or connect to the server.

        Raises:
            ConfigError: The address is wrong.
            ModelError: The folder cannot be loaded.
        """
        suffix = self.prompt_suffix
        template = None if suffix is None else Template(suffix=suffix)
        if self.name.startswith(("http://", "https://")):
            from prm.generators.openai import OpenAIGenerator

            return OpenAIGenerator(
                self.name,
                self.model,
                sampling=self.sampling,
                template=template,
                api_key_variable=self.api_key_variable,
                concurrency=self.concurrency,
            )
        from prm.generators.local import LocalGenerator

        return LocalGenerator(
            self.name,
            sampling=self.sampling,
            template=template,
            device=self.device,
            batch_size=self.batch_size,
        )


@dataclass(frozen=True, slots=True)
class Searching:
    """The options of `prm search` that are about the search; names as there."""

    method: str
    n: int
    width: int
    expand: int
    max_steps: int
    answer: str
    reward_from: RewardFrom | None
    seed: int

    def search(self, scorer: RewardScorer, generator: Generator) -> Search:
        """Return what searches prompts together."""
        if self.method == "beam":
            return partial(
                beam_search,
                scorer,
                generator,
                width=self.width,
                expand=self.expand,
                max_steps=self.max_steps,
                answer=self.answer,
                seed=self.seed,
            )
        return partial(
            best_of_n,
            scorer,
            generator,
            n=self.n,
            choice=CHOICES[self.method],
            answer=self.answer,
            reward_from=self.reward_from,
            seed=self.seed,
        )


def search_prompt(
    scoring: Scoring, generating: Generating, searching: Searching, prompt: Prompt, *, as_json: bool
) -> int:
    """Search one prompt, draw or print what was found, and return 1 if nothing could be chosen.

    Raises:
        PrmError: The models cannot be loaded, or the search fails.
    """
    scorer, generator = _load(scoring, generating, searching)
    with Console(stderr=True).status("searching"):
        (result,) = searching.search(scorer, generator)([prompt])
    if as_json:
        print(json.dumps(result.to_row(), ensure_ascii=False))
        return int(result.best is None)
    draw_search(wide_console(), result)
    print(f"{len(result.candidates)} candidates, {_cost(scorer, generator)}")
    return int(result.best is None)


def search_to_file(
    scoring: Scoring,
    generating: Generating,
    searching: Searching,
    problems: Sequence[Problem],
    output: Path,
    *,
    overwrite: bool,
) -> int:
    """Search prompts into a file with a progress bar; 1 if nothing could be chosen for any.

    Raises:
        PrmError: As `search_prompt`, and as `prm.search.run.search_file`.
    """
    scorer, generator = _load(scoring, generating, searching)
    settings = _settings(scorer, generator, searching)
    search = searching.search(scorer, generator)
    try:
        with _progress(len(problems)) as on_block:
            summary = search_file(
                search, problems, output, settings, overwrite=overwrite, on_block=on_block
            )
    except KeyboardInterrupt:
        print("The same command continues where it was stopped.", file=sys.stderr)
        raise
    _print_summary(summary, output, _cost(scorer, generator))
    return int(summary.num_chosen == 0)


def _load(
    scoring: Scoring, generating: Generating, searching: Searching
) -> tuple[RewardScorer, Generator]:
    scorer = scoring.scorer()
    return ScoringSession(scorer) if searching.method == "beam" else scorer, generating.load()


def _settings(scorer: RewardScorer, generator: Generator, searching: Searching) -> dict[str, Any]:
    """Return what the rows depend on."""
    spec = scorer.spec.to_dict()
    return {
        **LocalBlockScorer(scorer).identity(),
        "aggregation": {k: spec[k] for k in ("step_aggregation", "objective_aggregation")},
        **generator.identity(),
        **dataclasses.asdict(searching),
    }


def _cost(scorer: RewardScorer, generator: Generator) -> str:
    cost = f"{generator.num_tokens:,} tokens generated"
    if isinstance(scorer, ScoringSession):
        stats = scorer.stats
        cost += f", {stats.computed:,} of {stats.requested:,} scored tokens computed"
    return cost


@contextmanager
def _progress(total: int) -> Iterator[Callable[[SearchSummary], None]]:
    columns = (TextColumn("searching"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("searching", total=total)
        yield lambda summary: progress.update(task, completed=summary.num_prompts)


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
