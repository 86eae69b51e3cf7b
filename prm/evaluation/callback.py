"""The callback that turns test and prediction batches into reports and files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from prm.data.items import LabeledChain, LabeledResponses
from prm.evaluation import outcome, process
from prm.evaluation.outcome import OutcomeReport
from prm.evaluation.process import ProcessReport
from prm.evaluation.steps import StepPrediction
from prm.evaluation.study import ResponsePrediction
from prm.records import Chain, Comparison, Rating
from prm.training.objectives import in_label_units
from prm.training.reads import Reads, ResponseReads, StepReads
from prm.training.task import RewardTask
from prm.trees.units import ResponseSet

StepsOf = tuple[int, dict[int, float]]
"""Index of a chain, and the probability of each step that was read."""

ScoresOf = tuple[int, Tensor]
"""Index of a response set, and its scores `[branch, objective]`."""


@dataclass(frozen=True, slots=True)
class Writers:
    """What is called with results and a folder, on rank 0."""

    process_report: Callable[[ProcessReport, Path], None]
    process_predictions: Callable[[Sequence[StepPrediction], Path], None]
    outcome_report: Callable[[OutcomeReport, Path], None]
    outcome_predictions: Callable[[Sequence[ResponsePrediction], Sequence[str], Path], None]


class EvaluationReport(Callback):
    """Collects everything that was read once, over all ranks, and hands it on at the end.

    `prm test` measures it beside the baselines, fitted on the training records if there are any;
    `prm predict` writes it as it is. A joint model's results lie in `process` and `outcome` below
    the folder.

    Args:
        folder: Where results are written.
        writers: What writes them.
    """

    def __init__(self, folder: str | Path, writers: Writers) -> None:
        self.folder = Path(folder)
        self.writers = writers
        self._steps: list[StepsOf] = []
        self._scores: list[ScoresOf] = []

    def on_test_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Forget earlier reads."""
        self._steps, self._scores = [], []

    def on_predict_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Forget earlier reads."""
        self._steps, self._scores = [], []

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
        assert isinstance(task, RewardTask)
        records = task.data.training_records() if task.data.sources["train"] else None
        context = _context(trainer, task)
        steps = self._step_predictions(trainer, task, "test")
        if steps:
            chains = None
            if records is not None:
                chains = [record for record in records if isinstance(record, Chain)]
            report = process.evaluate(steps, train_chains=chains, context=context)
            self.writers.process_report(report, self._folder(task, "process"))
        outcomes = self._outcome_predictions(trainer, task, "test")
        if outcomes:
            training = None
            if records is not None:
                training = [record for record in records if not isinstance(record, Chain)]
            outcome_report = outcome.evaluate(
                outcomes,
                task.spec,
                training,
                in_label_units=in_label_units(task),
                context=context,
            )
            folder = self._folder(task, "outcome")
            self.writers.outcome_report(outcome_report, folder)
            self.writers.outcome_predictions(outcomes, task.spec.response_names, folder)

    def on_predict_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Write."""
        assert isinstance(task, RewardTask)
        steps = self._step_predictions(trainer, task, "predict")
        if steps:
            self.writers.process_predictions(steps, self._folder(task, "process"))
        outcomes = self._outcome_predictions(trainer, task, "predict")
        if outcomes:
            folder = self._folder(task, "outcome")
            self.writers.outcome_predictions(outcomes, task.spec.response_names, folder)

    def _folder(self, task: RewardTask, kind: str) -> Path:
        return self.folder / kind if task.spec.kind == "joint" else self.folder

    def _collect(self, task: L.LightningModule, reads: Reads) -> None:
        assert isinstance(task, RewardTask)
        if reads.steps is not None:
            column = task.spec.step_names.index(task.spec.chain_reward)
            self._steps.extend(_steps_of(reads.steps, column))
        if reads.responses is not None:
            self._scores.extend(_scores_of(reads.responses))

    def _step_predictions(
        self, trainer: L.Trainer, task: RewardTask, part: str
    ) -> list[StepPrediction]:
        """Return all ranks' predictions in the order of the data; none on other ranks."""
        if not task.spec.step_heads:
            return []
        reads = _gather(self._steps, trainer)
        if reads is None:
            return []
        items = task.data.items(part)
        predictions = []
        for record, steps in sorted(reads, key=lambda item: item[0]):
            item = items[record]
            assert isinstance(item, LabeledChain)
            predictions.append(_step_prediction(item.chain, steps, item.num_truncated))
        return predictions + [
            StepPrediction(chain, (None,) * len(chain.completions), reason)
            for chain, reason in task.data.dropped[part]
            if isinstance(chain, Chain)
        ]

    def _outcome_predictions(
        self, trainer: L.Trainer, task: RewardTask, part: str
    ) -> list[ResponsePrediction]:
        """Return all ranks' predictions, record by record; none on other ranks."""
        if not task.spec.response_heads:
            return []
        scores = _gather(self._scores, trainer)
        if scores is None:
            return []
        items = task.data.items(part)
        predictions = []
        for record, values in sorted(scores, key=lambda pair: pair[0]):
            item = items[record]
            assert isinstance(item, LabeledResponses)
            predictions.extend(_record_predictions(item, values, task))
        missing = torch.full((1, len(task.spec.response_names)), torch.nan)
        return predictions + [
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


def _step_prediction(chain: Chain, steps: dict[int, float], num_truncated: int) -> StepPrediction:
    probabilities = tuple(steps.get(index) for index in range(len(chain.completions)))
    reason = f"{num_truncated} steps cut off at max_length" if num_truncated else ""
    return StepPrediction(chain, probabilities, reason)


def _record_predictions(
    item: LabeledResponses, scores: Tensor, task: RewardTask
) -> list[ResponsePrediction]:
    """Return the predictions of all records of a set; a response that does not fit has none."""
    missing = torch.full((1, scores.shape[1]), torch.nan)
    table = torch.cat([scores, missing])
    rows = [len(scores) if branch is None else branch for branch in item.tokens.branches]
    reason = "; ".join(item.tokens.reasons)
    return [
        _prediction(record, table[[rows[place] for place in places]], task, reason)
        for record, places in zip(item.responses.records, item.responses.places, strict=True)
    ]


def _prediction(
    record: Comparison | Rating, scores: Tensor, task: RewardTask, reason: str
) -> ResponsePrediction:
    lost = scores.isnan().any()
    return ResponsePrediction(
        record, scores, task.spec.rewards(scores), reason if bool(lost) else ""
    )


def _gather(found: list[Any], trainer: L.Trainer) -> list[Any] | None:
    if trainer.world_size == 1:
        return found
    gathered: list[Any] | None = [None] * trainer.world_size if trainer.is_global_zero else None
    torch.distributed.gather_object(found, gathered)
    return None if gathered is None else [item for part in gathered for item in part]


def _context(trainer: L.Trainer, task: RewardTask) -> dict[str, Any]:
    spec = task.spec.to_dict()
    return {
        "checkpoint": str(trainer.ckpt_path) if trainer.ckpt_path else None,
        "spec": {key: value for key, value in spec.items() if not key.startswith("golden")},
        "precision": str(trainer.precision),
    }
