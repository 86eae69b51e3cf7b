"""`prm score --engine ray`: the rows of the local engine, whichever process is killed."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from prm.cli.inputs import choose_format, survey_source
from prm.cli.main import main
from prm.data.sources.writers import write_records
from prm.errors import ConfigError, ModelError, PrmError
from prm.models import checkpoint
from prm.records import Chain, Rating
from prm.scoring import batch
from prm.scoring import ray as ray_engine
from prm.scoring.batch import RowFormat, Summary, Survey, survey
from prm.scoring.loading import ScorerOptions
from prm.scoring.ray import RayBlockScorer, Workers
from prm.scoring.scorer import RewardScorer
from prm.spec import RewardSpec
from tests.outcome_models import save_outcome_model
from tests.tiny_models import tiny_model

pytestmark = pytest.mark.filterwarnings("ignore::Warning:ray")

BLOCK, UNSCORABLE = 4, 5
score_file = functools.partial(batch.score_file, block=BLOCK)


def chain(index: int) -> Chain:
    prompt = "too long " * 100 if index == UNSCORABLE else f"{index % 3} + 1 = ?"
    return Chain(prompt, [f"step {index}", "so it is döne"], id=f"c{index}")


CHAINS = [chain(index) for index in range(42)]
RATINGS = [Rating(f"Name {i % 4}.", f"It is {i}.", {"safety": 1.0}, id=f"r{i}") for i in range(42)]


class SlowRows(RowFormat):
    """Rows that take their time, so that a worker is killed while it makes them."""

    def rows(
        self, records: Sequence[Chain | Rating], scores: Sequence[Any]
    ) -> list[dict[str, Any]]:
        time.sleep(0.05)
        return super().rows(records, scores)


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    """One cluster for all tests, whose workers may run the classes of this file."""
    pytest.importorskip("ray", reason="needs the extra ray")
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with ray_engine._cluster(Workers(address="local")):
        yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tiny_model(spec=RewardSpec(max_length=64))
    return checkpoint.save(model, tmp_path_factory.mktemp("process") / "model")


def score_locally(model: Path, records: Sequence[Chain | Rating], output: Path) -> bytes:
    score_file(ScorerOptions(model).load(), survey(records), output, keep_text=True)
    return output.read_bytes()


def on_ray(model: Path, number: int = 2) -> RayBlockScorer:
    return RayBlockScorer(ScorerOptions(model), Workers(number))


def worker_ids() -> list[int]:
    """Return the process ids of workers of this process's cluster."""
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and is_worker(entry)
    ]


def is_worker(entry: Path) -> bool:
    try:
        title = (entry / "cmdline").read_text(errors="replace")
        return "_Worker" in title and os.getpid() in ancestors(int(entry.name))
    except OSError:
        return False


def ancestors(pid: int) -> Iterator[int]:
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
        yield pid


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_killed_workers_lose_and_double_nothing(
    process: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = score_locally(process, CHAINS, tmp_path / "local.jsonl")
    monkeypatch.setattr(batch, "RowFormat", SlowRows)
    killed: list[int] = []

    def kill(summary: Summary) -> None:
        if summary.num_records in (BLOCK, 4 * BLOCK):
            killed.append(worker_ids()[0])
            os.kill(killed[-1], signal.SIGKILL)

    summary = score_file(
        on_ray(process), survey(CHAINS), tmp_path / "ray.jsonl", keep_text=True, on_block=kill
    )
    assert len(set(killed)) == 2
    assert (tmp_path / "ray.jsonl").read_bytes() == expected
    assert (summary.num_records, summary.num_scored) == (len(CHAINS), len(CHAINS) - 1)
    assert f"c{UNSCORABLE}" in summary.reasons[0]
    scores, names = ("local.jsonl", "ray.jsonl"), {path.name for path in tmp_path.iterdir()}
    assert names == {*scores, *(f"{name}.spec.json" for name in scores)}


def test_the_command_continues_what_the_local_engine_left(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow.parquet as pq

    monkeypatch.setattr("prm.cli.scoring.score_file", score_file)
    model = save_outcome_model(run_dir / "model")
    write_records(RATINGS, run_dir / "ratings.jsonl")
    words = ["score", "--model", "model", "--input", "ratings.jsonl", "--keep_text", "--output"]
    assert main([*words, "local.parquet"]) == 0
    inputs = survey_source("ratings.jsonl", choose_format("outcome", None))
    interrupted(ScorerOptions(model).load(), inputs, Path("ray.parquet"))
    assert main([*words, "ray.parquet", "--engine", "ray", "--num_workers", "1"]) == 0
    assert pq.read_table("ray.parquet").equals(pq.read_table("local.parquet"))
    specs = [Path(f"{name}.parquet.spec.json").read_bytes() for name in ("ray", "local")]
    assert specs[0] == specs[1]


def interrupted(scorer: RewardScorer | RayBlockScorer, inputs: Survey, output: Path) -> None:
    def interrupt(summary: Summary) -> None:
        if summary.num_records == 3 * BLOCK:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_file(scorer, inputs, output, keep_text=True, on_block=interrupt)


@pytest.mark.slow
def test_the_local_engine_continues_what_ray_left(process: Path, tmp_path: Path) -> None:
    expected = score_locally(process, CHAINS, tmp_path / "local.jsonl")
    output = tmp_path / "ray.jsonl"
    interrupted(on_ray(process), survey(CHAINS), output)
    summary = score_file(ScorerOptions(process).load(), survey(CHAINS), output, keep_text=True)
    assert summary.num_resumed == 3 * BLOCK
    assert output.read_bytes() == expected


@pytest.mark.slow
def test_weights_that_workers_refuse_are_one_error(process: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(process, tmp_path / "model"))
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match="cannot load the weights"):
        score_file(on_ray(model, 1), survey(CHAINS), tmp_path / "scores.jsonl")
    assert not (tmp_path / "scores.jsonl.partial").exists()


class DeadlyRows(RowFormat):
    """Rows of which some end the process that makes them, as a lack of memory would."""

    def rows(
        self, records: Sequence[Chain | Rating], scores: Sequence[Any]
    ) -> list[dict[str, Any]]:
        if any(record.id == "c9" for record in records):
            os._exit(1)
        return super().rows(records, scores)


@pytest.mark.slow
def test_records_that_end_every_worker_are_named(
    process: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "scores.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(batch, "RowFormat", DeadlyRows)
        with pytest.raises(PrmError, match=r"ended 4 workers: got the 4 from 'c8' on.*continues"):
            score_file(on_ray(process, 1), survey(CHAINS), output)
    assert score_file(ScorerOptions(process).load(), survey(CHAINS), output).num_resumed == 8


@pytest.mark.parametrize(
    ("workers", "message"),
    [
        (Workers(cpus=10_000), "no worker fits"),
        (Workers(gpus=10_000), "no worker fits"),
    ],
)
def test_workers_that_never_fit_are_refused(
    process: Path, tmp_path: Path, workers: Workers, message: str
) -> None:
    engine = RayBlockScorer(ScorerOptions(process), workers)
    with pytest.raises(ConfigError, match=message):
        score_file(engine, survey(CHAINS), tmp_path / "scores.jsonl")


DRIVER = """
import sys, time
from pathlib import Path
from prm.records import Chain
from prm.scoring import batch
from prm.scoring.loading import ScorerOptions
from prm.scoring.ray import RayBlockScorer, Workers
from prm.scoring.scorer import RewardScorer

class SlowRows(batch.RowFormat):
    def rows(self, records, scores):
        time.sleep(0.5)
        return super().rows(records, scores)

model, rows, output = sys.argv[1:]
chains = [Chain(**row) for row in __import__("json").loads(Path(rows).read_text())]
batch.RowFormat = SlowRows
engine = RayBlockScorer(ScorerOptions(Path(model)), Workers(2))
batch.score_file(engine, batch.survey(chains), output, keep_text=True, block=4)
"""


@pytest.mark.slow
def test_a_killed_driver_is_continued(process: Path, tmp_path: Path) -> None:
    expected = score_locally(process, CHAINS, tmp_path / "local.jsonl")
    rows = [{"prompt": c.prompt, "completions": list(c.completions), "id": c.id} for c in CHAINS]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    output = tmp_path / "scores.jsonl"
    words = [str(process), str(tmp_path / "rows.json"), str(output)]
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, *words])
    partial = tmp_path / "scores.jsonl.partial"
    while not (partial.exists() and partial.stat().st_size):
        assert driver.poll() is None
        time.sleep(0.05)
    driver.kill()
    driver.wait()
    assert not output.exists()
    summary = score_file(on_ray(process), survey(CHAINS), output, keep_text=True)
    assert 0 < summary.num_resumed < len(CHAINS)
    assert output.read_bytes() == expected
