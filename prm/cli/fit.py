"""`prm fit | validate | test | predict`: LightningCLI with a run folder and a few defaults."""

from __future__ import annotations

import importlib
import json
import logging
import os
import pkgutil
import sys
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from rich.console import Console

import prm.losses
from prm.atomic import write_text
from prm.cli.parsing import CommandParser
from prm.cli.refusals import (
    classes_in_one_line,
    lightning_in_one_line,
    refuse_options,
    refuse_strategy,
)
from prm.data.formats import all_formats
from prm.data.module import RecordDataModule
from prm.errors import ConfigError, OutputError
from prm.evaluation.callback import EvaluationReport
from prm.evaluation.report import Report
from prm.locks import alone_in
from prm.report import evaluation
from prm.training.callbacks import (
    BestCheckpoint,
    ExportModel,
    LastCheckpoint,
    SampleTable,
    Throughput,
)
from prm.training.checkpoints import snapshot
from prm.training.checkpoints.run_files import AtomicCheckpointIO, MetricsFile
from prm.training.strategies import ShardedStrategy, check_precision
from prm.training.task import RewardTask

CONFIG_FILE = "config.yaml"


class SaveRunConfig(SaveConfigCallback):
    """Writes the composed configuration of `fit` into the run folder and to the logger."""

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write `config.yaml`; evaluation runs leave the training's configuration alone."""
        if stage != "fit":
            return
        text = self.parser.dump(self.config, skip_none=False)
        write_text(Path(trainer.default_root_dir) / CONFIG_FILE, text)
        for logger in trainer.loggers:
            if not isinstance(logger, MetricsFile):
                options = self.parser.dump(self.config, skip_none=False, format="json")
                logger.log_hyperparams(json.loads(options))

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Do nothing yet: a run that cannot start leaves no configuration behind."""

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save on rank 0 only, once a step has shown that model and data fit."""
        if self.already_saved or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self.already_saved = True
        if trainer.is_global_zero:
            self.save_config(trainer, pl_module, "fit")


class RunParser(CommandParser, LightningArgumentParser):
    """LightningCLI's parser with one-line errors."""


class RunCLI(LightningCLI):
    """LightningCLI that knows about run folders.

    Everything a run writes lies in `--run_dir`: `config.yaml`, `metrics.csv`, `checkpoints/`,
    `samples/`, `model/` (the exported model) and the results of `prm test`.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of a run."""
        parser.add_argument(
            "--run_dir", type=str, default="runs/process", help="Folder that the run writes to."
        )
        parser.add_argument(
            "--overwrite",
            type=bool,
            default=False,
            help="Let fit write into a run folder that already holds a run.",
        )
        parser.add_argument(
            "--results",
            type=str,
            default="test",
            help="Name of the folder in run_dir that test and predict write to.",
        )
        parser.add_argument(
            "--monitor",
            type=str | None,
            default=None,
            help="Metric of the best checkpoint (higher is better), which is what is exported; "
            "val/step_auroc for process models, val/ranking for others if not given.",
        )
        parser.add_argument(
            "--checkpoint_every",
            type=int,
            default=500,
            help="Optimizer steps between resumable checkpoints (checkpoints/last.ckpt).",
        )

    def instantiate_classes(self) -> None:
        """Build everything; what a class refuses is reported as it says it."""
        with classes_in_one_line(self.config[self.subcommand]):
            super().instantiate_classes()
        self.datamodule.check_sources(self.model.spec)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and refuse what a run cannot do."""
        super().parse_arguments(parser, args)
        command = self.config["subcommand"]
        refuse_options(self.config[command], command)

    def before_instantiate_classes(self) -> None:
        """Look at the checkpoint before anything is built."""
        path = self.config[self.subcommand].get("ckpt_path")
        if path is None and self.subcommand != "fit":
            raise ConfigError(
                f"{self.subcommand} needs a trained model",
                fix="Give --ckpt_path RUN/checkpoints/best.ckpt",
            )
        self._num_steps = 0 if path is None else int(snapshot.head(path)["global_step"])

    def _parse_ckpt_path(self) -> None:
        """Leave the configuration alone: checkpoints of prm hold no hyperparameters."""

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Build the trainer around the run folder."""
        config = self.config_init[self.subcommand]
        run_dir = Path(config["run_dir"])
        _refuse_unwritable(run_dir)
        check_precision(config["trainer"]["precision"])
        kwargs["default_root_dir"] = str(run_dir)
        if config["trainer"]["logger"] in (None, True):
            fitting = self.subcommand == "fit"
            kwargs["logger"] = MetricsFile(run_dir, self._num_steps) if fitting else False
        kwargs["plugins"] = [*_as_list(config["trainer"]["plugins"]), AtomicCheckpointIO()]
        kwargs["callbacks"] = [*_as_list(config["trainer"]["callbacks"]), *self._callbacks(run_dir)]
        with lightning_in_one_line("the trainer cannot be built"):
            trainer: L.Trainer = super().instantiate_trainer(**kwargs)
        refuse_strategy(trainer)
        if isinstance(trainer.strategy, ShardedStrategy):
            trainer.strategy.checkpoint = config.get("ckpt_path")
        return trainer

    def _run_subcommand(self, subcommand: str) -> None:
        """Run, with the folder that is written to kept from other processes.

        Raises:
            ConfigError: The folder is in use, or holds a run already.
        """
        with self._alone():
            if subcommand == "fit":
                self._refuse_used_folder()
            with lightning_in_one_line(f"{subcommand} cannot go on"):
                super()._run_subcommand(subcommand)

    def _alone(self) -> AbstractContextManager[None]:
        """Keep others out of what this command writes: the run folder, or its folder of results."""
        config = self.config[self.subcommand]
        run_dir = Path(config["run_dir"])
        if not self.trainer.is_global_zero or self.subcommand == "validate":
            return nullcontext()
        if self.subcommand == "fit":
            return alone_in(run_dir, "Wait until it ends, or name another --run_dir")
        return alone_in(
            run_dir / config["results"], "Wait until it ends, or name another --results"
        )

    def _refuse_used_folder(self) -> None:
        config = self.config[self.subcommand]
        run_dir = Path(config["run_dir"])
        used = (run_dir / CONFIG_FILE).exists()
        if used and not config["overwrite"] and not config.get("ckpt_path"):
            raise ConfigError(
                "the run folder already holds a run",
                where=str(run_dir),
                fix="Name another --run_dir, continue with --ckpt_path "
                f"{run_dir / 'checkpoints' / 'last.ckpt'}, or give --overwrite true",
            )

    def _callbacks(self, run_dir: Path) -> list[Callback]:
        config = self.config_init[self.subcommand]
        if self.subcommand != "fit":
            folder = run_dir / config["results"]
            return [EvaluationReport(folder, _write_report, evaluation.write_predictions)]
        assert isinstance(self.model, RewardTask)
        checkpoints, monitor = run_dir / "checkpoints", config["monitor"]
        best = BestCheckpoint(checkpoints, monitor or self.model.monitored, monitor is not None)
        return [
            Throughput(),
            SampleTable(run_dir / "samples"),
            best,
            LastCheckpoint(checkpoints, config["checkpoint_every"]),
            ExportModel(run_dir / "model", best),
        ]


def _refuse_unwritable(run_dir: Path) -> None:
    folder = next(folder for folder in (run_dir, *run_dir.parents) if folder.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise OutputError("the run folder cannot be written", got=str(run_dir), where=str(folder))


def _as_list(values: Any) -> list[Any]:
    if values is None:
        return []
    return list(values) if isinstance(values, list) else [values]


def _write_report(report: Report, folder: Path) -> None:
    evaluation.write(report, folder)
    evaluation.draw(Console(), report)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the four subcommands.

    Args:
        argv: Words after `prm`, the subcommand first.
    """
    _quiet()
    all_formats()
    for module in pkgutil.iter_modules(prm.losses.__path__):  # configurations name their classes
        importlib.import_module(f"prm.losses.{module.name}")
    RunCLI(
        model_class=RewardTask,
        datamodule_class=RecordDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_callback=SaveRunConfig,
        save_config_kwargs={"overwrite": True},
        auto_configure_optimizers=False,
        seed_everything_default=0,
        parser_class=RunParser,
        parser_kwargs={"allow_abbrev": False, "prog": "prm"},
        args=list(sys.argv[1:] if argv is None else argv),
    )
    return 0


def _quiet() -> None:
    """Silence what Lightning tells everybody: tips, and advice that does not fit here."""
    for message in (
        "LightningCLI's args parameter",
        ".*does not have many workers",
        ".*exists and is not empty",
        ".*isinstance.treespec, LeafSpec",
        "Be aware that when using `ckpt_path`",
        "It is recommended to use `self.log",
        "Total length of .* across ranks is zero",
        "FSDP2-wrapped module .* returned a view tensor",
    ):
        warnings.filterwarnings("ignore", message=message)
    for name in (
        "lightning.pytorch.utilities.rank_zero",
        "lightning.pytorch.trainer.connectors.checkpoint_connector",
    ):
        logging.getLogger(name).addFilter(_says_something)


def _says_something(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return "Tip:" not in message and "`weights_only` was not set" not in message
