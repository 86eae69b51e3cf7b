"""Heads trained from cached states: the same run as with full passes, and no second pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from prm.cli.main import main
from prm.data.formats.hf_stepwise import HFStepwise
from prm.data.sources.source import Source
from prm.data.sources.writers import write_records
from prm.models.backbone import Backbone
from prm.records import Rating
from prm.scoring.scorer import RewardScorer
from prm.spec import RewardSpec
from prm.training.callbacks import ExportModel
from prm.trees.packing import PackedTrees
from tests.outcome_runs import (
    SAFETY,
    SOURCES,
    TESTED,
    fit_outcomes,
    joint_config,
    one_objective,
    write_chains,
    write_outcomes,
)
from tests.runs import (
    OVERLAYS,
    assert_same_weights,
    fit,
    metrics,
    on_ranks,
    prm,
    read_jsonl,
    write_config,
    write_data,
    write_pretrained,
)

FROZEN = {"freeze_backbone": True}
CACHED = {**FROZEN, "state_cache": "states"}
TRAINED = ("train/loss", "train/grad_norm", "train/tokens")
SAVED = ("--config", "run/config.yaml", "--ckpt_path", "run/checkpoints/best.ckpt")


class Passes:
    """Counts the tokens that backbones run while a model is trained, validated or tested."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.num_tokens = 0
        run = Backbone.forward

        def counted(backbone: Backbone, trees: PackedTrees) -> Any:
            self.num_tokens += trees.num_tokens
            return run(backbone, trees)

        monkeypatch.setattr(Backbone, "forward", counted)
        monkeypatch.setattr(ExportModel, "on_train_end", lambda *_: None)  # its own golden scores

    def taken(self) -> int:
        """Return the tokens run since the last call."""
        tokens, self.num_tokens = self.num_tokens, 0
        return tokens


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Passes:
    return Passes(monkeypatch)


def assert_same_runs(full: Path, cached: Path, *columns: str) -> None:
    assert_same_weights(full, cached)
    for column in (*TRAINED, *columns):
        assert metrics(full, column) == pytest.approx(metrics(cached, column), rel=1e-5), column


def probabilities(run: Path) -> list[float]:
    chains = list(Source(str(run.parent / "test.jsonl"), HFStepwise()))
    scores = RewardScorer.from_pretrained(run / "model").score(chains)
    return [value for score in scores for value in score.probabilities]


@pytest.mark.parametrize(
    ("head", "num_workers"), [("linear", 0), pytest.param("mlp", 2, marks=pytest.mark.slow)]
)
def test_a_cached_run_is_the_run_with_full_passes(
    run_dir: Path, head: str, num_workers: int
) -> None:
    write_data(run_dir, 21)
    changes: dict[str, Any] = {
        "trainer": {"max_epochs": 2},
        "data": {"max_tokens": 96, "num_workers": num_workers},
    }
    full = fit(run_dir, "full", model={**FROZEN, "head": head}, **changes)
    cached = fit(run_dir, "cached", model={**CACHED, "head": head}, **changes)
    assert_same_runs(full, cached, "val/step_auroc", "val/brier")
    assert probabilities(full) == pytest.approx(probabilities(cached), abs=1e-5)


def with_model(changes: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    return {**changes, "model": {**changes["model"], **options}}


def test_outcome_objectives_and_their_normalizers(run_dir: Path) -> None:
    write_outcomes(run_dir)
    changes = one_objective({**SAFETY, "normalizer": "zscore"}, "verdicts")
    full = fit_outcomes(run_dir, "full", **with_model(changes, FROZEN))
    cached = fit_outcomes(run_dir, "cached", **with_model(changes, CACHED))
    assert_same_runs(full, cached, "val/ranking", "val/safety/auroc")
    ours, theirs = (RewardSpec.load(run / "model").normalizers["safety"] for run in (full, cached))
    assert ours.affine() == pytest.approx(theirs.affine(), rel=1e-5)


def test_steps_and_responses_on_one_backbone(run_dir: Path) -> None:
    write_outcomes(run_dir)
    write_chains(run_dir)
    for run, model in (("full", FROZEN), ("cached", CACHED)):
        prm("fit", "--config", joint_config(run_dir, run_dir=run, model=model))
    assert_same_runs(run_dir / "full", run_dir / "cached", "val/ranking", "val/step_auroc")


def polite(count: int) -> Iterator[Rating]:
    """Yield the responses of the verdicts, with ratings of something else."""
    for index, record in enumerate(SOURCES["verdicts"](0, count)):
        assert isinstance(record, Rating)
        yield Rating(record.prompt, record.response, {"politeness": index % 3})


def test_a_new_objective_takes_no_pass(run_dir: Path, passes: Passes) -> None:
    """Nor do later epochs, other losses, heads, rates and seeds, and a second test."""
    write_outcomes(run_dir)
    write_pretrained(run_dir / "base")
    base = {"backbone": {"class_path": "Pretrained", "init_args": {"path": "base"}}}
    fit_outcomes(run_dir, "full", model={**base, **FROZEN})
    full = passes.taken()
    fit_outcomes(run_dir, "first", model={**base, **CACHED}, trainer={"max_epochs": 2})
    assert 0 < passes.taken() <= full
    other = {"name": "politeness", "rating": {"class_path": "MeanSquaredError"}}
    write_records(polite(24), run_dir / "verdicts-train.jsonl", overwrite=True)
    changes = one_objective(other, "verdicts", **base, **CACHED, lr=0.1, head="mlp")
    changes["data"] = {"train": changes["data"]["train"], "validation": [], "seed": 3}
    changes["data"] |= {"validation_share": 0.2, "batch_size": 5, **TESTED}
    fit_outcomes(run_dir, "run", **changes)
    assert passes.taken() == 0


def test_predictions_are_cached_too(run_dir: Path, passes: Passes) -> None:
    write_data(run_dir)
    fit(run_dir, model=CACHED)
    taken = [passes.taken()]
    for results in ("one", "two"):
        prm("predict", *SAVED, "--results", results)
        taken.append(passes.taken())
    assert taken[0] > taken[1] > taken[2] == 0
    prm("predict", *SAVED, "--results", "full", "--model.state_cache", "null")
    two, full = (read_jsonl(run_dir / f"run/{name}/predictions.jsonl") for name in ("two", "full"))
    for ours, theirs in zip(two, full, strict=True):
        assert ours["probabilities"] == pytest.approx(theirs["probabilities"], abs=1e-5)


def test_a_cached_run_resumes(run_dir: Path) -> None:
    write_data(run_dir)
    constant = {**CACHED, "schedule": {"decay": "constant", "warmup": 0}}
    whole = fit(run_dir, "whole", model=constant, trainer={"max_epochs": 2})
    fit(run_dir, model=constant)
    last = ("--ckpt_path", "run/checkpoints/last.ckpt", "--trainer.max_epochs", "2")
    prm("fit", "--config", "run/config.yaml", *last)
    assert_same_weights(whole, run_dir / "run")


def test_a_new_objective_on_a_reward_model(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its prompts are rendered as that model renders them, without repeating how."""
    write_data(run_dir)
    write_outcomes(run_dir)
    fit(run_dir, model={"template": {"prefix": "Problem: ", "suffix": "\n\n"}})
    start = {"class_path": "prm.models.sources.FromRewardModel", "init_args": {"path": "run/model"}}
    new = fit_outcomes(run_dir, "new", model={**CACHED, "backbone": start})
    old, spec = RewardSpec.load(run_dir / "run/model"), RewardSpec.load(new / "model")
    assert spec.template == old.template
    assert spec.response_names == ("helpfulness", "safety", "length")
    backbones = [weights_of(run_dir / "run"), weights_of(new)]
    assert all(torch.equal(backbones[1][name], value) for name, value in backbones[0].items())
    model = {"backbone": start, "template": {"prefix": "Q: "}}
    config = write_config(run_dir, run_dir="refused", model=model)
    assert main(["fit", "--config", str(config)]) == 2
    assert "template differs from that of the model to start from" in capsys.readouterr().err


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    """Return the exported weights of the decoder's layers."""
    state = load_file(run / "model/model.safetensors")
    return {name: value for name, value in state.items() if ".layers." in name}


def test_a_backbone_that_changes_is_refused(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data(run_dir)
    config = write_config(run_dir, model={"state_cache": "states"})
    assert main(["fit", "--config", str(config)]) == 2
    assert "state_cache needs a backbone that does not change" in capsys.readouterr().err


@pytest.mark.slow
def test_two_ranks_share_the_pass(run_dir: Path) -> None:
    write_data(run_dir, 17)
    changes: dict[str, Any] = {"data": {"max_tokens": 96}, "trainer": {"max_epochs": 2}}
    full = fit(run_dir, "full", model=FROZEN, **changes)
    config = write_config(run_dir, "two.yaml", run_dir="two", model=CACHED, **changes)
    on_ranks(run_dir, "fit", "--config", config, "--config", OVERLAYS / "ddp.yaml")
    assert_same_weights(full, run_dir / "two")
    assert len(list(run_dir.glob("states/*/*.safetensors"))) >= 2
    cached = fit(run_dir, "cached", model=CACHED, **changes)
    assert_same_runs(full, cached, "val/step_auroc")


@pytest.mark.slow
def test_sharded_ranks_share_the_pass(run_dir: Path) -> None:
    write_data(run_dir, 17)
    changes: dict[str, Any] = {"data": {"max_tokens": 96}}
    full = fit(run_dir, "full", model=FROZEN, **changes)
    config = write_config(run_dir, "two.yaml", run_dir="two", model=CACHED, **changes)
    on_ranks(run_dir, "fit", "--config", config, "--config", OVERLAYS / "fsdp2.yaml")
    assert_same_weights(full, run_dir / "two")
