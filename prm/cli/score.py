"""`prm score`: one chain, standard input, or whole files."""

from __future__ import annotations

import json as json_module
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prm.data.formats import Format, all_formats
from prm.data.formats.hf_stepwise import HFStepwise
from prm.data.readers import ChainSource
from prm.data.writers import check_output
from prm.errors import ConfigError, DataError
from prm.records import Chain

if TYPE_CHECKING:
    from rich.console import Console

    from prm.aggregation.steps import StepAggregation
    from prm.scoring.batch import Summary, Survey
    from prm.scoring.scorer import ChainScore, RewardScorer

AggregationName = Literal["min", "product", "mean", "last", "mean_logit", "softmin"]
DType = Literal["float32", "bfloat16", "float16"]

STDIN = "standard input"

all_formats()  # so that every format can be named by its class alone


def score(
    model: Path,
    prompt: str | None = None,
    steps: str | None = None,
    input: str | None = None,
    output: Path | None = None,
    format: Format | None = None,
    json: bool = False,
    aggregation: AggregationName | None = None,
    beta: float | None = None,
    threshold: float = 0.5,
    device: str = "auto",
    dtype: DType | None = None,
    max_tokens: int = 16384,
    keep_text: bool = False,
    overwrite: bool = False,
) -> int:
    r"""Score reasoning step by step: one chain, standard input, or a whole file.

    One chain, drawn with every step colored by its probability of being correct::

        prm score --model runs/arithmetic/model --prompt '2 + 3 * 4 = ?' \
            --steps '["3 * 4 = 12", "2 + 12 = 15"]'

    Standard input: rows of JSON, or plain text with the problem on the first line (or in the first
    paragraph) and one step per further line::

        printf '2 + 3 * 4 = ?\n3 * 4 = 12\n2 + 12 = 15\n' | prm score --model runs/arithmetic/model

    A file, one row per chain in the same order; when interrupted, the same command continues::

        prm score --model runs/arithmetic/model --input chains.jsonl --output scores.parquet

    Args:
        model: Folder of the model, as `prm fit` saved it.
        prompt: The problem of one chain.
        steps: Its steps: one per line, or a JSON list of texts.
        input: File, folder, glob, saved dataset, or name of a Hugging Face dataset to score.
        output: File for the scores of `input`: .jsonl or .parquet.
        format: What rows look like; by default prompt, completions. Labels never change a score.
        json: Print scores as one line of JSON per chain instead of drawing them.
        aggregation: How step scores become the reward; by default as the model's spec says.
        beta: Sharpness of softmin, above 0; 10 if not given.
        threshold: The first step with a probability below it is marked as the first error.
        device: cpu, cuda, cuda:1, ...; auto takes a GPU if there is one.
        dtype: Type of the model's weights; by default as stored.
        max_tokens: Tokens in one forward pass: sets the memory, not the scores.
        keep_text: Add prompt, completions and labels to the rows of the output.
        overwrite: Replace the output, and unfinished scores that were made with other options.

    Returns:
        1 if no chain could be scored, else 0.
    """
    _check_options(model, prompt, steps, input, output, format, json, keep_text, overwrite)
    _check_numbers(aggregation, beta, threshold, max_tokens)

    def load() -> RewardScorer:
        return _load(model, device, dtype, _aggregation(aggregation, beta), max_tokens)

    source_format = format or HFStepwise()
    if input is not None and output is not None:
        check_output(output, overwrite=overwrite)
        inputs = _survey(ChainSource(input, source_format))
        summary = _score_file(load, inputs, output, threshold, keep_text, overwrite)
        _print_summary(summary, output)
        return int(summary.num_scored == 0)
    chains = _one_chain(prompt, steps) if prompt is not None else _read_stdin(source_format)
    scores = load().score(chains)
    _show(chains, scores, threshold, as_json=json)
    return int(all(score.reward is None for score in scores))


def _check_options(
    model: Path,
    prompt: str | None,
    steps: str | None,
    input: str | None,
    output: Path | None,
    format: Format | None,
    json: bool,
    keep_text: bool,
    overwrite: bool,
) -> None:
    """Refuse options that contradict each other, before anything heavy is loaded."""
    if not model.is_dir():
        raise ConfigError("there is no such model folder", got=str(model), fix="Check --model")
    given = {
        "--prompt": prompt,
        "--steps": steps,
        "--input": input,
        "--output": output,
        "--format": format,
        "--json": json or None,
        "--keep_text": keep_text or None,
        "--overwrite": overwrite or None,
    }
    present = {name for name, value in given.items() if value is not None}
    for name, needed in _NEEDS.items():
        if name in present and needed not in present:
            raise ConfigError(f"{name} needs {needed}", fix=f"Give {needed} as well")
    for first, second in _CONFLICTS:
        if {first, second} <= present:
            raise ConfigError(f"{first} and {second} contradict each other", fix="Give one of them")


_NEEDS = {
    "--prompt": "--steps",
    "--steps": "--prompt",
    "--input": "--output",
    "--output": "--input",
    "--keep_text": "--output",
    "--overwrite": "--output",
}
_CONFLICTS = (("--prompt", "--input"), ("--prompt", "--format"), ("--json", "--input"))


def _check_numbers(
    aggregation: str | None, beta: float | None, threshold: float, max_tokens: int
) -> None:
    if beta is not None and aggregation != "softmin":
        raise ConfigError("--beta is the sharpness of softmin", fix="Give --aggregation softmin")
    if beta is not None and not 0 < beta < float("inf"):
        raise ConfigError("--beta is wrong", expected="a number above 0", got=beta)
    if not 0 <= threshold <= 1:
        raise ConfigError("--threshold is wrong", expected="a probability", got=threshold)
    if max_tokens < 1:
        raise ConfigError("--max_tokens is wrong", expected="at least 1", got=max_tokens)


def _aggregation(name: str | None, beta: float | None) -> StepAggregation | None:
    from prm.aggregation.steps import step_aggregation

    if name is None:
        return None
    return step_aggregation(name) if beta is None else step_aggregation(name, beta=beta)


def _load(
    model: Path,
    device: str,
    dtype: DType | None,
    aggregation: StepAggregation | None,
    max_tokens: int,
) -> RewardScorer:
    import torch
    from transformers.utils import logging

    from prm.scoring.scorer import RewardScorer

    logging.disable_progress_bar()
    if device != "auto":
        _check_device(device)
    weights = None if dtype is None else getattr(torch, dtype)
    return RewardScorer.from_pretrained(model, device, weights, aggregation, max_tokens)


def _check_device(device: str) -> None:
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        message = str(error).splitlines()[0]
        raise ConfigError(f"device {device} cannot be used", got=message) from error


def _one_chain(prompt: str, steps: str | None) -> list[Chain]:
    return [Chain(prompt, _split_steps(steps or ""))]


def _split_steps(text: str) -> list[str]:
    """Return the steps of a JSON list of texts, or of lines.

    Example:
        >>> _split_steps('["1 + 1 = 2", "so 2"]') == _split_steps("1 + 1 = 2\\nso 2")
        True
    """
    if not re.match(r'\s*\[\s*["\]]', text):
        return [line for line in text.splitlines() if line.strip()]
    try:
        steps = json_module.loads(text)
    except json_module.JSONDecodeError as error:
        raise ConfigError("--steps is not JSON", got=str(error), fix="Or give lines") from None
    if not all(isinstance(step, str) for step in steps):
        raise ConfigError("--steps is wrong", expected="a JSON list of texts", got=text)
    return list(steps)


def _read_stdin(format: Format) -> list[Chain]:
    if sys.stdin.isatty():
        print("Problem, then one step per line; Ctrl-D ends:", file=sys.stderr)
    try:
        text = sys.stdin.read()
    except UnicodeDecodeError as error:
        raise DataError("this is not UTF-8 text", got=str(error), where=STDIN) from None
    if not text.strip():
        raise DataError("there is nothing to score", where=STDIN, fix="See `prm score --help`")
    if re.match(r'\s*(\{\s*"|\[\s*\{)', text):
        rows = _json_rows(text)
        return [chain for row, where in rows for chain in format.chains(row, where)]
    return [_plain_chain(text)]


def _plain_chain(text: str) -> Chain:
    """Return the chain whose problem is the first paragraph, or the first line if there is one."""
    prompt, _, rest = text.strip().partition("\n")
    paragraphs = re.split(r"\n\s*\n", text.strip(), maxsplit=1)
    if len(paragraphs) == 2:
        prompt, rest = paragraphs
    steps = [line for line in rest.splitlines() if line.strip()]
    return Chain(prompt, steps, origin=STDIN)


def _json_rows(text: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yield (row, origin) of one object, an array of objects, or one object per line."""
    for value, where in _json_values(text):
        if not isinstance(value, Mapping):
            raise DataError("the row is not an object", got=value, where=where)
        yield value, where


def _json_values(text: str) -> Iterator[tuple[Any, str]]:
    try:
        whole = json_module.loads(text)
    except json_module.JSONDecodeError:
        yield from _json_lines(text)
        return
    for index, value in enumerate(whole if isinstance(whole, list) else [whole]):
        yield value, f"{STDIN}[{index}]"


def _json_lines(text: str) -> Iterator[tuple[Any, str]]:
    for number, line in enumerate(text.split("\n"), start=1):
        where = f"{STDIN}:{number}"
        try:
            if line.strip():
                yield json_module.loads(line), where
        except json_module.JSONDecodeError as error:
            raise DataError("this is not JSON", got=str(error), where=where) from None


def _show(
    chains: Iterable[Chain], scores: Iterable[ChainScore], threshold: float, *, as_json: bool
) -> None:
    from rich.console import Console

    console = Console()
    for index, (chain, result) in enumerate(zip(chains, scores, strict=True)):
        if as_json:
            print(json_module.dumps(result.to_row(threshold), ensure_ascii=False))
        else:
            console.print("\n" * (index > 0), end="")
            _draw(console, chain, result, threshold)


def _draw(console: Console, chain: Chain, result: ChainScore, threshold: float) -> None:
    from prm.report.terminal import draw_chain

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


def _survey(source: ChainSource) -> Survey:
    """Read the input once, so that a wrong row is found before the model is loaded."""
    from rich.console import Console

    from prm.scoring.batch import survey

    with Console(stderr=True).status(f"checking {source.path}"):
        return survey(source)


def _score_file(
    load: Callable[[], RewardScorer],
    inputs: Survey,
    output: Path,
    threshold: float,
    keep_text: bool,
    overwrite: bool,
) -> Summary:
    from prm.scoring.batch import score_file

    scorer = load()
    try:
        with _progress(inputs.num_chains) as on_block:
            return score_file(
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


@contextmanager
def _progress(total: int) -> Iterator[Callable[[Summary], None]]:
    """Show a bar whose speed counts only what this run scored."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    speed = TextColumn("{task.fields[speed]}")
    columns = (TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), speed, Remaining())
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
    for id, reason in summary.reasons:
        print(f"  not scored: {reason}" if id in reason else f"  not scored: {id}: {reason}")
