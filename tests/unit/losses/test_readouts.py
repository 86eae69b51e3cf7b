"""What head columns mean, against numpy, at extremes, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from prm.errors import ConfigError
from prm.losses.readouts import MIN_SPREAD, ResponseReadout, score, spread

WIDTHS: dict[ResponseReadout, int] = {"value": 1, "gaussian": 2, "quantile": 3}
every = pytest.mark.parametrize("readout", WIDTHS)


def test_scores_by_hand() -> None:
    columns = torch.tensor([[1.0, 2.0, 6.0], [0.0, -3.0, 0.0]])
    assert score(columns[:, :1], "value").tolist() == [1.0, 0.0]
    assert score(columns[:, :2], "gaussian").tolist() == [1.0, 0.0]
    assert score(columns, "quantile").tolist() == [3.0, -1.0]


def test_spreads_by_hand() -> None:
    columns = torch.tensor([[1.0, 2.0, 6.0], [4.0, -3.0, 0.0]])
    assert spread(columns[:, :1], "value") is None
    gaussian = spread(columns[:, :2], "gaussian")
    np.testing.assert_allclose(gaussian, np.log1p(np.exp([2.0, -3.0])) + 1e-3, rtol=1e-6)
    crossed = spread(columns, "quantile")
    assert crossed is not None
    assert crossed.tolist() == [2.5, 3.5]


@every
def test_scores_are_linear_in_the_columns(readout: ResponseReadout) -> None:
    a, b = torch.randn(2, 5, WIDTHS[readout])
    torch.testing.assert_close(
        score(2 * a - 3 * b, readout), 2 * score(a, readout) - 3 * score(b, readout)
    )


@every
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_extremes_are_finite(readout: ResponseReadout, size: float) -> None:
    columns = torch.full((2, WIDTHS[readout]), size, requires_grad=True)
    total = score(columns, readout).sum()
    spreads = spread(columns, readout)
    if spreads is not None:
        assert (spreads >= (MIN_SPREAD if readout == "gaussian" else 0.0)).all()
        total = total + spreads.sum()
    total.backward()
    assert total.isfinite()
    assert columns.grad is not None
    assert columns.grad.isfinite().all()


@every
def test_half_precision_becomes_float32(readout: ResponseReadout) -> None:
    columns = torch.randn(2, WIDTHS[readout]).bfloat16()
    assert score(columns, readout).dtype == torch.float32
    spreads = spread(columns, readout)
    assert spreads is None or spreads.dtype == torch.float32


@every
def test_any_leading_shape(readout: ResponseReadout) -> None:
    columns = torch.randn(2, 4, WIDTHS[readout])
    assert score(columns, readout).shape == (2, 4)
    torch.testing.assert_close(score(columns, readout)[1, 2], score(columns[1, 2], readout))


@pytest.mark.parametrize(
    ("readout", "width"),
    [("value", 2), ("gaussian", 1), ("gaussian", 3), ("quantile", 1), ("sigmoid", 1)],
)
def test_what_does_not_fit_is_an_error(readout: Any, width: int) -> None:
    columns = torch.zeros(2, width)
    with pytest.raises(ConfigError, match="readout"):
        score(columns, readout)
    with pytest.raises(ConfigError, match="readout"):
        spread(columns, readout)
