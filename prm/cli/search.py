"""`prm search`: a generator proposes, a reward model chooses.

Everything that can be wrong with the options and the input is found before torch is imported.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from prm.cli.inputs import check_kind, model_kind
from prm.cli.options import check_options
from prm.errors import ConfigError
from prm.generators.generator import Sampling
from prm.search.problems import Problem, check_output, read_problems
from prm.texts.answers import extractor

Method = Literal["best_of_n", "weighted_vote", "majority", "beam"]
RewardFrom = Literal["steps", "response"]

DEFAULT_KEY = "OPENAI_API_KEY"


def search(
    model: Path,
    generator: str,
    method: Method = "best_of_n",
    prompt: str | None = None,
    input: str | None = None,
    output: Path | None = None,
    n: int | None = None,
    width: int | None = None,
    expand: int | None = None,
    max_steps: int | None = None,
    temperature: float = 0.8,
    top_p: float = 1.0,
    max_new_tokens: int = 512,
    seed: int = 0,
    prompt_suffix: str | None = None,
    answer: str = "auto",
    reward_from: RewardFrom | None = None,
    aggregation: str | None = None,
    aggregation_overrides: dict[str, Any] | None = None,
    generator_model: str | None = None,
    api_key_variable: str | None = None,
    concurrency: int | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    max_tokens: int = 16384,
    json: bool = False,
    overwrite: bool = False,
) -> int:
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
        model: Folder of the reward model.
        generator: Folder of a causal language model, or URL of a server with an OpenAI API.
        method: best_of_n takes the highest reward; majority the most frequent final answer,
            weighted_vote the one with most reward; beam grows chains step by step and keeps the
            best, and needs a model that scores steps.
        prompt: The prompt to answer.
        input: File, folder, glob or dataset of rows with `prompt`, and `id` if they have one.
        output: File for the results of `input`: .jsonl.
        n: Responses that are sampled for a prompt; by default 8.
        width: Chains that are kept in a round of beam search; by default 4.
        expand: Next steps that are sampled for each of them; by default 4.
        max_steps: Rounds of beam search; by default 32.
        temperature: Softmax temperature of the generator; 0 takes the most probable token.
        top_p: Draw from the most probable tokens with this much mass.
        max_new_tokens: Tokens of a response; in beam search, of a step.
        seed: Equal seeds give equal samples, as far as a server keeps to them.
        prompt_suffix: Give the generator the prompt as plain text, followed by this, and not
            through a chat template. Without it, a generator that has no chat template gets a line
            break.
        answer: Where final answers are: boxed, number (after the last =), auto (one or the other),
            or a regular expression with one group.
        reward_from: Whether a joint model scores steps or the response; by default the response.
        aggregation: As of `prm score`.
        aggregation_overrides: Parameters of the objective aggregation to change, as JSON; written
            `--aggregation.weights.safety=2` for short.
        generator_model: Name of the model on the server; by default the only one it has.
        api_key_variable: Environment variable with the server's key; by default OPENAI_API_KEY.
        concurrency: Requests to the server at the same time; by default 8.
        batch_size: Samples that a local generator draws together; by default 32.
        device: Where local models run: cpu, cuda, cuda:1, ...; auto takes a GPU if there is one.
        max_tokens: Tokens in one forward pass of the reward model: sets the memory, not the scores.
        json: Print the result as one line of JSON instead of drawing it.
        overwrite: Replace the output, and unfinished rows that were made with other options.

    Returns:
        1 if nothing could be chosen, else 0.
    """
    is_server = generator.startswith(("http://", "https://"))
    if not is_server and not Path(generator).is_dir():
        expected = "a folder with a causal language model, or the URL of a server"
        raise ConfigError("there is no such generator", expected=expected, got=generator)
    check_options(
        {
            "--prompt": prompt,
            "--input": input,
            "--output": output,
            "--json": json,
            "--overwrite": overwrite,
            "--n": n,
            "--width": width,
            "--expand": expand,
            "--max_steps": max_steps,
            "--reward_from": reward_from,
            "--method beam": method == "beam",
            "a URL as --generator": is_server,
            "a folder as --generator": not is_server,
            "--generator_model": generator_model,
            "--api_key_variable": api_key_variable,
            "--concurrency": concurrency,
            "--batch_size": batch_size,
        },
        _CONFLICTS,
        _NEEDS,
    )
    if prompt is None and input is None:
        raise ConfigError("there is nothing to search", fix="Give --prompt or --input")
    numbers = {
        "n": 8 if n is None else n,
        "width": 4 if width is None else width,
        "expand": 4 if expand is None else expand,
        "max_steps": 32 if max_steps is None else max_steps,
        "concurrency": 8 if concurrency is None else concurrency,
        "batch_size": 32 if batch_size is None else batch_size,
        "max_tokens": max_tokens,
    }
    for name, value in numbers.items():
        if value < 1:
            raise ConfigError(f"--{name} is wrong", expected="at least 1", got=value)
    extractor(answer)
    sampling = Sampling(temperature, top_p, max_new_tokens)
    kind = model_kind(model)
    if method == "beam" or reward_from is not None:
        check_kind(kind, chains=method == "beam" or reward_from == "steps")
    if output is not None:
        check_output(output, overwrite=overwrite)
    problems = [Problem("", prompt)] if prompt is not None else read_problems(str(input))

    from prm.cli.score_first import Scoring
    from prm.cli.search_run import Generating, Searching, search_prompt, search_to_file

    generating = Generating(
        generator,
        sampling,
        prompt_suffix,
        device,
        numbers["batch_size"],
        generator_model,
        api_key_variable or DEFAULT_KEY,
        numbers["concurrency"],
    )
    searching = Searching(
        method,
        numbers["n"],
        numbers["width"],
        numbers["expand"],
        numbers["max_steps"],
        answer,
        reward_from,
        seed,
    )
    scoring = Scoring(model, aggregation, aggregation_overrides, device, max_tokens)
    if output is None:
        return search_prompt(scoring, generating, searching, problems[0].prompt, as_json=json)
    return search_to_file(scoring, generating, searching, problems, output, overwrite=overwrite)


_NEEDS = (
    ("--input", "--output"),
    ("--output", "--input"),
    ("--json", "--prompt"),
    ("--overwrite", "--output"),
    ("--width", "--method beam"),
    ("--expand", "--method beam"),
    ("--max_steps", "--method beam"),
    ("--generator_model", "a URL as --generator"),
    ("--api_key_variable", "a URL as --generator"),
    ("--concurrency", "a URL as --generator"),
    ("--batch_size", "a folder as --generator"),
)
_CONFLICTS = (
    ("--prompt", "--input"),
    ("--n", "--method beam"),
    ("--reward_from", "--method beam"),
)
