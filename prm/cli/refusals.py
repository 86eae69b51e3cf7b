"""What a run cannot do, said in one line: before it is tried, or as Lightning says it."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy

from prm.cli.nulls import refuse_nulls
from prm.cli.parsing import refusal, shorten_error
from prm.errors import ConfigError, PrmError
from prm.training.strategies import ShardedStrategy, ZeroStrategy

_NEEDED = ("trainer", "run_dir", "overwrite", "results", "checkpoint_every")
"""Options of a run that have no null."""

_OTHER_WAYS = {
    "gradient_clip_val": "Set model.gradient_clip",
    "gradient_clip_algorithm": "Set model.gradient_clip, which limits the norm",
    "default_root_dir": "Set run_dir",
}
"""Options of Lightning that are null here, and what to set in their place."""

_LEAST: dict[str, float] = {
    "check_val_every_n_epoch": 1,
    "log_every_n_steps": 0,
    "min_epochs": 0,
    "min_steps": 0,
    "num_sanity_val_steps": -1,
}
"""Smallest value of options that Lightning does not check."""

_STAGES = {
    "fit": ("max_epochs", "max_steps", "limit_train_batches"),
    "validate": ("limit_val_batches",),
    "test": ("limit_test_batches",),
    "predict": ("limit_predict_batches",),
}
"""Options that leave a command nothing to do if they are 0."""

_CALLBACKS = {
    "BackboneFinetuning": "Set model.freeze_backbone, and train again from what was exported",
    "BatchSizeFinder": "Set data.max_tokens, which sets the memory and not the result",
    "GradientAccumulationScheduler": "Set data.batch_size for the update and data.max_tokens for "
    "the memory",
    "LearningRateFinder": "Set model.lr",
    "ModelPruning": "Take it out",
    "StochasticWeightAveraging": "Use EMAWeightAveraging or WeightAveraging",
    "Timer": "Set trainer.max_time",
}
"""Callbacks of Lightning that drive an optimization that is not the task's, or cannot be saved."""


def refuse_options(options: Namespace, command: str) -> None:
    """Refuse options that have no meaning here, before anything is built.

    Args:
        options: Those of the command, as they were parsed.
        command: Its name.

    Raises:
        ConfigError: One has none; it is named.
    """
    for name in _NEEDED:
        if options[name] is None:
            raise ConfigError(f"--{name} is null", fix="Give it a value, or take it out")
    seed = options["seed_everything"]
    if seed is not None and not 0 <= seed < 2**32:
        raise ConfigError("seed_everything is wrong", expected="a number from 0 to 2**32 - 1")
    trainer = options["trainer"]
    refuse_nulls(trainer, L.Trainer, "trainer.")
    refuse_nulls(options, object)
    _refuse_other_ways(trainer)
    _refuse_numbers(trainer, command)
    for name, option in _named(trainer["callbacks"], "trainer.callbacks"):
        if name in _CALLBACKS:
            problem = f"{name} cannot be used"
            raise ConfigError(problem, where=f"--{option}", fix=_CALLBACKS[name])


def _refuse_other_ways(trainer: Namespace) -> None:
    """Refuse options of Lightning that the task has its own for, or cannot do exactly."""
    for name, fix in _OTHER_WAYS.items():
        if trainer[name] is not None:
            raise ConfigError(f"trainer.{name} is not used", fix=fix)
    if trainer["accumulate_grad_batches"] != 1:
        raise ConfigError(
            "trainer.accumulate_grad_batches is not used",
            fix="Set data.batch_size for the update and data.max_tokens for the memory",
        )
    if trainer["overfit_batches"] != 0:
        raise ConfigError(
            "trainer.overfit_batches is not used: batches change from epoch to epoch",
            fix="Set limit of the sources in data.train",
        )
    if trainer["barebones"]:
        raise ConfigError(
            "trainer.barebones leaves out the checkpoints and metrics that a run is made of",
            fix="Take it out",
        )


def _refuse_numbers(trainer: Namespace, command: str) -> None:
    for name, least in _LEAST.items():
        value = trainer[name]
        if value is not None and value < least:
            raise ConfigError(f"trainer.{name} is wrong", expected=f"at least {least}", got=value)
    if trainer["val_check_interval"] == 0:
        raise ConfigError("trainer.val_check_interval is wrong", expected="above 0", got=0)
    for name in _STAGES[command]:
        if trainer[name] == 0:
            raise ConfigError(f"trainer.{name} is 0, which leaves nothing to do", fix="Raise it")


def refuse_strategy(trainer: L.Trainer) -> None:
    """Refuse strategies whose gradients, clipping or checkpoints the task does not know.

    Raises:
        ConfigError: It is none of those that are known.
    """
    known = (SingleDeviceStrategy, DDPStrategy, ShardedStrategy, ZeroStrategy)
    strategy = trainer.strategy
    is_stock = isinstance(strategy, DeepSpeedStrategy) and not isinstance(strategy, ZeroStrategy)
    if is_stock or not isinstance(strategy, known):
        raise ConfigError(
            "trainer.strategy is not supported",
            expected="auto, ddp, or prm.training.strategies.ShardedStrategy or ZeroStrategy",
            got=type(strategy).__name__,
            fix="Use one of configs/overlay/",
        )


@contextmanager
def classes_in_one_line(options: Namespace) -> Iterator[None]:
    """Say in one line why a class that options name cannot be made.

    Args:
        options: Those of the command.

    Raises:
        PrmError: A class cannot be made; the option that names it is named.
    """
    try:
        yield
    except (ValueError, TypeError, ImportError, MisconfigurationException) as error:
        ours = refusal(error)
        if isinstance(ours, PrmError):
            raise ours  # noqa: B904
        message = shorten_error(str(error))
        named = dict(_named(options))
        made = [name for name in _being_made(error) if name in named]
        if not made:
            raise ConfigError("the options cannot be used", got=message) from error
        where, message = f"--{named[made[-1]]}", message.removeprefix(f"{made[-1]}: ")
        raise ConfigError(f"{made[-1]} cannot be made", got=message, where=where) from error


@contextmanager
def lightning_in_one_line(what: str) -> Iterator[None]:
    """Say in one line what Lightning refuses; an error in anyone's code keeps its traceback.

    Args:
        what: What does not happen then.

    Raises:
        ConfigError: Lightning refused something.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, MisconfigurationException) and not _raised_by_lightning(error):
            raise
        raise ConfigError(what, got=str(error), fix="Check trainer.* in the options") from error


def _raised_by_lightning(error: Exception) -> bool:
    """Whether Lightning raised an error, with no code on the way but its own, torch's and ours."""
    modules = [
        frame.f_globals.get("__name__", "").partition(".")[0]
        for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    return (
        isinstance(error, ValueError | TypeError | RuntimeError | ImportError)
        and modules[-1] in _LIGHTNING
        and all(module in _LIGHTNING | _NOBODYS for module in modules)
    )


_LIGHTNING = {"lightning", "lightning_utilities"}
_NOBODYS = {"prm", "torch", *sys.stdlib_module_names} - {"__main__"}


def _named(options: Any, option: str = "") -> Iterator[tuple[str, str]]:
    """Yield the name of each class that options name, and the option that names it."""
    if isinstance(options, list):
        for index, member in enumerate(options):
            yield from _named(member, f"{option}[{index}]")
    if isinstance(options, Namespace):
        if isinstance(options.get("class_path"), str):
            yield options["class_path"].rpartition(".")[2], option
        for key, value in vars(options).items():
            same = key == "init_args"
            yield from _named(value, option if same else f"{option}.{key}".lstrip("."))


def _being_made(error: BaseException) -> Iterator[str]:
    """Yield the names of the classes in whose making an error arose, the innermost one last."""
    cause: BaseException | None = error
    while cause is not None:
        for frame, _ in traceback.walk_tb(cause.__traceback__):
            if frame.f_code.co_name == "__init__" and "self" in frame.f_locals:
                yield type(frame.f_locals["self"]).__name__
        cause = cause.__cause__ or cause.__context__
