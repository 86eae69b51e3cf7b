"""What `prm score` does once its options are known to be right: load, score, draw, report."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from transformers.utils import logging

from prm.aggregation.steps import StepAggregation, step_aggregation
from prm.errors import ConfigError
from prm.records import Chain
from prm.report.terminal import draw_chain
from prm.scoring.batch import Summary, Survey, score_file
from prm.scoring.scorer import ChainScore, RewardScorer


def load_scorer(
    model: Path,
    device: str,
    dtype: str | None,
    aggregation: str | None,
    beta: float | None,
    max_tokens: int,
) -> RewardScorer:
    """Load the model with the options of `prm score`.

    Raises:
        ConfigError: The device does not exist on this machine.
        SpecError: There is no spec, it is too new, or the tokenizer does not match.
        ModelError: The weights are incomplete or not those of the spec.
    """
    logging.disable_progress_bar()
    if device != "auto":
        _check_device(device)
    return RewardScorer.from_pretrained(
        model,
        device,
        None if dtype is None else getattr(torch, dtype),
        _aggregation(aggregation, beta),
        max_tokens,
    )


def score_chains(
    scorer: RewardScorer, chains: Sequence[Chain], threshold: float, *, as_json: bool
) -> int:
    """Print the scores of chains and return the exit code: 1 if none could be scored."""
    scores = scorer.score(chains)
    console = Console()
    for index, (chain, result) in enumerate(zip(chains, scores, strict=True)):
        if as_json:
            print(json.dumps(result.to_row(threshold), ensure_ascii=False))
        else:
            console.print("\n" * (index > 0), end="")
            _draw(console, chain, result, threshold)
    return int(all(score.reward is None for score in scores))


def score_to_file(
    scorer: RewardScorer,
    inputs: Survey,
    output: Path,
    *,
    threshold: float,
    keep_text: bool,
    overwrite: bool,
) -> int:
    """Score into a file with a progress bar and return the exit code: 1 if nothing was scored.

    Raises:
        PrmError: As `prm.scoring.batch.score_file`.
    """
    try:
        with _progress(inputs.num_chains) as on_block:
            summary = score_file(
                scorer,
                inputs,
                output,
                threshold=threshold,
                keep_text=keep_text,
                overwrite=overwrite,
                on_block=on_block,
            )
    except KeyboardInterrupt:
        print("The same command continues where it was stopped.", file=sys.stderr)
        raise
    _print_summary(summary, output)
    return int(summary.num_scored == 0)


def _aggregation(name: str | None, beta: float | None) -> StepAggregation | None:
    if name is None:
        return None
    return step_aggregation(name) if beta is None else step_aggregation(name, beta=beta)


def _check_device(device: str) -> None:
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        message = str(error).splitlines()[0]
        raise ConfigError(f"device {device} cannot be used", got=message) from error


def _draw(console: Console, chain: Chain, result: ChainScore, threshold: float) -> None:
    draw_chain(
        console,
        chain,
        result.probabilities,
        reward=result.reward,
        aggregation=result.aggregation,
        threshold=threshold,
    )
    if result.reason:
        console.print(f"Not scored: {result.reason}", markup=False, highlight=False)
    elif result.num_truncated:
        message = f"{result.num_truncated} steps were cut off at the model's max_length"
        console.print(message, markup=False, highlight=False)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[Summary], None]]:
    """Show a bar whose speed counts only what this run scored."""
    speed = TextColumn("{task.fields[speed]}")
    columns = (
        TextColumn("scoring"),
        BarColumn(),
        MofNCompleteColumn(),
        speed,
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("scoring", total=None, speed="")

        def on_block(summary: Summary) -> None:
            done = summary.num_chains
            if progress.tasks[0].total is None:
                progress.reset(task, total=total, completed=done)
                return
            elapsed = progress.tasks[0].elapsed or 1e-9
            speed = f"{(done - summary.num_resumed) / elapsed:,.1f} chains/s"
            progress.update(task, completed=done, speed=speed)

        yield on_block


def _print_summary(summary: Summary, output: Path) -> None:
    mean = summary.mean_reward
    parts = [
        f"{summary.num_scored:,} of {summary.num_chains:,} chains scored",
        f"mean reward {mean:.4f}" if mean is not None else "",
        f"{summary.num_truncated:,} with steps cut off" if summary.num_truncated else "",
        f"{summary.num_resumed:,} rows kept from before" if summary.num_resumed else "",
    ]
    print(f"{output}: {', '.join(filter(None, parts))}")
    for reason in summary.reasons:
        print(f"  not scored: {reason}")
