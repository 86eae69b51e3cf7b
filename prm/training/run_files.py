"""How a run's metrics and checkpoints are written, so that a kill at any time loses neither."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.plugins.io import TorchCheckpointIO

from prm.atomic import atomic_file


class MetricsFile(CSVLogger):
    """Writes `metrics.csv` row by row; a resumed run continues the file that it finds.

    Args:
        folder: Where the file lies.
        num_steps: Optimizer steps of the checkpoint that the run resumes from: rows of later steps
            are dropped, because they come again.
    """

    def __init__(self, folder: str | Path, num_steps: int = 0) -> None:
        super().__init__(folder, name="", version="", flush_logs_every_n_steps=1)
        self.num_steps = num_steps

    @property
    @rank_zero_experiment  # type: ignore[untyped-decorator]
    def experiment(self) -> Any:
        """Lightning's writer, which starts with the rows of the steps before."""
        if self._experiment is None:
            rows = self._earlier_rows()
            writer = super().experiment
            writer.metrics = rows
            writer.save()
        return self._experiment

    def _earlier_rows(self) -> list[dict[str, Any]]:
        path = Path(self.log_dir) / "metrics.csv"
        if not self.num_steps or not path.is_file():
            return []
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if int(row["step"]) < self.num_steps]
        return [{name: value for name, value in row.items() if value} for row in rows]


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it, so that it is whole or not there."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint.

        Raises:
            OutputError: It cannot be written; the one before is untouched.
        """
        with atomic_file(path) as stream:
            torch.save(checkpoint, stream)
