"""What every objective aggregation shares: names, missing objectives, JSON and overrides.

An objective aggregation turns the *utilities* of one answer into one reward. A utility is
`direction * normalizer(score)`: higher is better, on a log-odds-like scale, so its probability is
`sigmoid(utility)`. Columns are always named: the caller says which objective each one is, and
every aggregation looks its parameters up by name.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self, get_args

import torch
from torch import Tensor

from prm.aggregation.named import Named
from prm.errors import ConfigError, DataError

Missing = Literal["renormalize", "nan", "error"]


class ObjectiveAggregation(Named):
    """Base of the objective aggregations; subclasses say how in `reduce`.

    Args:
        missing: What a row gets where an objective that the aggregation reads is NaN: `nan` gives
            NaN, `error` refuses, `renormalize` aggregates over the objectives that are present
            (each class says how). A row without any objective is NaN, never 0.

    Attributes:
        needs_gates: Whether a call must bring the gates of a prompt-conditioned model.
    """

    needs_gates: ClassVar[bool] = False

    def __init__(self, *, missing: Missing = "nan") -> None:
        if missing not in get_args(Missing):
            expected = " | ".join(get_args(Missing))
            raise ConfigError("the policy for missing objectives", expected=expected, got=missing)
        self.missing = missing

    @property
    def monotone(self) -> bool:
        """Whether raising a utility never lowers the reward."""
        return True

    def __call__(
        self, utilities: Tensor, objectives: Sequence[str], gates: Tensor | None = None
    ) -> Tensor:
        """Aggregate over the last axis; every row on its own.

        Args:
            utilities: Shape `[..., objective]`; NaN marks a missing objective.
            objectives: The name of each column.
            gates: Weights of the objectives for each row, `[..., objective]`; `Gated` alone reads
                them.

        Returns:
            Rewards of shape `[...]`, float32 or wider.

        Raises:
            ConfigError: Names and columns do not match, or as `check`.
            DataError: An objective is missing and the policy is `error`.
        """
        self.check(objectives)
        _check_width(utilities, objectives)
        values = utilities if utilities.dtype == torch.float64 else utilities.float()
        absent = values.isnan()
        unread = ~_mask(self.reads(objectives), objectives, values)
        required = self.requires(objectives) if self.missing == "renormalize" else objectives
        unknown = (absent & ~unread & _mask(required, objectives, values)).any(dim=-1)
        if self.missing == "error" and unknown.any():
            raise _missing_error(absent & ~unread, objectives)
        present = ~(absent | unread)
        result = self.reduce_gated(values.masked_fill(~present, 0.0), present, objectives, gates)
        return result.masked_fill(unknown | ~present.any(dim=-1), math.nan)

    def reduce(self, values: Tensor, present: Tensor, objectives: Sequence[str]) -> Tensor:
        """Aggregate finite `values` `[..., objective]` over the objectives that are `present`."""
        raise NotImplementedError

    def reduce_gated(
        self, values: Tensor, present: Tensor, objectives: Sequence[str], gates: Tensor | None
    ) -> Tensor:
        """Aggregate as `reduce`; only an aggregation that `needs_gates` looks at them."""
        return self.reduce(values, present, objectives)

    def check(self, objectives: Sequence[str]) -> None:
        """Refuse objectives that the parameters do not fit.

        Raises:
            ConfigError: There is none, one comes twice, or the parameters name others.
        """
        if not objectives or len(set(objectives)) < len(objectives):
            raise ConfigError(
                f"objectives of {self.name}", expected="different names", got=list(objectives)
            )

    def reads(self, objectives: Sequence[str]) -> Collection[str]:
        """Return the objectives that the reward depends on."""
        return objectives

    def requires(self, objectives: Sequence[str]) -> Collection[str]:
        """Return the objectives that even `renormalize` cannot do without."""
        return ()

    def linear_weights(self, objectives: Sequence[str]) -> dict[str, float] | None:
        """Return the weights if the reward is `sum_k w_k u_k` with fixed weights, else None."""
        return None

    def named_parameters(self, objectives: Sequence[str]) -> dict[str, Any]:
        """Return the parameters with every default that holds for all objectives spelled out."""
        return self.parameters()

    def with_overrides(
        self, overrides: Mapping[str, Any], objectives: Sequence[str] | None = None
    ) -> Self:
        """Return a copy with some parameters changed.

        Args:
            overrides: New values by parameter, or by `parameter.objective`. A mapping changes the
                entries that it names and leaves the others.
            objectives: Names of the model's objectives. Where they are given, one entry of a
                parameter that is the same for all (weights left out) can be changed too, and the
                result is checked.

        Raises:
            ConfigError: There is no such parameter, its value is not allowed, or as `check`.

        Example:
            >>> from prm.aggregation.objectives import WeightedSum
            >>> WeightedSum({"safety": 1, "style": 1}).with_overrides({"weights.safety": 2})
            WeightedSum(weights={'safety': 2.0, 'style': 1.0}, missing='nan')
        """
        parameters = self.parameters() if objectives is None else self.named_parameters(objectives)
        for key, value in overrides.items():
            _override(parameters, key, value, self.name)
        changed = type(self)(**parameters)
        if objectives is not None:
            changed.check(objectives)
        return changed


def _check_width(utilities: Tensor, objectives: Sequence[str]) -> None:
    if utilities.ndim == 0 or utilities.shape[-1] != len(objectives):
        raise ConfigError(
            "the last axis of the utilities is not the objectives",
            expected=f"{len(objectives)} columns: {', '.join(objectives)}",
            got=tuple(utilities.shape),
        )


def _mask(names: Collection[str], objectives: Sequence[str], like: Tensor) -> Tensor:
    return like.new_tensor([name in names for name in objectives]).bool()


def _missing_error(missing: Tensor, objectives: Sequence[str]) -> DataError:
    counts = missing.reshape(-1, len(objectives)).sum(dim=0).tolist()
    found = {name: count for name, count in zip(objectives, counts, strict=True) if count}
    return DataError(
        "objectives are missing",
        expected="a utility of every objective in every row",
        got=", ".join(f"{name} missing in {count} rows" for name, count in found.items()),
        fix="missing='nan' or missing='renormalize' accepts them.",
    )


def _override(parameters: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Set one parameter, or some entries of one; an objective's name may itself contain dots."""
    name, _, entry = key.partition(".")
    if name not in parameters:
        expected = "one of " + ", ".join(parameters)
        raise ConfigError(f"{where} has no parameter {name!r}", expected=expected, got=key)
    changed = {entry: value} if entry else value
    if isinstance(changed, Mapping) and isinstance(parameters[name], dict):
        changed = parameters[name] | changed
    parameters[name] = changed
