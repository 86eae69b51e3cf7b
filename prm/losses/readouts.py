"""What the columns of an outcome head mean, and what all losses on such a head share.

A head gives a response one or more numbers per objective, its columns. The readout says how they
become the score of the response and, where the head can tell, how unsure that score is (`spread`):

| readout | columns | score | spread |
|---|---|---|---|
| `value` | one | the column | none |
| `gaussian` | mean, raw spread | the mean | the standard deviation |
| `quantile` | one per quantile level | their mean | of the nearest normal distribution |

Every score is linear in the columns, so a head can be folded into one label exactly.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from prm.errors import ConfigError
from prm.losses.checks import check_columns

ResponseReadout = Literal["value", "gaussian", "quantile"]

MIN_SPREAD = 1e-3
"""Smallest standard deviation that a `gaussian` readout can claim."""


def score(columns: Tensor, readout: ResponseReadout) -> Tensor:
    """Return the score of each response, float32 `[...]`, from its columns `[..., column]`.

    Raises:
        ConfigError: The readout is unknown or does not have this number of columns.

    Example:
        >>> import torch
        >>> score(torch.tensor([[1.0, 2.0, 6.0]]), "quantile")
        tensor([3.])
    """
    _check_width(columns, readout)
    columns = columns.float()
    return columns.mean(dim=-1) if readout == "quantile" else columns[..., 0]


def spread(
    columns: Tensor, readout: ResponseReadout, levels: Sequence[float] = ()
) -> Tensor | None:
    """Return the standard deviation of each score, float32 `[...]`, in units of the score.

    `gaussian`: `softplus(column 1) + 0.001`. `quantile`: the standard deviation of the normal
    distribution that is nearest to the quantiles by squared distance, exact if they are normal;
    quantiles that cross are sorted first.

    Args:
        columns: The columns of the head, `[..., column]`.
        readout: What they mean.
        levels: Of `quantile`: the level of each column, in (0, 1), ascending.

    Returns:
        At least 0; `None` for `value`, which cannot tell.

    Raises:
        ConfigError: The readout is unknown, or does not have this number of columns or levels.

    Example:
        >>> spread(torch.tensor([[-1.2816, 0.0, 1.2816]]), "quantile", (0.1, 0.5, 0.9))
        tensor([1.0000])

    Source: Chernozhukov, Fernandez-Val and Galichon 2010 (sorting crossed quantiles).
    """
    _check_width(columns, readout)
    columns = columns.float()
    if readout == "gaussian":
        return standard_deviation(columns)
    if readout == "quantile":
        return _normal_deviation(columns, levels)
    return None


def even_levels(num_levels: int) -> tuple[float, ...]:
    """Return evenly spaced quantile levels from 0.1 to 0.9.

    Example:
        >>> even_levels(3)
        (0.1, 0.5, 0.9)
    """
    return tuple(round(0.1 + 0.8 * index / (num_levels - 1), 6) for index in range(num_levels))


def are_levels(levels: Sequence[object]) -> bool:
    """Say whether these are quantile levels: numbers in (0, 1), ascending."""
    numbers = [level for level in levels if isinstance(level, int | float)]
    ascending = all(low < high for low, high in itertools.pairwise((0.0, *numbers, 1.0)))
    return len(numbers) == len(levels) and ascending


def _normal_deviation(quantiles: Tensor, levels: Sequence[float]) -> Tensor:
    """Return the slope of sorted quantiles `[..., level]` in the standard normal ones, `[...]`."""
    if len(levels) != quantiles.shape[-1]:
        raise ConfigError(
            "levels of readout 'quantile' are wrong",
            expected=f"{quantiles.shape[-1]}, one per column",
            got=len(levels),
        )
    normal = torch.special.ndtri(torch.tensor(levels, dtype=torch.float64))
    offsets = normal - normal.mean()
    weights = (offsets / offsets.square().sum()).to(quantiles)
    deviation: Tensor = quantiles.sort(dim=-1).values @ weights
    return deviation


def standard_deviation(columns: Tensor) -> Tensor:
    """Return `softplus(column 1) + 0.001`, float32 `[...]`, of `gaussian` columns `[..., 2]`."""
    return functional.softplus(columns[..., 1].float()) + MIN_SPREAD


class ResponseLoss(nn.Module):
    """Base of the losses on outcome heads.

    Attributes:
        readouts: Which readouts the loss can train.
        num_columns: How many columns the head needs.
    """

    readouts: ClassVar[tuple[ResponseReadout, ...]] = ("value",)
    num_columns: int = 1

    def extra_repr(self) -> str:
        options: dict[str, object] = {}
        for name, value in vars(self).items():
            if is_dataclass(value) and not isinstance(value, type):
                options |= asdict(value)
            elif name != "training" and not name.startswith("_"):
                options[name] = value
        return ", ".join(f"{name}={value!r}" for name, value in options.items())

    def check_columns(self, columns: Tensor, readout: ResponseReadout) -> None:
        """Check that the loss can train a head with this readout and `[read, column]` output.

        Raises:
            ConfigError: It cannot.
        """
        if readout not in self.readouts:
            name, expected = type(self).__name__, " or ".join(map(repr, self.readouts))
            raise ConfigError(f"{name} cannot train this readout", expected=expected, got=readout)
        check_columns(self, columns, self.num_columns)


def _check_width(columns: Tensor, readout: ResponseReadout) -> None:
    expected = {"value": "1 column", "gaussian": "2 columns", "quantile": "2 columns or more"}
    if readout not in expected:
        raise ConfigError(
            "readout is wrong", expected="'value', 'gaussian' or 'quantile'", got=readout
        )
    width = columns.shape[-1]
    right = {"value": width == 1, "gaussian": width == 2, "quantile": width >= 2}[readout]
    if not right:
        raise ConfigError(f"readout {readout!r} is wrong", expected=expected[readout], got=width)
