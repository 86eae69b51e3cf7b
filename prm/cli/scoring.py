"""What commands that score do once their options are right: load, score, draw, report."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import TextColumn
from transformers.utils import logging

from prm.aggregation.objectives import ObjectiveAggregation
from prm.aggregation.steps import STEP_AGGREGATIONS, StepAggregation, step_aggregation
from prm.cli.aggregation import resolve_aggregation, resolve_step_aggregation
from prm.cli.options import ScoringOptions
from prm.cli.stored import bar
from prm.errors import ConfigError
from prm.records import Chain, Rating
from prm.report.responses import draw_responses
from prm.report.terminal import draw_chain
from prm.scores.chains import ChainScore
from prm.scoring.batch import Summary, Survey, score_file
from prm.scoring.loading import ScorerOptions
from prm.scoring.ray import RayBlockScorer
from prm.scoring.scorer import RewardScorer
from prm.spec import RewardSpec


def scorer_options(
    model: Path,
    options: ScoringOptions,
    *,
    dtype: torch.dtype | None = None,
    shaping: Mapping[str, Any] | None = None,
) -> ScorerOptions:
    """Return what to load.

    Args:
        model: Folder of the model.
        options: The options of the command.
        dtype: Type of the weights; by default as stored.
        shaping: Fields of the shaping to change.

    Raises:
        SpecError: There is no spec, or it is too new.
        ConfigError: The aggregation does not fit the model, or the shaping is unknown.
    """
    spec = RewardSpec.load(model)
    steps, objectives = _aggregations(spec, options.aggregation, options.aggregation_overrides)
    shaped = spec.shaping.changed(shaping) if shaping else None
    return ScorerOptions(
        model, options.device, dtype, steps, options.max_tokens, objectives, shaped
    )


def load_scorer(options: ScorerOptions) -> RewardScorer:
    """Load a model into this process.

    Raises:
        ConfigError: The device does not exist on this machine.
        SpecError: The tokenizer does not match.
        ModelError: The weights are incomplete or not those of the spec.
    """
    logging.disable_progress_bar()
    if options.device != "auto":
        _check_device(options.device)
    return options.load()


def score_records(
    scorer: RewardScorer, records: Sequence[Chain | Rating], threshold: float, *, as_json: bool
) -> int:
    """Print the scores of records and return the exit code: 1 if none could be scored."""
    scores = scorer.score(records)
    if as_json:
        for score in scores:
            row = score.to_row(threshold) if isinstance(score, ChainScore) else score.to_row()
            print(json.dumps(row, ensure_ascii=False))
    else:
        _draw_all(Console(), list(zip(records, scores, strict=True)), threshold)
    return int(all(score.reward is None for score in scores))


def score_to_file(
    scorer: RewardScorer | RayBlockScorer,
    inputs: Survey,
    output: Path,
    *,
    threshold: float = 0.5,
    keep_text: bool,
    overwrite: bool,
) -> int:
    """Score into a file with a progress bar and return the exit code: 1 if nothing was scored.

    Raises:
        PrmError: As `prm.scoring.batch.score_file`.
    """
    try:
        with _progress(inputs.num_records) as on_block:
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


def _aggregations(
    spec: RewardSpec, name: str | None, overrides: Mapping[str, Any] | None
) -> tuple[StepAggregation | None, ObjectiveAggregation | None]:
    """Return the aggregations that the options ask for, of steps and of objectives."""
    if name is None and not overrides:
        return None, None
    if spec.kind == "process":
        return resolve_step_aggregation(spec, name, overrides), None
    if not spec.step_heads or name not in STEP_AGGREGATIONS:
        return None, resolve_aggregation(spec, name, overrides)
    of_steps = step_aggregation(name).parameters().keys() & (overrides or {}).keys()
    steps = {key: value for key, value in (overrides or {}).items() if key in of_steps}
    rest = {key: value for key, value in (overrides or {}).items() if key not in of_steps}
    objectives = resolve_aggregation(spec, None, rest) if rest else None
    return resolve_step_aggregation(spec, name, steps), objectives


def _check_device(device: str) -> None:
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        message = str(error).splitlines()[0]
        raise ConfigError(f"device {device} cannot be used", got=message) from error


def _draw_all(
    console: Console, scored: Sequence[tuple[Chain | Rating, Any]], threshold: float
) -> None:
    """Draw chains one after the other, and the responses to each prompt together."""
    for index, (prompt, members) in enumerate(groupby(scored, key=lambda pair: pair[0].prompt)):
        console.print("\n" * (index > 0), end="")
        responses = []
        for record, result in members:
            if isinstance(record, Chain):
                _draw(console, record, result, threshold)
            else:
                responses.append((record.response, result))
        if responses:
            draw_responses(console, prompt, responses)


def _draw(console: Console, chain: Chain, result: ChainScore, threshold: float) -> None:
    draw_chain(console, chain, result, threshold)
    if result.reason:
        console.print(f"Not scored: {result.reason}", markup=False, highlight=False)
    elif result.num_truncated:
        message = f"{result.num_truncated} steps were cut off at the model's max_length"
        console.print(message, markup=False, highlight=False)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[Summary], None]]:
    """Show a bar whose speed counts only what this run scored."""
    with bar("scoring", TextColumn("{task.fields[speed]}")) as progress:
        task = progress.add_task("scoring", total=None, speed="")

        def on_block(summary: Summary) -> None:
            done = summary.num_records
            if progress.tasks[0].total is None:
                progress.reset(task, total=total, completed=done)
                return
            elapsed = progress.tasks[0].elapsed or 1e-9
            speed = f"{(done - summary.num_resumed) / elapsed:,.1f} records/s"
            progress.update(task, completed=done, speed=speed)

        yield on_block


def _print_summary(summary: Summary, output: Path) -> None:
    mean = summary.mean_reward
    parts = [
        f"{summary.num_scored:,} of {summary.num_records:,} records scored",
        f"mean reward {mean:.4f}" if mean is not None else "",
        f"{summary.num_truncated:,} cut off at max_length" if summary.num_truncated else "",
        f"{summary.num_resumed:,} rows kept from before" if summary.num_resumed else "",
    ]
    print(f"{output}: {', '.join(filter(None, parts))}")
    for reason in summary.reasons:
        print(f"  not scored: {reason}")
