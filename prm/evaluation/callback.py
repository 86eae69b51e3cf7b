"""The callback that turns test and prediction batches into a report and files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from prm.data.datamodules import ChainDataModule
from prm.evaluation.process import ProcessReport, evaluate
from prm.evaluation.slices import StepPrediction
from prm.records import Chain
from prm.training.process import ProcessRewardTask, ReadLogits


class EvaluationReport(Callback):
    """Collects every step's probability once, over all ranks, and hands them on at the end.

    `prm test` measures them beside the baselines, fitted on the training chains if there are any;
    `prm predict` writes them as they are.

    Args:
        folder: Where results are written.
        write_report: Called with the report and the folder, on rank 0.
        write_predictions: Called with the predictions and the folder, on rank 0.
    """

    def __init__(
        self,
        folder: str | Path,
        write_report: Callable[[ProcessReport, Path], None],
        write_predictions: Callable[[Sequence[StepPrediction], Path], None],
    ) -> None:
        self.folder = Path(folder)
        self.write_report = write_report
        self.write_predictions = write_predictions
        self._reads: list[tuple[int, dict[int, float]]] = []

    def on_test_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Forget earlier reads."""
        self._reads = []

    def on_predict_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Forget earlier reads."""
        self._reads = []

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        task: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take the reads of a batch."""
        self._collect(task, outputs)

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        task: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take the reads of a batch."""
        self._collect(task, outputs)

    def on_test_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Measure and write."""
        predictions = self._predictions(trainer, "test")
        if predictions is None:
            return
        data = _data(trainer)
        train = data.training_chains() if data.sources["train"] else None
        report = evaluate(predictions, train_chains=train, context=_context(trainer, task))
        self.write_report(report, self.folder)

    def on_predict_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Write."""
        predictions = self._predictions(trainer, "predict")
        if predictions is not None:
            self.write_predictions(predictions, self.folder)

    def _collect(self, task: L.LightningModule, reads: ReadLogits) -> None:
        assert isinstance(task, ProcessRewardTask)
        column = task.objective_names.index(task.spec.reward_objective)
        probabilities = reads.logits[:, column].double().sigmoid()
        for position, record in enumerate(reads.records):
            chosen = reads.chain == position
            steps = reads.step[chosen].tolist()
            values = probabilities[chosen].tolist()
            self._reads.append((record, dict(zip(steps, values, strict=True))))

    def _predictions(self, trainer: L.Trainer, part: str) -> list[StepPrediction] | None:
        """Return all ranks' predictions in the order of the data, on rank 0."""
        reads = _gather(self._reads, trainer)
        if reads is None:
            return None
        data = _data(trainer)
        labeled = data.labeled(part)
        predictions = [
            _prediction(labeled[record].chain, steps, labeled[record].tokens.num_truncated)
            for record, steps in sorted(reads, key=lambda item: item[0])
        ]
        return predictions + [
            StepPrediction(chain, (None,) * len(chain.completions), reason)
            for chain, reason in data.dropped[part]
        ]


def _prediction(chain: Chain, steps: dict[int, float], num_truncated: int) -> StepPrediction:
    probabilities = tuple(steps.get(index) for index in range(len(chain.completions)))
    reason = f"{num_truncated} steps cut off at max_length" if num_truncated else ""
    return StepPrediction(chain, probabilities, reason)


def _gather(
    reads: list[tuple[int, dict[int, float]]], trainer: L.Trainer
) -> list[tuple[int, dict[int, float]]] | None:
    if trainer.world_size == 1:
        return reads
    gathered: list[Any] | None = [None] * trainer.world_size if trainer.is_global_zero else None
    torch.distributed.gather_object(reads, gathered)
    return None if gathered is None else [item for part in gathered for item in part]


def _data(trainer: L.Trainer) -> ChainDataModule:
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(data, ChainDataModule)
    return data


def _context(trainer: L.Trainer, task: L.LightningModule) -> dict[str, Any]:
    assert isinstance(task, ProcessRewardTask)
    spec = task.spec.to_dict()
    return {
        "checkpoint": str(trainer.ckpt_path) if trainer.ckpt_path else None,
        "spec": {key: value for key, value in spec.items() if key != "golden"},
        "precision": str(trainer.precision),
    }
