"""`MeasuredModule`: validation, test and prediction of a reward model, whatever trains it."""

from __future__ import annotations

import lightning as L
import torch

from prm.data.batches import MicroBatch
from prm.data.module import RecordDataModule
from prm.errors import ConfigError
from prm.models.reward_model import ModelOutput, RewardModel
from prm.spec import RewardSpec
from prm.training.meters import RANKING, Meters
from prm.training.normalizers import fit_normalizers
from prm.training.objectives import ResponseObjective, in_label_units
from prm.training.reads import Reads, collect

SHOWN = ("step_auroc", "processbench_f1", RANKING)
"""Metrics on the progress bar."""


class MeasuredModule(L.LightningModule):
    """Runs a reward model on the data module's records, and measures it.

    A subclass sets `spec` and `responses`, and `model` when it is built.
    """

    spec: RewardSpec
    responses: list[ResponseObjective]

    def __init__(self) -> None:
        super().__init__()
        self.model: RewardModel | None = None
        self.meters: Meters | None = None

    @property
    def reward_model(self) -> RewardModel:
        """The model.

        Raises:
            ConfigError: It is not built yet.
        """
        if self.model is None:
            raise ConfigError(
                "the model is not built yet",
                fix="A backbone from scratch needs training data or a checkpoint (--ckpt_path)",
            )
        return self.model

    @property
    def _has_data(self) -> bool:
        return isinstance(getattr(self.trainer, "datamodule", None), RecordDataModule)

    @property
    def data(self) -> RecordDataModule:
        """The data module of the run.

        Raises:
            ConfigError: There is none.
        """
        if not self._has_data:
            raise ConfigError(f"{type(self).__name__} needs a data module")
        return self.trainer.datamodule  # type: ignore[attr-defined, no-any-return]

    def finish(self, model: RewardModel) -> None:
        """Fill in what a model's spec says of its present weights: the normalizers."""
        fit_normalizers(self.responses, model, self.data)

    def decided(self) -> list[str]:
        """Return the validation metrics that the labels decide, whatever a model says.

        They are measured with random numbers in place of the model's, which takes no forward pass.
        """
        items, model = self.data.items("validation"), self.reward_model
        meters = self._new_meters("validation")
        width = sum(head.num_columns for head in self.spec.heads)
        generator = torch.Generator().manual_seed(0)
        for batch in self.data.val_dataloader():
            num_reads = len(batch.labels.step_reads) + len(batch.labels.response_reads)
            columns = torch.randn(num_reads, width, generator=generator)
            meters.count(items, collect(batch, ModelOutput(columns, None), model, items))
        return [name for name, value in meters.values().items() if not value.isnan()]

    def validation_metrics(self) -> dict[str, float]:
        """Return the metrics of the last validation by name, `val/METRIC`; on rank 0."""
        found = self.trainer.callback_metrics.items()
        return {name: float(value) for name, value in found if name.startswith("val/")}

    def forward(self, batch: MicroBatch) -> ModelOutput:
        """Run the model on a micro-batch."""
        output: ModelOutput = self.reward_model(batch.trees)
        return output

    def validation_step(  # type: ignore[override]
        self, batch: MicroBatch, batch_idx: int
    ) -> Reads:
        """Score a micro-batch and count it in the validation metrics."""
        return self._evaluate(batch, "validation")

    def test_step(  # type: ignore[override]
        self, batch: MicroBatch, batch_idx: int
    ) -> Reads:
        """Score a micro-batch and count it in the test metrics."""
        return self._evaluate(batch, "test")

    def predict_step(self, batch: MicroBatch, batch_idx: int) -> Reads:
        """Score a micro-batch."""
        return collect(batch, self(batch), self.reward_model, self.data.items("predict"))

    def on_validation_epoch_start(self) -> None:
        """Finish the spec with the present weights, and start the validation metrics anew."""
        if not self.trainer.sanity_checking:
            self._finish()
        self._start_meters("validation")

    def on_test_epoch_start(self) -> None:
        """Start the test metrics anew."""
        self._finish_once()
        self._start_meters("test")

    def on_predict_epoch_start(self) -> None:
        """Finish the spec, if no validation did."""
        self._finish_once()

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics, per source and over all."""
        self._log_meters("val")

    def on_test_epoch_end(self) -> None:
        """Log the test metrics, per source and over all."""
        self._log_meters("test")

    def _finish(self) -> None:
        self.finish(self.reward_model)
        self.spec = self.reward_model.spec

    def _finish_once(self) -> None:
        """Finish the spec unless the checkpoint brought one that was."""
        if not self.spec.normalizers:
            self._finish()

    def _evaluate(self, batch: MicroBatch, part: str) -> Reads:
        items = self.data.items(part)
        reads = collect(batch, self(batch), self.reward_model, items)
        assert self.meters is not None
        self.meters.count(items, reads)
        return reads

    def _start_meters(self, part: str) -> None:
        self.meters = self._new_meters(part)

    def _new_meters(self, part: str) -> Meters:
        facts = self.data.facts(part)
        meters = Meters(
            self.spec,
            facts,
            in_label_units(self.responses),
            [unit for unit, _ in self.data.dropped[part]],
            is_counting=self.trainer.is_global_zero,
        )
        return meters.to(self.device)

    def _log_meters(self, prefix: str) -> None:
        assert self.meters is not None
        for name, value in self.meters.values().items():
            self.log(f"{prefix}/{name}", value, prog_bar=name in SHOWN, rank_zero_only=True)
        self.meters = None
