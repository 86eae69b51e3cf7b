"""What the columns of an outcome head mean, and what all losses on such a head share.

A head gives a response one or more numbers per objective, its columns. The readout says how they
become the score of the response and, where the head can tell, how unsure that score is (`spread`):

| readout | columns | score | spread |
|---|---|---|---|
| `value` | one | the column | none |
| `gaussian` | mean, raw spread | the mean | the standard deviation |
| `quantile` | one per quantile level | mean over the quantiles | half the width of the outer ones |

Every score is linear in the columns, so a head can be folded into one label exactly.
"""

from __future__ import annotations

from dataclasses import asdict, is_dataclass
from typing import ClassVar, Literal

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


def spread(columns: Tensor, readout: ResponseReadout) -> Tensor | None:
    """Return how unsure each score is, float32 `[...]` in units of the score.

    `gaussian`: `softplus(column 1) + 0.001`, a standard deviation. `quantile`: half the distance
    between the outer quantiles, sorted first where they cross.

    Returns:
        At least 0; `None` for `value`, which cannot tell.

    Raises:
        ConfigError: The readout is unknown or does not have this number of columns.

    Source: Chernozhukov, Fernandez-Val and Galichon 2010 (sorting crossed quantiles).
    """
    _check_width(columns, readout)
    columns = columns.float()
    if readout == "gaussian":
        return standard_deviation(columns)
    if readout == "quantile":
        return (columns.amax(dim=-1) - columns.amin(dim=-1)) / 2
    return None


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
