"""What every test starts from: offline, one thread unless OMP_NUM_THREADS says more, seeded."""

from __future__ import annotations

import os

os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    WANDB_MODE="offline",
    MPLBACKEND="agg",
)
os.environ.setdefault("OMP_NUM_THREADS", "1")

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parents[1]

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
settings.register_profile("prm", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("prm")


@pytest.fixture(autouse=True)
def _seed() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the repository, where `configs/` and `data/` lie."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of public data sets beside the repository; tests that need it skip without it."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the public data sets in ../shared/data")
    return folder


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is also the working directory, for tests that write runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests whose devices this machine lacks."""
    for marker, num_devices in (("gpu", 1), ("multi_gpu", 2)):
        if item.get_closest_marker(marker) and torch.cuda.device_count() < num_devices:
            pytest.skip(f"needs {num_devices} CUDA device(s)")
