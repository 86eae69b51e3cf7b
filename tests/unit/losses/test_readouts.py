"""What head columns mean, against numpy, at extremes, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm

from prm.errors import ConfigError
from prm.losses.readouts import MIN_SPREAD, ResponseReadout, score, spread

LEVELS = (0.1, 0.5, 0.9)
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


def test_crossed_quantiles_are_sorted() -> None:
    width = spread(torch.tensor([[4.0, -3.0, 0.0]]), "quantile", LEVELS)
    assert width is not None
    np.testing.assert_allclose(width, [7 / (norm.ppf(0.9) - norm.ppf(0.1))], rtol=1e-6)


@pytest.mark.parametrize("levels", [(0.1, 0.9), (0.25, 0.75), (0.1, 0.5, 0.9), (0.05, 0.3, 0.6)])
def test_quantiles_of_normal_values_give_their_deviation(levels: tuple[float, ...]) -> None:
    better, worse = (mean + norm.ppf(levels) for mean in (1.0, 0.0))
    widths = spread(torch.tensor(np.stack([better, worse])), "quantile", levels)
    assert widths is not None
    np.testing.assert_allclose(widths, 1.0, rtol=1e-6)
    assert norm.cdf(1 / np.hypot(*widths.double().numpy())) == pytest.approx(0.760, abs=5e-4)


def test_a_spread_of_quantiles_needs_their_levels() -> None:
    with pytest.raises(ConfigError, match="levels of readout 'quantile' are wrong: expected 3"):
        spread(torch.zeros(1, 3), "quantile", (0.1, 0.9))


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
    spreads = spread(columns, readout, LEVELS)
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
    spreads = spread(columns, readout, LEVELS)
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
        spread(columns, readout, LEVELS[:width])
