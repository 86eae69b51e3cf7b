"""Tiny models behind the application, and a scorer that can be held up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import pytest
from fastapi import FastAPI

from prm.models.reward_model import ModelOutput, RewardModel
from prm.scoring.scorer import RewardScorer
from prm.serve.app import create_app
from prm.serve.options import ServeOptions
from prm.serve.pool import ModelPool
from prm.trees.tree import TokenTree
from tests.outcome_models import outcome_model
from tests.tiny_models import tiny_model

Serve = Callable[..., FastAPI]


class HeldScorer(RewardScorer):
    """Waits before every pass until it may go on, and remembers the trees of the passes."""

    def __init__(self, model: RewardModel, max_tokens: int = 16384) -> None:
        super().__init__(model, max_tokens=max_tokens)
        self.may_run = threading.Event()
        self.runs = threading.Event()
        self.passes: list[list[TokenTree | None]] = []

    def outputs(self, trees: Sequence[TokenTree | None]) -> list[ModelOutput]:
        self.passes.append(list(trees))
        self.runs.set()
        assert self.may_run.wait(20)
        return super().outputs(trees)


@pytest.fixture(scope="session")
def models() -> Mapping[str, RewardModel]:
    """A process model and an outcome model of two objectives."""
    return {"steps": tiny_model(), "replies": outcome_model()}


@pytest.fixture
def held(models: Mapping[str, RewardModel]) -> Iterator[HeldScorer]:
    """The process model, held up until `may_run` is set."""
    scorer = HeldScorer(models["steps"])
    yield scorer
    scorer.may_run.set()


@pytest.fixture
def serve(models: Mapping[str, RewardModel]) -> Iterator[Serve]:
    """Makes applications of the two models, or of one scorer, with options of the server."""
    with ExitStack() as stack:

        def app(scorer: RewardScorer | None = None, **options: Any) -> FastAPI:
            scorers = {name: RewardScorer(model) for name, model in models.items()}
            chosen = scorers if scorer is None else {"held": scorer}
            pool = ModelPool(chosen, ServeOptions(**options))
            stack.callback(pool.close)
            return create_app(pool)

        yield app
