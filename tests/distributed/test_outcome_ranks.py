"""Two ranks train the outcome model that one rank trains, learned losses included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prm.scoring.scorer import RewardScorer
from tests.families import tiny_config
from tests.outcome_runs import (
    HELPFULNESS,
    LENGTH,
    SAFETY,
    fit_outcomes,
    outcome_source,
    sources,
    write_outcome_config,
    write_outcomes,
)
from tests.runs import OVERLAYS, assert_same_weights, metrics, on_ranks

DAVIDSON = HELPFULNESS | {"preference": {"class_path": "Davidson"}}
LEVELS = LENGTH | {"rating": {"class_path": "CumulativeLink", "init_args": {"num_levels": 3}}}
LEARNED = {
    "responses": [DAVIDSON, SAFETY | {"normalizer": "zscore"}, LEVELS],
    "learn_weights": True,
    "language_model": {"loss_weight": 0.2},
}

VALIDATION = (
    "ranking",
    "helpfulness/pair_nll",
    "safety/brier",
    "length/spearman",
    "reward/pair_nll",
)


def assert_same_run(one: Path, two: Path) -> None:
    assert_same_weights(one, two)
    for column in ("train/loss", "train/grad_norm", "train/tokens"):
        assert metrics(one, column) == pytest.approx(metrics(two, column), rel=1e-5), column
    for name in VALIDATION:
        expected = pytest.approx(metrics(one, f"val/{name}"), rel=1e-4, abs=1e-5)
        assert metrics(two, f"val/{name}") == expected, name
    first, second = (
        RewardScorer.from_pretrained(run / "model").score(("Task 1", "bomb"))[0]
        for run in (one, two)
    )
    assert first.reward == pytest.approx(second.reward, abs=1e-4)


@pytest.mark.parametrize(
    ("overlay", "model"),
    [
        ("ddp", LEARNED),
        ("fsdp2", LEARNED),
        pytest.param("fsdp2-sharded", LEARNED, marks=pytest.mark.slow),
        pytest.param("fsdp2", {}, marks=pytest.mark.slow),
    ],
)
def test_two_ranks_train_the_same_model(run_dir: Path, overlay: str, model: dict[str, Any]) -> None:
    """With 57 response sets in batches of 56, one rank of the last batch has but a filler."""
    write_outcomes(run_dir)
    train = [outcome_source("pairs-train.jsonl", limit=9), *sources("train")[1:]]
    data = {"train": train, "batch_size": 56, "max_tokens": 96}
    one = fit_outcomes(run_dir, "one", model=model, data=data)
    config = write_outcome_config(run_dir, "two.yaml", run_dir="two", model=model, data=data)
    on_ranks(run_dir, "fit", "--config", config, "--config", OVERLAYS / f"{overlay}.yaml")
    assert_same_run(one, run_dir / "two")


@pytest.mark.parametrize(
    "max_tokens", [pytest.param(n, marks=pytest.mark.slow) for n in (40, 4096)]
)
def test_validation_with_a_filler_is_that_of_one_rank(run_dir: Path, max_tokens: int) -> None:
    """A budget that holds everything leaves the second rank nothing but a filler."""
    write_outcomes(run_dir)
    data = {"max_tokens": max_tokens}
    one = fit_outcomes(run_dir, "one", data=data)
    config = write_outcome_config(run_dir, "two.yaml", run_dir="two", data=data)
    on_ranks(run_dir, "fit", "--config", config, "--config", OVERLAYS / "ddp.yaml")
    assert_same_run(one, run_dir / "two")


@pytest.mark.parametrize(
    ("family", "overlay", "fields"),
    [
        ("bert", "ddp", {"response_format": {"read_at": "mean"}}),
        pytest.param(
            "bert", "fsdp2", {"response_format": {"read_at": "mean"}}, marks=pytest.mark.slow
        ),
        pytest.param("gpt_neo", "fsdp2", {"lr": 1e-3}, marks=pytest.mark.slow),
        pytest.param("gemma3", "ddp", {}, marks=pytest.mark.slow),
    ],
)
def test_ranks_do_not_wait_for_weights_that_nothing_reads(
    run_dir: Path, family: str, overlay: str, fields: dict[str, Any]
) -> None:
    """A pooler, or a tower for images, has no gradient: DDP would stop at the second step.

    Ranks with paths of more lengths run more rows: FSDP would wait for the others.
    """
    write_outcomes(run_dir)
    config = tiny_config(family).to_dict() | {"max_position_embeddings": 128}
    backbone = {
        "class_path": "prm.models.sources.FromScratch",
        "init_args": {"config": config, "vocab_size": 290},
    }
    model = {"backbone": backbone, **fields}
    one = fit_outcomes(run_dir, "one", model=model)
    path = write_outcome_config(run_dir, "two.yaml", run_dir="two", model=model)
    on_ranks(run_dir, "fit", "--config", path, "--config", OVERLAYS / f"{overlay}.yaml")
    assert len(metrics(one, "train/loss")) > 2
    assert_same_run(one, run_dir / "two")
