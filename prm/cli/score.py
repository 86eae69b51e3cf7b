"""`prm score`: one chain or response, standard input, or whole files.

Everything that can be wrong with the options and the input is found before torch is imported.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from prm.cli.inputs import check_kind, choose_format, model_kind, scorable, survey_source
from prm.cli.options import (
    DTypeOptions,
    JsonOptions,
    ModelOptions,
    OptionRules,
    Options,
    OverwriteOptions,
    RowOptions,
    ScoringOptions,
    ShapingOptions,
)
from prm.cli.score_input import STDIN, read_stdin, typed_responses, typed_steps
from prm.data.formats import all_formats
from prm.data.formats.base import Format
from prm.data.sources.source import Skipped
from prm.data.sources.writers import check_output
from prm.errors import ConfigError
from prm.records import Chain, Rating
from prm.scoring.ray import RayBlockScorer, Workers, check_installed

DEFAULT_THRESHOLD = 0.5

all_formats()  # so that every format can be named by its class alone


@dataclass(frozen=True, kw_only=True)
class RayOptions(Options):
    """The workers of a Ray cluster.

    Args:
        engine: local scores in this process, ray on the workers of a cluster; the rows are the same
            and either continues what the other left unfinished.
        num_workers: Workers of --engine ray; by default as many as the cluster has room for.
        cpus_per_worker: Processor cores, and threads, of each worker; by default 1.
        gpus_per_worker: GPUs of each worker, or a share of one; by default 1 where there are any.
        ray_address: Address of a running Ray cluster; by default $RAY_ADDRESS, or this machine.
    """

    NEEDS: ClassVar[OptionRules] = (
        ("--engine ray", "--output"),
        ("--num_workers", "--engine ray"),
        ("--cpus_per_worker", "--engine ray"),
        ("--gpus_per_worker", "--engine ray"),
        ("--ray_address", "--engine ray"),
    )

    engine: Literal["local", "ray"] = "local"
    num_workers: int | None = None
    cpus_per_worker: int | None = None
    gpus_per_worker: float | None = None
    ray_address: str | None = None

    def workers(self) -> Workers:
        """Return what each worker gets.

        Raises:
            MissingDependencyError: Ray is asked for and not installed.
            ConfigError: A number is out of range.
        """
        if self.engine == "ray":
            check_installed()
        return Workers(
            self.num_workers, self.cpus_per_worker or 1, self.gpus_per_worker, self.ray_address
        )


@dataclass(frozen=True, kw_only=True)
class Score(
    RowOptions,
    ShapingOptions,
    ScoringOptions,
    DTypeOptions,
    RayOptions,
    OverwriteOptions,
    JsonOptions,
    ModelOptions,
):
    r"""Score reasoning step by step, or whole responses objective by objective.

    What is scored depends on the model: a process model reads chains, an outcome model responses.

    One chain, drawn with every step colored by its probability of being correct::

        prm score --model runs/arithmetic/model --prompt '2 + 3 * 4 = ?' \
            --steps '["3 * 4 = 12", "2 + 12 = 15"]'

    One response, or several to the same prompt, with the score of each objective::

        prm score --model runs/replies/model --prompt 'Name a prime.' --response '["7", "8"]'

    Standard input: rows of JSON, or plain text with the problem on the first line (or in the first
    paragraph) and then the steps, one per line if the model's separator is a line feed (a response,
    for an outcome model)::

        printf '2 + 3 * 4 = ?\n3 * 4 = 12\n2 + 12 = 15\n' | prm score --model runs/arithmetic/model

    A file, one row per chain or response; when interrupted, the same command continues::

        prm score --model runs/arithmetic/model --input chains.jsonl --output scores.parquet
        prm score --model runs/replies/model --input pairs.jsonl --output scores.jsonl \
            --aggregation.weights.safety=2

    The same file on the workers of a Ray cluster, here one per GPU of this machine::

        prm score --model runs/arithmetic/model --input chains.jsonl --output scores.parquet \
            --engine ray

    Args:
        prompt: The problem of one chain, or the prompt of responses.
        steps: Steps of the chain: a text that the model's separator splits, by default one step per
            line, or a JSON list of texts.
        response: A response, or a JSON list of responses.
        input: File, folder, glob, saved dataset, or name of a Hugging Face dataset to score.
        output: File for the scores of `input`: .jsonl or .parquet.
        format: What rows look like; by default prompt and completions, or for an outcome model
            prompt and response, responses, or chosen and rejected. A joint model reads responses
            if not told otherwise (HFStepwise reads chains). Labels never change a score.
        threshold: The first step of a chain with a probability below it is its first error.
        keep_text: Add prompt, completions or response_text, and labels to the rows of the output.
    """

    CONFLICTS: ClassVar[OptionRules] = (
        ("--prompt", "--input"),
        ("--prompt", "--format"),
        ("--json", "--input"),
        ("--steps", "--response"),
    )
    NEEDS: ClassVar[OptionRules] = (
        ("--prompt", "--steps", "--response"),
        ("--steps", "--prompt"),
        ("--response", "--prompt"),
        ("--input", "--output"),
        ("--output", "--input"),
        ("--keep_text", "--output"),
    )

    prompt: str | None = None
    steps: str | None = None
    response: str | None = None
    input: str | None = None
    output: Path | None = None
    format: Format | None = None
    threshold: float = DEFAULT_THRESHOLD
    keep_text: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.threshold <= 1:
            raise ConfigError("--threshold is wrong", expected="a probability", got=self.threshold)

    def run(self) -> int:
        """Score, and return 1 if nothing could be scored, else 0."""
        workers = self.workers()
        kind = model_kind(self.model)
        if self.response is not None:
            check_kind(kind, chains=False)
        source_format = choose_format(kind, self.format, steps=self.steps is not None)
        self._check_threshold(source_format)
        if self.input is not None and self.output is not None:
            check_output(self.output, overwrite=self.overwrite)
            inputs = survey_source(self.input, source_format, self.on_error)
        else:
            records = self._records(source_format)

        from prm.cli.scoring import load_scorer, score_records, score_to_file, scorer_options

        options = scorer_options(self.model, self, dtype=self.torch_dtype(), shaping=self.shaping)
        if self.output is None:
            return score_records(load_scorer(options), records, self.threshold, as_json=self.json)
        return score_to_file(
            RayBlockScorer(options, workers) if self.engine == "ray" else load_scorer(options),
            inputs,
            self.output,
            threshold=self.threshold,
            keep_text=self.keep_text,
            overwrite=self.overwrite,
        )

    def _records(self, format: Format) -> list[Chain | Rating]:
        """Return what was typed or piped in."""
        from prm.spec import RewardSpec

        step_format = RewardSpec.load(self.model).step_format
        if self.prompt is None:
            skipped = Skipped()
            records = list(scorable(read_stdin(format, step_format, self.on_error, skipped)))
            for line in skipped.lines():
                print(f"{STDIN}: {line}", file=sys.stderr)
            return records
        if self.steps is not None:
            return [Chain(self.prompt, typed_steps(self.steps, step_format))]
        return list(scorable(typed_responses(self.prompt, self.response or "", "--response")))

    def _check_threshold(self, format: Format) -> None:
        if self.threshold != DEFAULT_THRESHOLD and format.kind != "steps":
            raise ConfigError(
                "--threshold is for steps, and responses are scored",
                fix="`prm filter --thresholds.NAME=NUMBER` is for objectives of responses",
            )
