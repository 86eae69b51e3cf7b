"""`prm serve`: models behind HTTP."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from prm.cli.inputs import model_kind
from prm.cli.options import DTypeOptions, ForwardOptions, check_least
from prm.errors import ConfigError, MissingDependencyError
from prm.serve.options import RequestOptions, ServeOptions

if TYPE_CHECKING:
    from prm.scoring.scorer import RewardScorer

TOKEN_VARIABLE = "PRM_SERVE_TOKEN"


@dataclass(frozen=True, kw_only=True)
class Serve(DTypeOptions, ForwardOptions, RequestOptions):
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
        cache_tokens: Tokens whose states are kept between requests, for chains that grow step by
            step (search); 0 keeps none.
        threads: Processor threads of a forward pass; by default as torch chooses.
    """

    model: Path | dict[str, Path]
    host: str = "127.0.0.1"
    port: int = 8000
    token_file: Path | None = None
    allow_open: bool = False
    cache_tokens: int = 0
    threads: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        RequestOptions.__post_init__(self)
        check_least("--cache_tokens", self.cache_tokens, 0)
        check_least("--threads", self.threads, 1)

    def run(self) -> None:
        """Serve until a signal stops it."""
        _check_installed()
        from prm.serve.auth import check_exposure

        folders = self.model if isinstance(self.model, dict) else {_name(self.model): self.model}
        for folder in folders.values():
            model_kind(folder)
        requests = {field.name: getattr(self, field.name) for field in fields(RequestOptions)}
        options = ServeOptions(**requests, token=_token(self.token_file))
        check_exposure(self.host, options.token, allow_open=self.allow_open)
        self._serve(folders, options)

    def _serve(self, folders: dict[str, Path], options: ServeOptions) -> None:
        import torch

        from prm.serve import run
        from prm.serve.dialects.rewards import load_policy
        from prm.serve.logs import set_up_logging
        from prm.serve.pool import ModelPool

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        if options.policy_tokenizer:
            load_policy(options.policy_tokenizer)
        listener = run.open_socket(self.host, self.port, options)
        scorers = {name: self._load(folder) for name, folder in folders.items()}
        set_up_logging()
        run.serve(ModelPool(scorers, options), listener)

    def _load(self, folder: Path) -> RewardScorer:
        from prm.cli.scoring import load_scorer
        from prm.scoring.loading import ScorerOptions
        from prm.scoring.session import ScoringSession

        dtype = self.torch_dtype()
        options = ScorerOptions(folder, self.device, dtype, max_tokens=self.max_tokens)
        scorer = load_scorer(options)
        return ScoringSession(scorer, self.cache_tokens) if self.cache_tokens else scorer


def _check_installed() -> None:
    needed = ("fastapi", "uvicorn", "prometheus_client")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            "`prm serve` needs packages that are not installed",
            got=", ".join(missing),
            fix="Install them with `pip install 'prm[serve]'`",
        )


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
