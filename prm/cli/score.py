"""`prm score`: one chain or response, standard input, or whole files.

Everything that can be wrong with the options and the input is found before torch is imported.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from prm.cli.inputs import check_kind, choose_format, model_kind, scorable, survey_source
from prm.cli.options import check_options
from prm.cli.score_input import read_stdin, typed_responses, typed_steps
from prm.data.formats import all_formats
from prm.data.formats.base import Format
from prm.data.sources.writers import check_output
from prm.errors import ConfigError
from prm.records import Chain, Rating
from prm.scoring.ray import RayBlockScorer, Workers, check_installed

DType = Literal["float32", "bfloat16", "float16"]
EngineName = Literal["local", "ray"]

DEFAULT_THRESHOLD = 0.5

all_formats()  # so that every format can be named by its class alone


def score(
    model: Path,
    prompt: str | None = None,
    steps: str | None = None,
    response: str | None = None,
    input: str | None = None,
    output: Path | None = None,
    format: Format | None = None,
    json: bool = False,
    aggregation: str | None = None,
    beta: float | None = None,
    aggregation_overrides: dict[str, Any] | None = None,
    shaping: dict[str, Any] | None = None,
    threshold: float = DEFAULT_THRESHOLD,
    device: str = "auto",
    dtype: DType | None = None,
    max_tokens: int = 16384,
    keep_text: bool = False,
    overwrite: bool = False,
    engine: EngineName = "local",
    num_workers: int | None = None,
    cpus_per_worker: int | None = None,
    gpus_per_worker: float | None = None,
    ray_address: str | None = None,
) -> int:
    r"""Score reasoning step by step, or whole responses objective by objective.

    What is scored depends on the model: a process model reads chains, an outcome model responses.

    One chain, drawn with every step colored by its probability of being correct::

        prm score --model runs/arithmetic/model --prompt '2 + 3 * 4 = ?' \
            --steps '["3 * 4 = 12", "2 + 12 = 15"]'

    One response, or several to the same prompt, with the score of each objective::

        prm score --model runs/replies/model --prompt 'Name a prime.' --response '["7", "8"]'

    Standard input: rows of JSON, or plain text with the problem on the first line (or in the first
    paragraph) and one step per further line (a response, for an outcome model)::

        printf '2 + 3 * 4 = ?\n3 * 4 = 12\n2 + 12 = 15\n' | prm score --model runs/arithmetic/model

    A file, one row per chain or response; when interrupted, the same command continues::

        prm score --model runs/arithmetic/model --input chains.jsonl --output scores.parquet
        prm score --model runs/replies/model --input pairs.jsonl --output scores.jsonl \
            --aggregation.weights.safety=2

    The same file on the workers of a Ray cluster, here one per GPU of this machine::

        prm score --model runs/arithmetic/model --input chains.jsonl --output scores.parquet \
            --engine ray

    Args:
        model: Folder of the model, as `prm fit` saved it.
        prompt: The problem of one chain, or the prompt of responses.
        steps: Steps of the chain: one per line, or a JSON list of texts.
        response: A response, or a JSON list of responses.
        input: File, folder, glob, saved dataset, or name of a Hugging Face dataset to score.
        output: File for the scores of `input`: .jsonl or .parquet.
        format: What rows look like; by default prompt and completions, or for an outcome model
            prompt and response, responses, or chosen and rejected. A joint model reads responses
            if not told otherwise (HFStepwise reads chains). Labels never change a score.
        json: Print scores as one line of JSON each instead of drawing them.
        aggregation: How step scores become the reward (min, product, mean, last, mean_logit,
            softmin), or how objectives do (a name or a file of configs/aggregation); by default as
            the model's spec says.
        beta: Sharpness of softmin, above 0; 10 if not given.
        aggregation_overrides: Parameters of the objective aggregation to change, as JSON; written
            `--aggregation.weights.safety=2` for short.
        shaping: Fields of the reward's shaping to change, as JSON; written --shaping.clip='[-5,5]'
            for short.
        threshold: The first step of a chain with a probability below it is its first error.
        device: cpu, cuda, cuda:1, ...; auto takes a GPU if there is one.
        dtype: Type of the model's weights; by default as stored.
        max_tokens: Tokens in one forward pass: sets the memory, not the scores.
        keep_text: Add prompt, completions or response_text, and labels to the rows of the output.
        overwrite: Replace the output, and unfinished scores that were made with other options.
        engine: local scores in this process, ray on the workers of a cluster; the rows are the same
            and either continues what the other left unfinished.
        num_workers: Workers of --engine ray; by default as many as the cluster has room for.
        cpus_per_worker: Processor cores, and threads, of each worker; by default 1.
        gpus_per_worker: GPUs of each worker, or a share of one; by default 1 where there are any.
        ray_address: Address of a running Ray cluster; by default $RAY_ADDRESS, or this machine.

    Returns:
        1 if nothing could be scored, else 0.
    """
    check_options(
        {
            "--prompt": prompt,
            "--steps": steps,
            "--response": response,
            "--input": input,
            "--output": output,
            "--format": format,
            "--json": json,
            "--keep_text": keep_text,
            "--overwrite": overwrite,
            "--engine ray": engine == "ray",
            "--num_workers": num_workers,
            "--cpus_per_worker": cpus_per_worker,
            "--gpus_per_worker": gpus_per_worker,
            "--ray_address": ray_address,
        },
        _CONFLICTS,
        _NEEDS,
    )
    _check_numbers(aggregation, beta, threshold, max_tokens)
    if engine == "ray":
        check_installed()
    workers = Workers(num_workers, cpus_per_worker or 1, gpus_per_worker, ray_address)
    kind = model_kind(model)
    if response is not None:
        check_kind(kind, chains=False)
    source_format = choose_format(kind, format, steps=steps is not None)
    _check_threshold(threshold, source_format)
    if input is not None and output is not None:
        check_output(output, overwrite=overwrite)
        inputs = survey_source(input, source_format)
    elif prompt is not None and steps is not None:
        records: list[Chain | Rating] = [Chain(prompt, typed_steps(steps))]
    elif prompt is not None and response is not None:
        records = list(scorable(typed_responses(prompt, response, "--response")))
    else:
        records = list(scorable(read_stdin(source_format)))

    from prm.cli.scoring import load_scorer, score_records, score_to_file, scorer_options

    options = scorer_options(
        model, device, dtype, aggregation, beta, aggregation_overrides, max_tokens, shaping
    )
    if output is None:
        return score_records(load_scorer(options), records, threshold, as_json=json)
    scorer = RayBlockScorer(options, workers) if engine == "ray" else load_scorer(options)
    return score_to_file(
        scorer, inputs, output, threshold=threshold, keep_text=keep_text, overwrite=overwrite
    )


_NEEDS = (
    ("--prompt", "--steps", "--response"),
    ("--steps", "--prompt"),
    ("--response", "--prompt"),
    ("--input", "--output"),
    ("--output", "--input"),
    ("--keep_text", "--output"),
    ("--overwrite", "--output"),
    ("--engine ray", "--output"),
    ("--num_workers", "--engine ray"),
    ("--cpus_per_worker", "--engine ray"),
    ("--gpus_per_worker", "--engine ray"),
    ("--ray_address", "--engine ray"),
)
_CONFLICTS = (
    ("--prompt", "--input"),
    ("--prompt", "--format"),
    ("--json", "--input"),
    ("--steps", "--response"),
)


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


def _check_threshold(threshold: float, format: Format) -> None:
    if threshold != DEFAULT_THRESHOLD and not format.kind == "steps":
        raise ConfigError(
            "--threshold is for steps, and responses are scored",
            fix="`prm filter --thresholds.NAME=NUMBER` is for objectives of responses",
        )
