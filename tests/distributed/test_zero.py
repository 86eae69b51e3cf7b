"""DeepSpeed's ZeRO trains the model that one rank trains, and its checkpoints are anyone's."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.test_resume_on_ranks import CONSTANT, assert_same_run
from tests.runs import fit, on_ranks, prm, write_config, write_data

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs deepspeed"),
]


CHANGES: dict[str, Any] = {"model": CONSTANT, "data": {"max_tokens": 96}}


def fit_zero(folder: Path, run_dir: str, epoch: int, resume: bool, **options: Any) -> None:
    """Train up to an epoch on two gloo ranks."""
    strategy = {"class_path": "tests.distributed.zero_on_cpu.ZeroOnCPU", "init_args": options}
    trainer = {"max_epochs": epoch, "strategy": strategy}
    config = write_config(folder, "zero.yaml", run_dir=run_dir, trainer=trainer, **CHANGES)
    resumed = ("--ckpt_path", f"{run_dir}/checkpoints/last.ckpt") if resume else ()
    on_ranks(folder, "fit", "--config", config, *resumed)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_trains_the_same_model(
    run_dir: Path, stage: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One rank, then two with DeepSpeed twice, then one; several micro-batches in a batch."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    write_data(run_dir, 21)
    whole = fit(run_dir, "whole", trainer={"max_epochs": 4}, **CHANGES)
    fit(run_dir, "moved", **CHANGES)
    fit_zero(run_dir, "moved", 2, True, stage=stage)
    fit_zero(run_dir, "moved", 3, True, stage=stage)
    config = write_config(
        run_dir, "last.yaml", run_dir="moved", trainer={"max_epochs": 4}, **CHANGES
    )
    prm("fit", "--config", config, "--ckpt_path", "moved/checkpoints/last.ckpt")
    assert_same_run(whole, run_dir / "moved")
