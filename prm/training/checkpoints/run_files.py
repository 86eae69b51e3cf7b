"""How a run's metrics and checkpoints are written, so that a kill at any time loses neither."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only

from prm.atomic import atomic_file, swap
from prm.errors import OutputError
from prm.training.checkpoints import snapshot


class MetricsFile(CSVLogger):
    """Writes `metrics.csv` row by row; a resumed run continues the file that it finds.

    Nothing is written or changed before the first row, so a run that cannot start leaves no trace.

    Args:
        folder: Where the file lies.
        num_steps: Optimizer steps of the checkpoint that the run resumes from: rows of later steps
            are dropped, because they come again.
    """

    def __init__(self, folder: str | Path, num_steps: int = 0) -> None:
        super().__init__(folder, name="", version="", flush_logs_every_n_steps=1)
        self.num_steps = num_steps

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Lightning's writer once there is a row, and `None` before."""
        return self._experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write a row.

        Raises:
            OutputError: It cannot be written.
        """
        try:
            if self._experiment is None:
                rows = self._earlier_rows()
                super().experiment.metrics = rows
            super().log_metrics(dict(metrics), step)
        except OSError as error:
            raise OutputError("cannot write", got=error.strerror, where=self.log_dir) from error

    @rank_zero_only
    def save(self) -> None:
        """Write what is not written yet, if there was a row."""
        if self._experiment is not None:
            super().save()

    def _earlier_rows(self) -> list[dict[str, Any]]:
        """Return the rows of the steps before."""
        path = Path(self.log_dir) / "metrics.csv"
        if not self.num_steps or not path.is_file():
            return []
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if int(row["step"]) < self.num_steps]
        return [{name: value for name, value in row.items() if value} for row in rows]


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it, so that it is whole or not there.

    Reads files, and folders to which several ranks wrote their shards.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint.

        Raises:
            OutputError: It cannot be written; the one before is untouched.
        """
        path = Path(path)
        was_sharded = path.is_dir()
        target = path.with_name(f".{path.name}.part") if was_sharded else path
        with atomic_file(target) as stream:
            torch.save(checkpoint, stream)
        if was_sharded:
            swap(target, path)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint of either kind."""
        if Path(path).is_dir():
            return snapshot.read(path)
        return super().load_checkpoint(path, map_location, weights_only)
