"""`prm serve`: models behind HTTP."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any, Literal

from prm.cli.inputs import model_kind
from prm.errors import ConfigError, MissingDependencyError

TOKEN_VARIABLE = "PRM_SERVE_TOKEN"


def serve(
    model: Path | dict[str, Path],
    host: str = "127.0.0.1",
    port: int = 8000,
    token_file: Path | None = None,
    allow_open: bool = False,
    device: str = "auto",
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    max_tokens: int = 16384,
    cache_tokens: int = 0,
    threads: int | None = None,
    reward_range: tuple[float, float] | None = None,
    max_body_bytes: int = 16777216,
    max_records: int = 1024,
    max_record_tokens: int = 65536,
    max_request_tokens: int = 4194304,
    max_waiting: int = 256,
    max_waiting_bytes: int = 268435456,
    timeout: float = 120.0,
    body_timeout: float = 20.0,
    write_timeout: float = 20.0,
    drain_timeout: float = 120.0,
    log_texts: bool = False,
    policy_tokenizer: str | None = None,
    empty_reward: float | None = None,
) -> int:
    r"""Serve models over HTTP: scores, ranks, the dialects of trainers and engines, and a page.

    One model; the page is at http://127.0.0.1:8000::

        prm serve --model runs/arithmetic/model

    Several, which requests choose by name (`"model": "steps"`); the first is the default::

        prm serve --model '{"steps": "runs/arithmetic/model", "replies": "runs/replies/model"}'

    Score a chain::

        curl http://127.0.0.1:8000/v1/score -H 'Content-Type: application/json' \
            -d '{"records": [{"prompt": "2 + 2 = ?", "completions": ["2 + 2 = 4"]}]}'

    Change a weight for all requests from now on::

        curl -X PUT http://127.0.0.1:8000/v1/models/replies/aggregation \
            -H 'Content-Type: application/json' -d '{"overrides": {"weights.safety": 2}}'

    Other machines can reach the server only with a token::

        PRM_SERVE_TOKEN=... prm serve --model runs/arithmetic/model --host 0.0.0.0

    All routes are described at /openapi.json, what is measured at /metrics. SIGTERM and Ctrl-C
    finish what was accepted; a second one stops at once. The log has one line of JSON per request.

    Args:
        model: Folder of the model, as `prm fit` saved it; or a JSON object of names and folders.
        host: Address to listen on; the default is reached from this machine alone.
        port: Port to listen on; 0 takes a free one and logs it.
        token_file: File with the bearer token that requests must show; by default the environment
            variable PRM_SERVE_TOKEN holds it, if it is set.
        allow_open: Let other machines in without a token.
        device: cpu, cuda, cuda:1, ...; auto takes a GPU if there is one.
        dtype: Type of the models' weights; by default as stored.
        max_tokens: Tokens in one forward pass, which requests share: sets the memory, not the
            scores.
        cache_tokens: Tokens whose states are kept between requests, for chains that grow step by
            step (search); 0 keeps none.
        threads: Processor threads of a forward pass; by default as torch chooses.
        reward_range: Rewards outside these two numbers are counted in the metrics, as
            [LOWEST, HIGHEST].
        max_body_bytes: Most bytes of a request; more get 413.
        max_records: Most records of a request; more get 413.
        max_record_tokens: Most tokens of a record; more get 413.
        max_request_tokens: Most tokens of a request; more get 413.
        max_waiting: Most requests that are read or wait at a time; more get 429.
        max_waiting_bytes: Most bytes of their bodies; more get 429.
        timeout: Seconds that a request may wait for its scores; then it gets 503.
        body_timeout: Seconds that a client may take to send a request; then it gets 408.
        write_timeout: Seconds that a client may take to read a part of a reply.
        drain_timeout: Seconds that accepted requests get when the server stops.
        log_texts: Write the bodies of requests into the log.
        policy_tokenizer: Folder or name of the tokenizer of the policy whose texts OpenRLHF,
            LLaMA-Factory and slime send; by default that of the model.
        empty_reward: Reward of a response without any text in these dialects; by default it has
            none, which stops a trainer.

    Returns:
        0 after a signal to stop.
    """
    _check_installed()
    from prm.serve.auth import check_exposure
    from prm.serve.options import ServeOptions

    folders = model if isinstance(model, dict) else {_name(model): model}
    for folder in folders.values():
        model_kind(folder)
    options = ServeOptions(
        token=_token(token_file),
        reward_range=reward_range,
        max_body_bytes=max_body_bytes,
        max_records=max_records,
        max_record_tokens=max_record_tokens,
        max_request_tokens=max_request_tokens,
        max_waiting=max_waiting,
        max_waiting_bytes=max_waiting_bytes,
        timeout=timeout,
        body_timeout=body_timeout,
        write_timeout=write_timeout,
        drain_timeout=drain_timeout,
        log_texts=log_texts,
        policy_tokenizer=policy_tokenizer or "",
        empty_reward=empty_reward,
    )
    check_exposure(host, options.token, allow_open=allow_open)
    _check_numbers(max_tokens, cache_tokens, threads)
    return _serve(folders, host, port, options, device, dtype, max_tokens, cache_tokens, threads)


def _serve(
    folders: dict[str, Path],
    host: str,
    port: int,
    options: Any,
    device: str,
    dtype: str | None,
    max_tokens: int,
    cache_tokens: int,
    threads: int | None,
) -> int:
    import torch

    from prm.cli.scoring import load_scorer, scorer_options
    from prm.scoring.session import ScoringSession
    from prm.serve import run
    from prm.serve.dialects.rewards import load_policy
    from prm.serve.logs import set_up_logging
    from prm.serve.pool import ModelPool

    if threads is not None:
        torch.set_num_threads(threads)
    if options.policy_tokenizer:
        load_policy(options.policy_tokenizer)
    listener = run.open_socket(host, port, options)
    scorers = {
        name: load_scorer(scorer_options(folder, device, dtype, None, None, None, max_tokens))
        for name, folder in folders.items()
    }
    if cache_tokens:
        scorers = {name: ScoringSession(scorer, cache_tokens) for name, scorer in scorers.items()}
    set_up_logging()
    run.serve(ModelPool(scorers, options), listener)
    return 0


def _check_installed() -> None:
    needed = ("fastapi", "uvicorn", "prometheus_client")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            "`prm serve` needs packages that are not installed",
            got=", ".join(missing),
            fix="Install them with `pip install 'prm[serve]'`",
        )


def _check_numbers(max_tokens: int, cache_tokens: int, threads: int | None) -> None:
    limits = (("--max_tokens", max_tokens, 1), ("--cache_tokens", cache_tokens, 0))
    for option, value, least in (*limits, ("--threads", 1 if threads is None else threads, 1)):
        if value < least:
            raise ConfigError(f"{option} is wrong", expected=f"at least {least}", got=value)


def _name(folder: Path) -> str:
    """Return the name of a model: its folder's, or that of the run for `runs/NAME/model`.

    Example:
        >>> _name(Path("runs/arithmetic/model")), _name(Path("models/math"))
        ('arithmetic', 'math')
    """
    path = folder.resolve()
    return path.parent.name if path.name == "model" else path.name


def _token(file: Path | None) -> str:
    if file is None:
        return os.environ.get(TOKEN_VARIABLE, "").strip()
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("the token cannot be read", got=str(error)) from None
    if not token:
        raise ConfigError("the file of --token_file is empty", got=str(file))
    return token
