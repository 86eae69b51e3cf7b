"""Callbacks: export of the trained model, throughput, and samples to look at."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, Checkpoint, ModelCheckpoint

from prm.atomic import write_text
from prm.data.batches import OptimizerBatch
from prm.errors import ConfigError
from prm.models import checkpoint as model_folder
from prm.training import snapshot
from prm.training.card import model_card
from prm.training.distributed import gathered
from prm.training.process import ProcessRewardTask, ReadLogits

MONITORED = (
    "step_auroc",
    "error_ap",
    "first_error_accuracy",
    "error_acc",
    "correct_acc",
    "processbench_f1",
)
"""Validation metrics that a best checkpoint can be chosen by."""


class ExportModel(Callback):
    """Writes the model folder when training ends: the best checkpoint if one is monitored.

    Args:
        folder: Where to.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def on_train_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Export once, on rank 0."""
        assert isinstance(task, ProcessRewardTask)
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        weights = "last step"
        best = _best_checkpoint(trainer)
        state = gathered(task)
        if best is not None:
            state = snapshot.read(best)["state_dict"]
            weights = best.name
        if trainer.is_global_zero:
            model = task.rebuilt(state)
            card = model_card(model.spec, dict(trainer.callback_metrics), weights)
            model_folder.save(model, self.folder, card)
        trainer.strategy.barrier()


class BestCheckpoint(ModelCheckpoint):
    """Keeps `best.ckpt`, the checkpoint with the highest validation metric.

    Args:
        folder: Where to.
        monitor: Name of the metric, `val/METRIC` or `val/SOURCE/METRIC`; one of those of which
            more is better.

    Raises:
        ConfigError: It is none of them.
    """

    def __init__(self, folder: str | Path, monitor: str) -> None:
        if not monitor.startswith("val/") or monitor.rpartition("/")[2] not in MONITORED:
            known = ", ".join(f"val/{name}" for name in MONITORED)
            raise ConfigError("monitor is wrong", expected=f"one of {known}", got=monitor)
        super().__init__(
            dirpath=folder,
            filename="best",
            monitor=monitor,
            mode="max",
            enable_version_counter=False,
            auto_insert_metric_name=False,
            save_on_train_epoch_end=False,
        )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stand aside when there is nothing to validate on."""
        if not trainer.val_dataloaders:
            self.save_top_k = 0

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the best checkpoint so far, if it lies here (the folder may have moved)."""
        path = Path(str(self.dirpath)) / "best.ckpt"
        score = state_dict["best_model_score"]
        if score is None or not path.is_file():
            return
        here = {
            "dirpath": self.dirpath,
            "best_model_path": str(path),
            "kth_best_model_path": str(path),
            "best_k_models": {str(path): score},
        }
        super().load_state_dict(state_dict | here)


class LastCheckpoint(Checkpoint):
    """Keeps `last.ckpt`, to resume from: every so many steps, and at the end.

    A step that is followed by a validation is saved after it, so that a resumed run neither skips
    nor repeats the validation.

    Args:
        folder: Where to.
        every: Optimizer steps between checkpoints, at least 1.
    """

    def __init__(self, folder: str | Path, every: int) -> None:
        if every < 1:
            raise ConfigError("checkpoint_every is wrong", expected="at least 1", got=every)
        self.path = Path(folder) / "last.ckpt"
        self.every = every
        self._waits_for_validation = False

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        task: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Write the state after every so many steps."""
        if trainer.global_step % self.every == 0:
            self._waits_for_validation = _validates_now(trainer)
            if not self._waits_for_validation:
                self._save(trainer)

    def on_validation_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Write the state that waited for the validation."""
        if self._waits_for_validation:
            self._waits_for_validation = False
            self._save(trainer)

    def on_train_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Write the state after the last step, so that a longer run can continue."""
        self._save(trainer)

    def _save(self, trainer: L.Trainer) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.save_checkpoint(self.path)


class Throughput(Callback):
    """Logs tokens per second, and the share of time spent waiting for data."""

    def __init__(self) -> None:
        self._ended = self._started = 0.0

    def on_train_batch_start(
        self, trainer: L.Trainer, task: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note when the data arrived."""
        self._started = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        task: L.LightningModule,
        outputs: Any,
        batch: OptimizerBatch,
        batch_idx: int,
    ) -> None:
        """Log the step's figures; the first step, which warms up, is left out."""
        now = time.perf_counter()
        if self._ended:
            tokens = sum(micro_batch.trees.num_tokens for micro_batch in batch.micro_batches)
            whole = now - self._ended
            task.log(
                "train/tokens_per_second",
                tokens * trainer.world_size / whole,
                prog_bar=True,
                rank_zero_only=True,
            )
            task.log("train/data_wait", (self._started - self._ended) / whole, rank_zero_only=True)
        self._ended = now

    def on_validation_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Do not count validation as waiting."""
        self._ended = 0.0


class SampleTable(Callback):
    """Writes a few scored validation chains after every validation, and logs them to wandb.

    Args:
        folder: Where the Markdown tables go.
        num_chains: Chains in a table.
    """

    def __init__(self, folder: str | Path, num_chains: int = 4) -> None:
        self.folder = Path(folder)
        self.num_chains = num_chains
        self._rows: list[tuple[str, int, str, float, float | None]] = []

    def on_validation_epoch_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Start a new table."""
        self._rows = []

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        task: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take the chains with the lowest indices, the same ones every time."""
        assert isinstance(task, ProcessRewardTask)
        assert isinstance(outputs, ReadLogits)
        column = task.objective_names.index(task.spec.reward_objective)
        chains = trainer.datamodule.labeled("validation")  # type: ignore[attr-defined]
        for position, record in enumerate(outputs.records):
            if record >= self.num_chains:
                continue
            chain = chains[record].chain
            chosen = outputs.chain == position
            logits = outputs.logits[chosen, column].sigmoid().tolist()
            labels = chain.labels.get(task.spec.reward_objective)
            for step, probability in zip(outputs.step[chosen].tolist(), logits, strict=True):
                label = labels[step] if labels else None
                self._rows.append((chain.id, step, chain.completions[step], probability, label))

    def on_validation_epoch_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Write the table."""
        if not trainer.is_global_zero or trainer.sanity_checking or not self._rows:
            return
        rows = sorted(self._rows, key=lambda row: (row[0], row[1]))
        name = f"step-{trainer.global_step:07d}.md"
        write_text(self.folder / name, _markdown(rows))
        logger: Any = trainer.logger
        if hasattr(logger, "log_table"):
            columns = ["chain", "step", "text", "probability", "label"]
            logger.log_table("samples", columns=columns, data=[list(row) for row in rows])


def _validates_now(trainer: L.Trainer) -> bool:
    """Whether Lightning validates after the training batch that has just ended."""
    loop = trainer.fit_loop
    return bool(loop.epoch_loop._should_check_val_fx(loop._data_fetcher))  # type: ignore[arg-type]


def _best_checkpoint(trainer: L.Trainer) -> Path | None:
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor and callback.best_model_path:
            path = Path(callback.best_model_path)
            return path if path.is_file() else None
    return None


def _markdown(rows: list[tuple[str, int, str, float, float | None]]) -> str:
    lines = ["| chain | step | text | probability | label |", "|---|---|---|---|---|"]
    for chain, step, text, probability, label in rows:
        shown = text.replace("|", "\\|").replace("\n", " ")
        mark = "" if label is None else f"{label:g}"
        lines.append(f"| {chain} | {step} | {shown} | {probability:.3f} | {mark} |")
    return "\n".join(lines) + "\n"
