"""What Lightning or a class refuses is one line; broken code keeps its traceback."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback

from prm.cli.fit import RunCLI
from prm.cli.main import main
from tests.refusals import Case, refuse
from tests.runs import checkpoint, fit, metrics, write_config, write_data

FIT = "fit --config base.yaml"
NULL = "is null. Give it a value, or take it out"


def one(package: str, name: str, **options: Any) -> dict[str, Any]:
    return {"class_path": f"lightning.pytorch.{package}.{name}", "init_args": options}


def callback(name: str, **options: Any) -> dict[str, Any]:
    return {"callbacks": [one("callbacks", name, **options)]}


def logger(name: str, **options: Any) -> dict[str, Any]:
    return {"logger": one("loggers", name, **options)}


TRAINER: dict[str, tuple[dict[str, Any], str]] = {
    "fewer epochs than none": ({"max_epochs": -2}, "`max_epochs` must be a non-negative integer"),
    "no epochs": ({"max_epochs": 0}, "trainer.max_epochs is 0"),
    "no steps": ({"max_steps": 0}, "trainer.max_steps is 0"),
    "a negative minimum": ({"min_epochs": -1}, "trainer.min_epochs is wrong"),
    "a time that is none": ({"max_time": "tomorrow"}, "`Timer(duration='tomorrow')`"),
    "validation after more than an epoch": ({"val_check_interval": 100}, "`val_check_interval`"),
    "validation after nothing": ({"val_check_interval": 0}, "val_check_interval is wrong"),
    "validation after a part above 1": ({"val_check_interval": 1.5}, "val_check_interval"),
    "validation every 0 epochs": ({"check_val_every_n_epoch": 0}, "check_val_every_n_epoch"),
    "no training batches": ({"limit_train_batches": 0}, "trainer.limit_train_batches is 0"),
    "too small a share": ({"limit_train_batches": 0.01}, "`limit_train_batches`"),
    "too small a share of validation": ({"limit_val_batches": 0.01}, "`limit_val_batches`"),
    "overfitting": ({"overfit_batches": 1}, "trainer.overfit_batches is not used"),
    "a negative dry run": ({"fast_dev_run": -1}, "fast_dev_run=-1"),
    "a clipping that is none": ({"gradient_clip_algorithm": "nrom"}, "gradient_clip_algorithm"),
    "another way to clip": ({"gradient_clip_algorithm": "value"}, "model.gradient_clip"),
    "logging every -1 steps": ({"log_every_n_steps": -1}, "trainer.log_every_n_steps is wrong"),
    "a negative check": ({"num_sanity_val_steps": -5}, "trainer.num_sanity_val_steps is wrong"),
    "another folder": ({"default_root_dir": "x"}, "trainer.default_root_dir is not used"),
    "no checkpoints": ({"enable_checkpointing": False}, "`enable_checkpointing=False`"),
    "nothing but speed": ({"barebones": True}, "trainer.barebones leaves out"),
    "a precision that is none": ({"precision": "half"}, "--trainer.precision: expected"),
    "an accelerator that is none": ({"accelerator": "cuda9"}, "`accelerator='cuda9'`"),
    "no devices": ({"devices": 0}, "`Trainer(devices=0)`"),
    "devices that are none": ({"devices": "many"}, "`devices` selected with `CPUAccelerator`"),
    "no machine": ({"num_nodes": 0}, "`num_nodes` must be a positive integer"),
    "a strategy that is none": ({"strategy": "dpp"}, "`strategy='dpp'`"),
    "a strategy for GPUs": ({"strategy": "fsdp"}, "The strategy `fsdp` requires a GPU"),
    "a profiler that is none": ({"profiler": "fast"}, "`profiler`"),
    "a plugin that is none": ({"plugins": ["nope"]}, "--trainer.plugins: there is no class nope"),
    "a second writer of checkpoints": (
        {"plugins": [one("plugins.io", "TorchCheckpointIO")]},
        "multiple values for CheckpointIO",
    ),
    "a logger that is not installed": (logger("CometLogger"), "--trainer.logger: CometLogger"),
    "a logger that is none": (
        logger("TensorboardLoger"),
        "--trainer.logger: TensorboardLoger: there is no class",
    ),
    "a callback that is none": (callback("EarlyStoping"), "there is no class"),
    "a callback without what it needs": (callback("EarlyStopping"), "are required: monitor"),
    "a callback that refuses an option": (
        callback("EarlyStopping", monitor="val/step_auroc", mode="most"),
        "--trainer.callbacks[0]: EarlyStopping cannot be made: got `mode` can be min, max, got",
    ),
    "an accumulation schedule": (
        callback("GradientAccumulationScheduler", scheduling={0: 4}),
        "--trainer.callbacks[0]: GradientAccumulationScheduler cannot be used. Set data.batch_size",
    ),
    "averages of automatic optimization": (
        callback("StochasticWeightAveraging", swa_lrs=0.1),
        "cannot be used. Use EMAWeightAveraging",
    ),
    "a timer": (callback("Timer", duration="00:00:01:00"), "Set trainer.max_time"),
    "a search for the learning rate": (callback("LearningRateFinder"), "Set model.lr"),
    "a search for the batch size": (callback("BatchSizeFinder"), "Set data.max_tokens"),
    "a monitor without a logger": (
        callback("LearningRateMonitor") | {"logger": False},
        "Cannot use `LearningRateMonitor` callback with `Trainer` that has no logger",
    ),
    "stopping by a metric that is none": (
        callback("EarlyStopping", monitor="val_loss"),
        "the EarlyStopping: the validation data do not decide val_loss: expected one of val/",
    ),
    "a checkpoint of a metric that is none": (
        callback("ModelCheckpoint", dirpath="mine", monitor="val/ranking"),
        "the ModelCheckpoint: the validation data do not decide val/ranking",
    ),
    "stopping by a validation that is not run": (
        callback("EarlyStopping", monitor="val/step_auroc") | {"limit_val_batches": 0},
        "the EarlyStopping: there is no validation that gives val/step_auroc",
    ),
    "two checkpoints that are one": (
        {"callbacks": 2 * callback("ModelCheckpoint", dirpath="mine")["callbacks"]},
        "more than one stateful callback of type `ModelCheckpoint`",
    ),
}

OPTIMIZERS: dict[str, tuple[dict[str, Any], str]] = {
    "AdamX": ({}, "--optimizer: there is no class torch.optim.AdamX. Did you mean AdamW?"),
    "LBFGS": ({}, "the optimizer cannot be made: got LBFGS"),
    "SparseAdam": ({}, "SparseAdam takes no dense gradients"),
    "AdamW": ({"betas": [1.5, 2]}, "the optimizer cannot be made: got Invalid beta"),
    "Adam": ({"momentum": 1}, "--optimizer: Option 'momentum' is not accepted"),
    "SGD": ({"lr": 0.5}, "lr of the optimizer is not used: got 0.5. Set model.lr"),
    "Adamax": ({"weight_decay": 0.5}, "weight_decay of the optimizer is not used: got 0.5"),
}

NULLS: dict[str, Mapping[str, Any]] = {
    "--data.sampling": {"data": {"sampling": None}},
    "--data.sampling.temperature": {"data": {"sampling": {"temperature": None}}},
    "--data.batch_size": {"data": {"batch_size": None}},
    "--model.template": {"model": {"template": None}},
    "--model.step_format": {"model": {"step_format": None}},
    "--model.response_format.end": {"model": {"response_format": {"end": None}}},
    "--model.schedule": {"model": {"schedule": None}},
    "--model.shaping": {"model": {"shaping": None}},
    "--model.optimizer": {"model": {"optimizer": None}},
    "--model.steps[0].loss_weight": {"model": {"steps": [{"loss_weight": None}]}},
    "--model.lr": {"model": {"lr": None}},
    "--trainer.accelerator": {"trainer": {"accelerator": None}},
    "--trainer.devices": {"trainer": {"devices": None}},
    "--trainer.strategy": {"trainer": {"strategy": None}},
    "--run_dir": {"run_dir": None},
    "--overwrite": {"overwrite": None},
    "--checkpoint_every": {"checkpoint_every": None},
}

CASES = {
    **{name: ({"trainer": changes}, says) for name, (changes, says) in TRAINER.items()},
    **{
        f"{name} {options}": (
            {"model": {"optimizer": {"class_path": f"torch.optim.{name}", "init_args": options}}},
            says,
        )
        for name, (options, says) in OPTIMIZERS.items()
    },
    **{f"{name} null": (changes, f"{name} {NULL}") for name, changes in NULLS.items()},
    "a seed below 0": ({"seed_everything": -1}, "seed_everything is wrong"),
    "a metric that no validation gives": (
        {"monitor": "val/step_auroc", "data": {"validation": None, "validation_share": 0.0}},
        "there is no validation that gives val/step_auroc",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_one_line_before_anything_is_written(
    name: str, run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, says = CASES[name]
    write_data(run_dir, 12, 5)
    write_config(run_dir, **changes)
    refuse(Case(name, FIT, (says,)), run_dir, monkeypatch, capsys)


def test_a_trainer_that_is_null(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(run_dir)
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | {"trainer": None}))
    refuse(Case("", FIT, (f"--trainer {NULL}",)), run_dir, monkeypatch, capsys)


def test_a_logger_whose_package_is_missing_names_it(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        import tensorboard  # type: ignore[import-not-found]  # noqa: F401
    except ImportError:
        write_data(run_dir, 12, 5)
        write_config(run_dir, trainer=logger("TensorBoardLogger", save_dir="tb"))
        says = ("--trainer.logger: TensorBoardLogger cannot be made: got Neither `tensorboard`",)
        refuse(Case("", FIT, says), run_dir, monkeypatch, capsys)


@pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback:UserWarning")
@pytest.mark.parametrize(
    "trainer",
    [
        {"detect_anomaly": True, "log_every_n_steps": 0, "limit_val_batches": 0},
        {
            "num_sanity_val_steps": -1,
            "limit_train_batches": 0.5,
            "reload_dataloaders_every_n_epochs": 1,
        },
        {
            "max_steps": 2,
            "max_epochs": None,
            "check_val_every_n_epoch": None,
            "val_check_interval": 2,
        },
        callback("EarlyStopping", monitor="val/step_auroc", mode="max"),
        callback("EarlyStopping", monitor="train/loss", check_on_train_epoch_end=True),
        callback("EMAWeightAveraging", decay=0.5),
    ],
)
def test_what_lightning_can_do_is_done(run_dir: Path, trainer: dict[str, Any]) -> None:
    write_data(run_dir, 12, 5)
    run = fit(run_dir, trainer=trainer)
    assert (run / "model" / "prm_config.json").exists()


def test_a_run_without_an_end_has_a_constant_rate_and_ends_in_time(
    run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_data(run_dir, 40)
    schedule = {"decay": "cosine", "warmup": 0.4}
    trainer = {"max_epochs": -1, "max_time": "00:00:00:02"}
    run = fit(run_dir, model={"schedule": schedule}, trainer=trainer)
    assert "the learning rate stays at its peak after 2 steps of warmup" in caplog.text
    rates = metrics(run, "train/lr")
    assert rates[0] == pytest.approx(0.005)
    assert rates[1:] == pytest.approx([0.01] * (len(rates) - 1))
    assert len(rates) == checkpoint(run)["global_step"]
    assert (run / "model" / "prm_config.json").exists()


class Broken(Callback):
    """Fails after the first step, in its own code or in what it asks of Lightning."""

    def __init__(self, fail: Callable[[L.LightningModule], object]) -> None:
        self.fail = fail

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object
    ) -> None:
        self.fail(pl_module)


def divide_by_no_steps(task: L.LightningModule) -> object:
    raise ValueError("a bug of the user's")


def log_a_word(task: L.LightningModule) -> object:
    task.log("word", "text")  # type: ignore[arg-type]


def misconfigured(task: L.LightningModule) -> object:
    raise MisconfigurationException("a refusal of the user's own")


@pytest.mark.parametrize("fail", [divide_by_no_steps, log_a_word])
def test_an_error_in_a_user_s_code_keeps_its_traceback(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, fail: Callable[[L.LightningModule], object]
) -> None:
    write_data(run_dir, 12, 5)
    ours = RunCLI._callbacks
    monkeypatch.setattr(RunCLI, "_callbacks", lambda *args: [*ours(*args), Broken(fail)])
    with pytest.raises(ValueError, match=r"a bug of the user's|`self.log\(word, text\)`"):
        main(["fit", "--config", str(write_config(run_dir))])


def test_a_refusal_while_training_is_one_line(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data(run_dir, 12, 5)
    ours = RunCLI._callbacks
    monkeypatch.setattr(RunCLI, "_callbacks", lambda *args: [*ours(*args), Broken(misconfigured)])
    assert main(["fit", "--config", str(write_config(run_dir))]) == 2
    assert "fit cannot go on: got a refusal of the user's own" in capsys.readouterr().err
