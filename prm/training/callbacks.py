"""Callbacks: export of the trained model, throughput, and samples to look at."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, Checkpoint, ModelCheckpoint

from prm.atomic import write_text
from prm.data.batches import OptimizerBatch
from prm.errors import ConfigError, ModelError
from prm.models import checkpoint as model_folder
from prm.models.card import model_card, scalar_card
from prm.models.export import SCALAR_FOLDER, export_scalar
from prm.models.fold import is_linear
from prm.models.reward_model import RewardModel
from prm.training.checkpoints import snapshot
from prm.training.meters import MONITORED
from prm.training.reads import Reads
from prm.training.samples import SampleRow, markdown, sample_rows
from prm.training.strategies import gathered
from prm.training.task import RewardTask

logger = logging.getLogger(__name__)


class ExportModel(Callback):
    """Writes the model folder when training ends.

    Where the reward is linear in the scores, a one-label export lies beside it in `scalar/`.

    Args:
        folder: Where to.
        best: What keeps the checkpoint that is exported, where it has one; checkpoints of other
            callbacks are never read. `None` for the weights of the last step.
    """

    def __init__(self, folder: str | Path, best: BestCheckpoint | None = None) -> None:
        self.folder = Path(folder)
        self.best = best

    def on_train_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Export once, on rank 0.

        Raises:
            ModelError: The best checkpoint is gone or damaged.
        """
        assert isinstance(task, RewardTask)
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        path = self.best.chosen if self.best is not None else ""
        state = {} if path else gathered(task)
        if trainer.is_global_zero:
            weights, metrics = "last step", task.validation_metrics()
            if self.best is not None and self.best.best_model_path and not path:
                logger.warning(
                    "No validation gave %s (it was not defined), so that no checkpoint is the "
                    "best: the weights of the last step are exported. Set --monitor to another.",
                    self.best.monitor,
                )
            if path:
                checkpoint = snapshot.read(path)
                state, metrics = checkpoint["state_dict"], checkpoint["prm"].get("metrics", {})
                weights = Path(path).name
            model = task.rebuilt(state)
            task.finish(model)
            _write(model, self.folder, metrics, weights)
        trainer.strategy.barrier()


class BestCheckpoint(ModelCheckpoint):
    """Keeps `best.ckpt`, the checkpoint with the highest validation metric.

    Args:
        folder: Where to.
        monitor: Name of the metric, `val/METRIC` with the objective or the source between; one of
            those of which more is better.
        is_needed: Refuse to train without a validation that gives the metric.

    Raises:
        ConfigError: It is none of them.
    """

    def __init__(self, folder: str | Path, monitor: str, is_needed: bool = False) -> None:
        if not _is_monitored(monitor):
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
        self.is_needed = is_needed

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stand aside when there is nothing to validate on.

        Raises:
            ConfigError: The validation data do not decide a metric that is monitored, here or by
                another callback; or another one would write over the run's checkpoints.
        """
        assert isinstance(pl_module, RewardTask)
        self._refuse_same_files(trainer.checkpoint_callbacks)
        decided = []
        if trainer.val_dataloaders:
            decided = [f"val/{name}" for name in pl_module.decided()]
        else:
            self.save_top_k = 0
        if trainer.val_dataloaders or self.is_needed:
            _refuse_undecided(str(self.monitor), decided)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if callback is not self and _names_our_metric(callback, trainer):
                _refuse_undecided(callback.monitor, decided, f"the {type(callback).__name__}")

    def _refuse_same_files(self, callbacks: Iterable[Checkpoint]) -> None:
        for other in callbacks:
            if other is self or not isinstance(other, ModelCheckpoint):
                continue
            names = {other.filename, other.CHECKPOINT_NAME_LAST if other.save_last else None}
            taken = sorted({"best", "last"}.intersection(names))
            if taken and Path(str(other.dirpath)).resolve() == Path(str(self.dirpath)).resolve():
                raise ConfigError(
                    f"a {type(other).__name__} would write over {taken[0]}.ckpt of the run",
                    where=str(self.dirpath),
                    fix="Give it a dirpath of its own; --monitor chooses what is exported",
                )

    @property
    def chosen(self) -> str:
        """Path of the best checkpoint; "" without one, or if no validation gave the metric."""
        is_known = self.best_model_score is not None and self.best_model_score.isfinite()
        return self.best_model_path if is_known else ""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the best checkpoint so far, if it lies here (the folder may have moved)."""
        path = Path(str(self.dirpath)) / "best.ckpt"
        score = state_dict["best_model_score"]
        if score is None or not path.exists():
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

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
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

    def on_train_batch_start(self, *_: Any) -> None:
        """Note when the data arrived."""
        self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, task: L.LightningModule, _: Any, batch: OptimizerBatch, *__: Any
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
    """Writes a few scored validation records after every validation, and logs them to wandb.

    Args:
        folder: Where the Markdown tables go.
        num_records: Chains or response sets in a table.
    """

    def __init__(self, folder: str | Path, num_records: int = 4) -> None:
        self.folder = Path(folder)
        self.num_records = num_records
        self._rows: list[SampleRow] = []

    def on_validation_epoch_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Start a new table."""
        self._rows = []

    def on_validation_batch_end(
        self, trainer: L.Trainer, task: L.LightningModule, outputs: Any, *_: Any
    ) -> None:
        """Take the records with the lowest indices, the same ones every time."""
        assert isinstance(task, RewardTask)
        assert isinstance(outputs, Reads)
        chosen = range(self.num_records)
        self._rows.extend(sample_rows(outputs, task.data.items("validation"), task.spec, chosen))

    def on_validation_epoch_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Write the table."""
        if not trainer.is_global_zero or trainer.sanity_checking or not self._rows:
            return
        rows = sorted(self._rows, key=lambda row: (row.id, row.part, row.objective))
        name = f"step-{trainer.global_step:07d}.md"
        write_text(self.folder / name, markdown(rows))
        logger: Any = trainer.logger
        if hasattr(logger, "log_table"):
            data = [list(row) for row in rows]
            logger.log_table("samples", columns=list(SampleRow._fields), data=data)


def _write(model: RewardModel, folder: Path, metrics: Mapping[str, Any], weights: str) -> None:
    stock = model_folder.is_stock(model)
    model_folder.save(model, folder, model_card(model.spec, metrics, weights, stock))
    if not (stock and is_linear(model.spec)):
        return
    try:
        export_scalar(model, folder / SCALAR_FOLDER, partial(scalar_card, model.spec))
    except ModelError as error:
        logger.warning("the model is written, its one-label export is not: %s", error)


def _is_monitored(metric: str) -> bool:
    return metric.startswith("val/") and metric.rpartition("/")[2] in MONITORED


def _refuse_undecided(monitor: str, decided: Sequence[str], where: str | None = None) -> None:
    if monitor not in decided:
        known = [name for name in decided if _is_monitored(name)]
        raise ConfigError(
            f"the validation data do not decide {monitor}"
            if decided
            else f"there is no validation that gives {monitor}",
            expected="one of " + ", ".join(known) if known else None,
            where=where,
            fix="Monitor another metric, or validate on data with labels of both kinds",
        )


def _names_our_metric(callback: Callback, trainer: L.Trainer) -> bool:
    """Whether a callback monitors what only a validation of ours can give."""
    monitor = getattr(callback, "monitor", None)
    packages = {type(one).__module__.partition(".")[0] for one in trainer.callbacks}  # type: ignore[attr-defined]
    if not monitor or not packages <= {"lightning", "prm"}:  # others may log anything
        return False
    return not monitor.startswith(("train/", "lr-"))


def _validates_now(trainer: L.Trainer) -> bool:
    """Whether Lightning validates after the training batch that has just ended."""
    loop = trainer.fit_loop
    return bool(loop.epoch_loop._should_check_val_fx(loop._data_fetcher))  # type: ignore[arg-type]
