"""The callback that turns test and prediction batches into reports and files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from prm.data.items import LabeledChain, LabeledResponses
from prm.evaluation.predictions import Predictions
from prm.evaluation.report import Report, evaluate
from prm.evaluation.responses import ResponsePrediction
from prm.evaluation.steps import StepPrediction
from prm.records import Chain, Outcome
from prm.training.objectives import in_label_units
from prm.training.reads import Reads, ResponseReads, StepReads
from prm.training.task import RewardTask
from prm.trees.units import ResponseSet

StepsOf = tuple[int, dict[int, float]]
"""Index of a chain, and the probability of each step that was read."""

ScoresOf = tuple[int, Tensor]
"""Index of a response set, and its scores `[branch, objective]`."""


class EvaluationReport(Callback):
    """Collects everything that was read once, over all ranks, and hands it on at the end.

    `prm test` measures it beside the baselines, fitted on the training records if there are any;
    `prm predict` writes it as it is.

    Args:
        folder: Where results are written.
        write_report: What writes a report, on rank 0.
        write_predictions: What writes predictions, on rank 0.
    """

    def __init__(
        self,
        folder: str | Path,
        write_report: Callable[[Report, Path], object],
        write_predictions: Callable[[Predictions, Path], object],
    ) -> None:
        self.folder = Path(folder)
        self.write_report = write_report
        self.write_predictions = write_predictions
        self._steps: list[StepsOf] = []
        self._scores: list[ScoresOf] = []

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget earlier reads."""
        self._steps, self._scores = [], []

    on_predict_start = on_test_start

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take the reads of a batch."""
        assert isinstance(pl_module, RewardTask)
        reads: Reads = outputs
        if reads.steps is not None:
            column = pl_module.spec.step_names.index(pl_module.spec.chain_reward)
            self._steps.extend(_steps_of(reads.steps, column))
        if reads.responses is not None:
            self._scores.extend(_scores_of(reads.responses))

    on_predict_batch_end = on_test_batch_end

    def on_test_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Measure and write."""
        assert isinstance(task, RewardTask)
        predictions = self._predictions(trainer, task, "test")
        if predictions:
            report = evaluate(
                predictions,
                task.spec,
                task.data.training_records() if task.data.sources["train"] else None,
                in_label_units=in_label_units(task.responses),
                context=_context(trainer, task),
            )
            self.write_report(report, self.folder)

    def on_predict_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Write."""
        assert isinstance(task, RewardTask)
        predictions = self._predictions(trainer, task, "predict")
        if predictions:
            self.write_predictions(predictions, self.folder)

    def _predictions(self, trainer: L.Trainer, task: RewardTask, part: str) -> Predictions:
        """Return all ranks' predictions in the order of the data; none on other ranks."""
        return Predictions(
            self._step_predictions(trainer, task, part),
            self._response_predictions(trainer, task, part),
            task.spec.response_names,
            apart=task.spec.kind == "joint",
        )

    def _step_predictions(
        self, trainer: L.Trainer, task: RewardTask, part: str
    ) -> list[StepPrediction]:
        """Return all ranks' predictions in the order of the data; none on other ranks."""
        reads = _gather(self._steps, trainer) if task.spec.step_heads else None
        if reads is None:
            return []
        items, objective = task.data.items(part), task.spec.chain_reward
        return [
            _step_prediction(cast(LabeledChain, items[record]), steps, objective)
            for record, steps in reads
        ] + [
            StepPrediction(chain, (None,) * len(chain.completions), reason, objective)
            for chain, reason in task.data.dropped[part]
            if isinstance(chain, Chain)
        ]

    def _response_predictions(
        self, trainer: L.Trainer, task: RewardTask, part: str
    ) -> list[ResponsePrediction]:
        """Return all ranks' predictions, record by record; none on other ranks."""
        reads = _gather(self._scores, trainer) if task.spec.response_heads else None
        if reads is None:
            return []
        items = task.data.items(part)
        missing = torch.full((1, len(task.spec.response_names)), torch.nan)
        return [
            prediction
            for record, scores in reads
            for prediction in _record_predictions(
                cast(LabeledResponses, items[record]), scores, task
            )
        ] + [
            _prediction(record, missing.expand(len(record.responses), -1), task, reason)
            for unit, reason in task.data.dropped[part]
            if isinstance(unit, ResponseSet)
            for record in unit.records
        ]


def _steps_of(reads: StepReads, column: int) -> list[StepsOf]:
    probabilities = reads.logits[:, column].double().sigmoid()
    found = []
    for position, record in enumerate(reads.records):
        chosen = reads.chain == position
        steps, values = reads.step[chosen].tolist(), probabilities[chosen].tolist()
        found.append((record, dict(zip(steps, values, strict=True))))
    return found


def _scores_of(reads: ResponseReads) -> list[ScoresOf]:
    sizes = torch.bincount(reads.owner, minlength=len(reads.records)).tolist()
    chosen = reads.scores[: sum(sizes)].split(sizes)
    return list(zip(reads.records, chosen, strict=True))


def _step_prediction(item: LabeledChain, steps: dict[int, float], objective: str) -> StepPrediction:
    probabilities = tuple(steps.get(index) for index in range(len(item.chain.completions)))
    reason = f"{item.num_truncated} steps cut off at max_length" if item.num_truncated else ""
    return StepPrediction(item.chain, probabilities, reason, objective)


def _record_predictions(
    item: LabeledResponses, scores: Tensor, task: RewardTask
) -> list[ResponsePrediction]:
    """Return the predictions of all records of a set; a response that does not fit has none."""
    missing = torch.full((1, scores.shape[1]), torch.nan)
    table = torch.cat([scores, missing])
    rows = [len(scores) if branch is None else branch for branch in item.tokens.branches]
    reason, cut = "; ".join(item.tokens.reasons), item.tokens.truncated
    return [
        _prediction(
            record,
            table[[rows[place] for place in places]],
            task,
            reason,
            sum(cut[place] for place in places),
        )
        for record, places in zip(item.responses.records, item.responses.places, strict=True)
    ]


def _prediction(
    record: Outcome, scores: Tensor, task: RewardTask, reason: str, num_truncated: int = 0
) -> ResponsePrediction:
    lost = bool(scores.isnan().any())
    rewards = task.spec.rewards(scores)
    return ResponsePrediction(record, scores, rewards, reason if lost else "", num_truncated)


def _gather(found: list[Any], trainer: L.Trainer) -> list[Any] | None:
    """Return what all ranks read, in the order of the data; `None` on other ranks than 0."""
    gathered: list[Any] | None = [found]
    if trainer.world_size > 1:
        gathered = [None] * trainer.world_size if trainer.is_global_zero else None
        torch.distributed.gather_object(found, gathered)
    if gathered is None:
        return None
    return sorted((read for part in gathered for read in part), key=lambda read: read[0])


def _context(trainer: L.Trainer, task: RewardTask) -> dict[str, Any]:
    spec = task.spec.to_dict()
    return {
        "checkpoint": str(trainer.ckpt_path) if trainer.ckpt_path else None,
        "spec": {key: value for key, value in spec.items() if not key.startswith("golden")},
        "precision": str(trainer.precision),
    }
