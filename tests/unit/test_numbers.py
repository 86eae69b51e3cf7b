"""Every number that can be set for data, training and reward: what makes no sense is refused."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from functools import partial
from typing import Any, get_args, get_type_hints

import pytest

import prm.aggregation
import prm.losses
from prm.aggregation.gates import SafetyGate, Thresholded
from prm.aggregation.lagrange import LagrangeMultiplier, Lagrangian
from prm.aggregation.normalize import Quantile, ZScore
from prm.aggregation.objectives import GeometricMean, SoftMinimum, WeightedSum
from prm.aggregation.reference_points import AugmentedChebyshev, LogSigmoidSum
from prm.aggregation.steps import SoftMin
from prm.data.formats.hf_stepwise import HFStepwise
from prm.data.module import RecordDataModule
from prm.data.sampling import Sampling
from prm.data.sources.source import Source
from prm.data.synthetic.arithmetic import ArithmeticConfig
from prm.data.synthetic.replies import ReplyConfig
from prm.data.synthetic.reply_labels import LabelConfig
from prm.errors import PrmError
from prm.losses.cost import SignAwareCost
from prm.losses.language import LanguageModelLoss
from prm.losses.preference import BradleyTerry
from prm.losses.probit import GaussianPreference
from prm.losses.rating import BinaryCrossEntropy, CumulativeLink, MeanSquaredError, Pinball
from prm.losses.steps import BCE, MSE, CrossEntropy, QValueRanking
from prm.models.lora import LoRA
from prm.models.sources import FromScratch
from prm.spec import RewardSpec, Shaping
from prm.training.callbacks import LastCheckpoint
from prm.training.gate.train import GateOptions
from prm.training.objectives import ResponseObjective, StepObjective
from prm.training.optim import Schedule
from prm.training.sizing.estimate import Training
from prm.training.task import RewardTask

NOT_FINITE = (math.nan, math.inf, -math.inf)
FINITE: tuple[Any, ...] = NOT_FINITE
AT_LEAST_0 = (*NOT_FINITE, -1.0, -1e-9)
ABOVE_0 = (*AT_LEAST_0, 0.0)
SHARE = (*AT_LEAST_0, 1.001)
BELOW_1 = (*SHARE, 1.0)
"""What numbers must not be."""

COUNT: tuple[Any, ...] = (-1, 0)
COUNT_FROM_0: tuple[Any, ...] = (-1,)
ANY: tuple[Any, ...] = ()
"""What whole numbers must not be."""

TASK = partial(RewardTask, FromScratch({"model_type": "llama"}), steps=[StepObjective()])
SCRATCH = partial(FromScratch, {"model_type": "llama"})
SOURCE = partial(Source, "a.jsonl", HFStepwise(), name="a")

OPTIONS: dict[Callable[..., Any], dict[str, tuple[Any, ...]]] = {
    TASK: {
        "max_length": COUNT,
        "lr": AT_LEAST_0,
        "head_lr_factor": AT_LEAST_0,
        "weight_decay": AT_LEAST_0,
        "gradient_clip": ABOVE_0,
    },
    Schedule: {"warmup": AT_LEAST_0, "final": SHARE},
    StepObjective: {"loss_weight": AT_LEAST_0},
    partial(ResponseObjective, "a"): {"loss_weight": AT_LEAST_0},
    LanguageModelLoss: {"loss_weight": ABOVE_0},
    BCE: {"label_smoothing": BELOW_1, "error_weight": ABOVE_0},
    CrossEntropy: {"label_smoothing": BELOW_1, "error_weight": ABOVE_0},
    MSE: {"error_weight": ABOVE_0},
    QValueRanking: {"zeta": AT_LEAST_0},
    BradleyTerry: {"label_smoothing": BELOW_1, "center": AT_LEAST_0},
    SignAwareCost: {"label_smoothing": BELOW_1, "sign_weight": AT_LEAST_0},
    GaussianPreference: {"label_smoothing": BELOW_1},
    BinaryCrossEntropy: {"label_smoothing": BELOW_1, "positive_weight": ABOVE_0},
    CumulativeLink: {"num_levels": (*COUNT, 1)},
    partial(MeanSquaredError, low=0.0, high=1.0): {
        "low": (math.nan, math.inf, 1.0, 2.0),
        "high": (math.nan, -math.inf, 0.0, -1.0),
    },
    Pinball: {
        "levels": ((), (0.0, 0.5), (0.5, 1.0), (0.5, 0.5), (0.9, 0.1), (math.nan,), (0.1, math.inf))
    },
    LoRA: {"rank": COUNT, "alpha": ABOVE_0},
    LastCheckpoint: {"every": COUNT},
    GateOptions: {
        "held_out": (*BELOW_1, 0.0),
        "width": COUNT,
        "temperature": ABOVE_0,
        "lr": ABOVE_0,
        "weight_decay": AT_LEAST_0,
        "batch_size": COUNT,
        "max_epochs": COUNT,
        "patience": COUNT,
        "max_tokens": COUNT,
        "seed": COUNT_FROM_0,
    },
    Training: {"num_gpus": COUNT, "max_tokens": COUNT, "lora_rank": COUNT, "path_length": COUNT},
    RecordDataModule: {
        "batch_size": COUNT,
        "max_tokens": COUNT,
        "validation_share": BELOW_1,
        "test_share": BELOW_1,
        "seed": COUNT_FROM_0,
        "num_workers": COUNT_FROM_0,
    },
    Sampling: {"temperature": (math.nan, 0.0, -1.0), "epoch_size": COUNT},
    SOURCE: {"limit": COUNT, "weight": ABOVE_0, "sample_seed": ANY},
    ArithmeticConfig: {"error_rate": BELOW_1, "seed": ANY},
    ReplyConfig: {"num_responses": COUNT, "seed": ANY},
    LabelConfig: {"label_noise": SHARE, "num_votes": COUNT_FROM_0},
    SCRATCH: {"vocab_size": (*COUNT, 259), "digits_per_token": COUNT, "seed": ANY},
    RewardSpec: {"max_length": COUNT},
    Shaping: {
        "center": FINITE,
        "scale": ABOVE_0,
        "clip": ((1.0, 0.0), (1.0, 1.0), (math.nan, 1.0), (0.0, math.nan)),
    },
    SoftMin: {"beta": ABOVE_0},
    WeightedSum: {"weights": tuple({"a": value} for value in NOT_FINITE)},
    GeometricMean: {"floor": (*ABOVE_0, 1.5)},
    SoftMinimum: {"beta": ABOVE_0},
    AugmentedChebyshev: {"ideal": FINITE, "augmentation": AT_LEAST_0, "smoothing": AT_LEAST_0},
    LogSigmoidSum: {"reference": FINITE},
    partial(SafetyGate, helpfulness="a", safety="b"): {"threshold": SHARE},
    partial(Thresholded, thresholds={"a": 0.0}): {
        "thresholds": tuple({"a": value} for value in NOT_FINITE),
        "floor": FINITE,
    },
    partial(Lagrangian, "a"): {"multiplier": AT_LEAST_0},
    partial(LagrangeMultiplier, Lagrangian("a"), limit=0.0): {
        "limit": FINITE,
        "learning_rate": ABOVE_0,
        "maximum": AT_LEAST_0,
        "delay": COUNT_FROM_0,
    },
    partial(ZScore, mean=0.0, std=1.0): {
        "mean": FINITE,
        "std": AT_LEAST_0,
        "floor": ABOVE_0,
        "num": ANY,
    },
    partial(Quantile, ((0.0, -1.0), (1.0, 1.0))): {"num": ANY},
}

CASES = [
    (make, name, value)
    for make, options in OPTIONS.items()
    for name, values in options.items()
    for value in values
]


def made(make: Callable[..., Any]) -> type:
    return make.func if isinstance(make, partial) else make  # type: ignore[return-value]


def shown(value: Any) -> str:
    return made(value).__name__ if callable(value) else str(value)


@pytest.mark.parametrize(("make", "name", "value"), CASES, ids=shown)
def test_a_number_that_makes_no_sense_is_refused(
    make: Callable[..., Any], name: str, value: Any
) -> None:
    needed = {LastCheckpoint: {"folder": "x"}}.get(made(make), {})
    with pytest.raises(PrmError) as caught:
        make(**{**needed, name: value})
    assert name in str(caught.value)


def settable() -> Iterator[type]:
    """Yield the classes of all losses and aggregations, and those above."""
    for package in (prm.losses, prm.aggregation):
        for module in pkgutil.iter_modules(package.__path__):
            loaded = importlib.import_module(f"{package.__name__}.{module.name}")
            yield from (
                cls
                for name, cls in inspect.getmembers(loaded, inspect.isclass)
                if cls.__module__ == loaded.__name__ and not name.startswith("_")
            )
    yield from map(made, OPTIONS)


def numbers_of(cls: type) -> set[str]:
    """Return the options of a class that are numbers."""
    hints = get_type_hints(cls if is_dataclass(cls) else cls.__init__)
    return {
        name
        for name in inspect.signature(cls).parameters
        if name in hints
        and any(kind in (int, float) for kind in (hints[name], *get_args(hints[name])))
    }


ABSTRACT = {"StepLoss", "PairLabels", "Sequence"}
"""Bases, and what is made of data."""


def test_no_number_is_left_out() -> None:
    known = {made(make): options.keys() for make, options in OPTIONS.items()}
    missing = {
        cls.__name__: sorted(numbers_of(cls) - known.get(cls, set()))
        for cls in settable()
        if cls.__name__ not in ABSTRACT and not inspect.isabstract(cls)
    }
    assert not {name: numbers for name, numbers in missing.items() if numbers}
