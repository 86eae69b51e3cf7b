"""`RayBlockScorer`: batch scoring on the workers of a Ray cluster, with Ray Data.

One Ray task reads the input and streams its blocks; every worker loads the model once and scores
whole blocks; the process that was started receives their rows in order, and writes them as it
would write its own. Blocks are cut as in one process, so the rows are the same. Ray starts a worker
that dies anew and gives its blocks again, and a block is written once: nothing is lost or doubled.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prm.errors import ConfigError, MissingDependencyError, ModelError, PrmError
from prm.records import Chain, Rating
from prm.scoring.batch import RowFormat, blocks_of, model_hash
from prm.scoring.loading import ScorerOptions

if TYPE_CHECKING:
    import ray.data

    from prm.scoring.scorer import RewardScorer
    from prm.spec import RewardSpec

MAX_DEATHS = 3
"""Times that a block is given again after the worker that had it died."""


@dataclass(frozen=True)
class Workers:
    """How many workers score, and what each of them gets.

    Args:
        number: Workers; as many as the cluster has room for if not given.
        cpus: Processor cores of a worker, and its threads; at least 1.
        gpus: GPUs of a worker, or the share of one; if not given, one where the cluster has any.
        address: Address of a running cluster; if not given, that of the environment variable
            `RAY_ADDRESS`, or a cluster of this machine's cores that ends with the scoring.

    Raises:
        ConfigError: A number is out of range.
    """

    number: int | None = None
    cpus: int = 1
    gpus: float | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        if self.number is not None and self.number < 1:
            raise ConfigError("--num_workers is wrong", expected="at least 1", got=self.number)
        if self.cpus < 1:
            raise ConfigError("--cpus_per_worker is wrong", expected="at least 1", got=self.cpus)
        if self.gpus is not None and self.gpus < 0:
            raise ConfigError("--gpus_per_worker is wrong", expected="0 or more", got=self.gpus)


class RayBlockScorer:
    """Scores blocks on the workers of a Ray cluster.

    Args:
        options: What every worker loads.
        workers: The workers.

    Raises:
        MissingDependencyError: Ray is not installed.
        ConfigError: An aggregation does not fit the model.
        SpecError: There is no spec, or it is too new.
        ModelError: The spec has no golden scores to know the model by.

    Example:
        >>> options = ScorerOptions(Path("runs/arithmetic/model"))  # doctest: +SKIP
        >>> workers = RayBlockScorer(options, Workers(number=8))  # doctest: +SKIP
        >>> score_file(workers, survey(chains), "scores.jsonl")  # doctest: +SKIP
    """

    def __init__(self, options: ScorerOptions, workers: Workers = Workers()) -> None:
        from prm.scores.reaggregate import with_aggregations
        from prm.spec import RewardSpec

        check_installed()
        self.options = replace(options, path=options.path.resolve())
        self.workers = workers
        self._saved = RewardSpec.load(options.path)
        self.spec: RewardSpec = with_aggregations(
            self._saved, options.step_aggregation, options.objective_aggregation, options.shaping
        )
        if not (self._saved.golden_chains or self._saved.golden_responses):
            raise ModelError(
                "the spec has no golden scores to know the model by",
                where=str(options.path),
                fix="Load the model and save it again, or score with --engine local",
            )

    def identity(self) -> dict[str, str]:
        """Return what the model is known by, without loading it; workers check their weights."""
        from transformers import AutoConfig

        dtype = self.options.dtype or AutoConfig.from_pretrained(self.options.path).dtype
        return {
            "model": model_hash(self._saved),
            "dtype": str(dtype or "float32").removeprefix("torch."),
        }

    def score_blocks(
        self, records: Iterable[Chain | Rating], start: int, size: int, rows: RowFormat
    ) -> Generator[list[dict[str, Any]], None, None]:
        """Yield the rows of each block.

        Raises:
            ConfigError: There is no cluster, or it has no room for the workers.
            PrmError: A record or the model is refused, or a block makes every worker die.
        """
        with _cluster(self.workers):
            scored = self._dataset(records, start, size, rows).iter_rows()
            for index, row in enumerate(scored):
                if row["error"] is not None:
                    raise row["error"]
                assert row["index"] == index, "Ray Data keeps the order of blocks"
                yield json.loads(row["rows"])

    def _dataset(
        self, records: Iterable[Chain | Rating], start: int, size: int, rows: RowFormat
    ) -> ray.data.Dataset:
        """Return the blocks on their way through the workers; nothing runs until it is iterated."""
        import ray.data

        cpus, gpus = self.workers.cpus, _gpus_per_worker(self.workers, self.options.device)
        number = _num_workers(self.workers, gpus)
        attempts = ray.remote(num_cpus=0)(_Attempts).remote()
        with _in_order():
            source = _block_source(records, start, size)
            blocks = ray.data.read_datasource(source, override_num_blocks=1, num_cpus=0)
            return blocks.map_batches(
                _Worker,
                fn_constructor_args=(self.options, rows, cpus, attempts),
                batch_size=1,
                batch_format="pandas",
                compute=ray.data.ActorPoolStrategy(size=number),
                num_cpus=cpus,
                num_gpus=gpus,
            )


class _Attempts:
    """Counts, in a process that runs no model, how often each block was begun."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()

    def begin(self, index: int) -> int:
        """Return how often this block was begun before."""
        self.counts[index] += 1
        return self.counts[index] - 1


class _Worker:
    """Scores blocks in a process of its own; errors travel in the place of rows."""

    def __init__(
        self, options: ScorerOptions, rows: RowFormat, num_threads: int, attempts: Any
    ) -> None:
        import torch

        torch.set_num_threads(num_threads)
        self.options = options
        self.rows = rows
        self.attempts = attempts

    @cached_property
    def scorer(self) -> RewardScorer:
        """The model, loaded with the first block: errors of loading travel like any other."""
        return self.options.load()

    def __call__(self, batch: Any) -> Any:
        """Replace the records of a one-row table by their rows, as JSON."""
        (index,), (records,), (error,) = (batch[name] for name in ("index", "records", "error"))
        if error is not None:
            return _one_row(index=index, rows=None, error=error)
        try:
            return _one_row(index=index, rows=self._score(index, records), error=None)
        except PrmError as refusal:
            return _one_row(index=index, rows=None, error=refusal)

    def _score(self, index: int, records: list[Chain | Rating]) -> str:
        import ray

        if ray.get(self.attempts.begin.remote(index)) > MAX_DEATHS:
            raise PrmError(
                f"the same records ended {MAX_DEATHS + 1} workers",
                got=f"the {len(records)} from {records[0].origin or records[0].id!r} on",
                fix="Give workers more memory (fewer workers, or a smaller --max_tokens); finished "
                "blocks are kept, and the same command continues after them",
            )
        return json.dumps(self.rows.rows(records, self.scorer.score(records)))


def _block_source(records: Iterable[Chain | Rating], start: int, size: int) -> Any:
    """Return a Ray Data source of which each row is a block of records.

    It reads in this working directory, so that relative paths mean the same on nodes that share it.
    """
    from ray.data import Datasource
    from ray.data.block import BlockMetadata
    from ray.data.datasource import ReadTask

    folder = Path.cwd()

    def read() -> Iterator[Any]:
        index = -1
        if folder.is_dir():
            os.chdir(folder)
        try:
            for index, block in enumerate(blocks_of(records, start, size)):
                yield _one_row(index=index, records=block, error=None)
        except PrmError as error:
            yield _one_row(index=index + 1, records=[], error=error)

    class Blocks(Datasource):  # type: ignore[misc]  # Ray has no types here
        def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
            unknown = BlockMetadata(
                num_rows=None, size_bytes=None, input_files=None, exec_stats=None
            )
            return [ReadTask(read, unknown)]

        def estimate_inmemory_data_size(self) -> int | None:
            return None

    return Blocks()


def _one_row(**values: Any) -> Any:
    import pandas as pd

    return pd.DataFrame({name: pd.Series([value], dtype=object) for name, value in values.items()})


def check_installed() -> None:
    """Refuse to go on without Ray.

    Raises:
        MissingDependencyError: It is not installed.
    """
    if find_spec("ray") is None:
        raise MissingDependencyError(
            "--engine ray needs the package ray", fix="pip install 'prm[ray]'"
        )


@contextmanager
def _cluster(workers: Workers) -> Iterator[None]:
    """Connect to the cluster, or start one of this machine's cores, unless Ray runs already."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)

    if ray.is_initialized():
        yield
        return
    address = workers.address or os.environ.get("RAY_ADDRESS") or "local"
    try:
        ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        raise ConfigError(
            "there is no Ray cluster", got=address, fix="Check --ray_address, or leave it out"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _in_order() -> Iterator[None]:
    """Make datasets keep their order, pass on every row as it comes, and draw no bars."""
    from ray.data import DataContext

    context = DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    context.target_max_block_size = 1
    context.enable_progress_bars = False
    with DataContext.current(context):
        yield


def _gpus_per_worker(workers: Workers, device: str) -> float:
    import ray

    if workers.gpus is not None:
        return workers.gpus
    return 1.0 if device != "cpu" and ray.cluster_resources().get("GPU") else 0.0


def _num_workers(workers: Workers, gpus: float) -> int:
    """Return the number of workers; where not even one fits, Ray would wait without end."""
    import ray

    room = ray.cluster_resources()
    fit = int(room.get("CPU", 0) // workers.cpus)
    if gpus:
        fit = min(fit, int(room.get("GPU", 0) // gpus))
    if fit == 0:
        raise ConfigError(
            "no worker fits into the Ray cluster",
            expected=f"{workers.cpus} processor cores and {gpus:g} GPUs for each",
            got=f"{room.get('CPU', 0):g} cores and {room.get('GPU', 0):g} GPUs in all",
            fix="Change --cpus_per_worker or --gpus_per_worker",
        )
    return workers.number or fit
