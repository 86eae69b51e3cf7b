"""`prm score`: one chain, standard input, or whole files.

Everything that can be wrong with the options and the input is found before torch is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from prm.cli.score_input import read_stdin, split_steps
from prm.data.formats import Format, all_formats
from prm.data.formats.hf_stepwise import HFStepwise
from prm.data.readers import ChainSource
from prm.data.writers import check_output
from prm.errors import ConfigError
from prm.records import Chain
from prm.scoring.batch import Survey, survey

AggregationName = Literal["min", "product", "mean", "last", "mean_logit", "softmin"]
DType = Literal["float32", "bfloat16", "float16"]

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
    _check_options(
        {
            "--prompt": prompt,
            "--steps": steps,
            "--input": input,
            "--output": output,
            "--format": format,
            "--json": json,
            "--keep_text": keep_text,
            "--overwrite": overwrite,
        }
    )
    _check_numbers(aggregation, beta, threshold, max_tokens)
    if not model.is_dir():
        raise ConfigError("there is no such model folder", got=str(model), fix="Check --model")

    source_format = format or HFStepwise()
    if input is not None and output is not None:
        check_output(output, overwrite=overwrite)
        inputs = _survey(ChainSource(input, source_format))
    elif prompt is not None and steps is not None:
        chains = [Chain(prompt, split_steps(steps))]
    else:
        chains = read_stdin(source_format)

    from prm.cli.score_run import load_scorer, score_chains, score_to_file

    scorer = load_scorer(model, device, dtype, aggregation, beta, max_tokens)
    if output is None:
        return score_chains(scorer, chains, threshold, as_json=json)
    return score_to_file(
        scorer, inputs, output, threshold=threshold, keep_text=keep_text, overwrite=overwrite
    )


def _check_options(values: Mapping[str, object]) -> None:
    """Refuse options that contradict each other, before anything heavy is loaded."""
    given = {name for name, value in values.items() if value is not None and value is not False}
    for first, second in _CONFLICTS:
        if {first, second} <= given:
            raise ConfigError(f"{first} and {second} contradict each other", fix="Give one of them")
    for name, needed in _NEEDS.items():
        if name in given and needed not in given:
            raise ConfigError(f"{name} needs {needed}", fix=f"Give {needed} as well")


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


def _survey(source: ChainSource) -> Survey:
    """Read the input once, so that a wrong row is found before the model is loaded."""
    from rich.console import Console

    with Console(stderr=True).status(f"checking {source.path}"):
        return survey(source)
