"""Parameter groups and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from inspect import Parameter, signature
from typing import Any, Literal

from torch import nn
from torch.optim import AdamW, Optimizer, SparseAdam
from torch.optim.lr_scheduler import LambdaLR

from prm.errors import ConfigError


@dataclass(frozen=True)
class Schedule:
    """Learning rate over a run: linear warmup, then a decay to `final` of the peak.

    Args:
        decay: Shape after the warmup.
        warmup: Optimizer steps of warmup; a number below 1 is a share of the run.
        final: Learning rate at the end, as a share of the peak.

    Example:
        >>> schedule = Schedule("linear", warmup=2, final=0.0)
        >>> [round(schedule.factor(step, 6), 2) for step in range(7)]
        [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    """

    decay: Literal["constant", "linear", "cosine"] = "cosine"
    warmup: float = 0.05
    final: float = 0.0

    def __post_init__(self) -> None:
        known = self.decay in ("constant", "linear", "cosine")
        if not known or not 0 <= self.warmup < math.inf or not 0 <= self.final <= 1:
            raise ConfigError(
                "schedule is wrong",
                expected="a known decay, warmup >= 0 and final in [0, 1]",
                got=self,
            )

    def factor(self, step: int, num_steps: int) -> float:
        """Return the factor of the peak learning rate at a 0-based optimizer step."""
        warmup = self.warmup_steps(num_steps)
        if step < warmup:
            return (step + 1) / (math.floor(warmup) + 1 if warmup % 1 else warmup)
        if self.decay == "constant":
            return 1.0
        done = min(1.0, (step - warmup) / max(1.0, num_steps - warmup))
        left = 1 - done if self.decay == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.final + (1 - self.final) * left

    def warmup_steps(self, num_steps: int) -> float:
        """Return the optimizer steps of the warmup."""
        return self.warmup if self.warmup >= 1 else self.warmup * num_steps

    def without_end(self) -> Schedule:
        """Return the schedule of a run whose end is not known: the warmup, then the peak."""
        return replace(self, decay="constant")

    def scheduler(self, optimizer: Optimizer, num_steps: int) -> LambdaLR:
        """Return the torch scheduler for a run of `num_steps` optimizer steps."""
        return LambdaLR(optimizer, lambda step: self.factor(step, num_steps))


def make_optimizer(
    make: Callable[[list[dict[str, Any]]], Optimizer], groups: list[dict[str, Any]]
) -> Optimizer:
    """Return an optimizer of parameter groups, which bring their rates and their decay.

    Raises:
        ConfigError: It refuses its options or the groups, has a rate or a decay of its own, which
            would change nothing, or needs other gradients than a task has.
    """
    try:
        optimizer = make(groups)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ConfigError(
            "the optimizer cannot be made", got=str(error), fix="Check model.optimizer"
        ) from error
    kind = type(optimizer)
    if issubclass(kind, SparseAdam):
        raise ConfigError("SparseAdam takes no dense gradients", fix="Set another model.optimizer")
    for name in ("lr", "weight_decay"):
        value, untouched = optimizer.defaults.get(name), [_default(kind, name)]
        untouched.append(_default(AdamW, name))  # a configuration keeps those of its default class
        if value not in untouched and Parameter.empty not in untouched:
            raise ConfigError(
                f"{name} of the optimizer is not used",
                got=value,
                fix=f"Set model.{name}, and take it out of model.optimizer",
            )
    return optimizer


def _default(kind: type[Optimizer], name: str) -> Any:
    """Return the default of an option of an optimizer; `None` if it has no such option."""
    parameters = signature(kind).parameters
    return parameters[name].default if name in parameters else None


def parameter_groups(
    backbone: nn.Module,
    heads: Sequence[nn.Module],
    lr: float,
    head_lr_factor: float,
    weight_decay: float,
) -> list[dict[str, Any]]:
    """Return trainable parameters in groups: one per module, and no decay on vectors.

    Modules are apart because of those that are sharded: optimizers cannot step sharded and plain
    parameters of a group together.

    Args:
        backbone: Its matrices decay; biases, norms and other vectors do not.
        heads: Heads, and losses that learn; they get `lr * head_lr_factor`.
        lr: Peak learning rate of the backbone.
        head_lr_factor: Factor for the heads.
        weight_decay: Decay of matrices.

    Raises:
        ConfigError: Nothing is trainable.
    """
    groups = []
    for module, rate in ((backbone, lr), *((head, lr * head_lr_factor) for head in heads)):
        trainable = [p for p in module.parameters() if p.requires_grad]
        for decays in (True, False):
            chosen = [p for p in trainable if (p.ndim > 1) == decays]
            if chosen:
                groups.append(
                    {"params": chosen, "lr": rate, "weight_decay": weight_decay if decays else 0.0}
                )
    if not groups:
        raise ConfigError("nothing is trainable", fix="Do not freeze the backbone and the heads")
    return groups


def check_rates(
    lr: float, head_lr_factor: float, weight_decay: float, gradient_clip: float | None
) -> None:
    """Refuse rates that no run can be meant to have.

    Raises:
        ConfigError: One is below 0 or not finite, or `gradient_clip` is not above 0.
    """
    rates = {"lr": lr, "head_lr_factor": head_lr_factor, "weight_decay": weight_decay}
    for name, value in rates.items():
        if not 0 <= value < math.inf:
            raise ConfigError(f"{name} is wrong", expected="a number of at least 0", got=value)
    if gradient_clip is not None and not 0 < gradient_clip < math.inf:
        raise ConfigError(
            "gradient_clip is wrong", expected="a number above 0, or null", got=gradient_clip
        )
