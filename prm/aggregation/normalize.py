"""Normalizers: the scores of one head become comparable with those of the others.

A normalizer is fitted once, on the scores of a reference set, and stored in the spec with the
number of scores and where they came from. It is never refitted on the batch at hand, so the reward
of an answer does not depend on its neighbors. NaN (a missing score) stays NaN.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from prm.aggregation.named import Named, build
from prm.aggregation.named import to_dict as to_dict
from prm.errors import ConfigError, DataError


class Normalizer(Named):
    """Base of the normalizers, strictly increasing maps of the scores of one objective."""

    def __call__(self, scores: Tensor) -> Tensor:
        """Map scores of any shape, each on its own; float32 or wider."""
        raise NotImplementedError

    @classmethod
    def fit(cls, scores: Tensor, *, source: str = "") -> Self:
        """Fit on reference scores of any shape; NaN are left out.

        Args:
            scores: The scores of one objective on the reference set.
            source: What the reference set is, for whoever reads the spec.

        Raises:
            DataError: There are too few scores.
        """
        raise NotImplementedError

    def affine(self) -> tuple[float, float] | None:
        """Return scale and shift if the map is `scale * score + shift`, else None."""
        return None


class Identity(Normalizer):
    """Leaves scores as they are: right for heads trained on log-odds."""

    name = "identity"

    def __call__(self, scores: Tensor) -> Tensor:
        return scores if scores.dtype == torch.float64 else scores.float()

    @classmethod
    def fit(cls, scores: Tensor, *, source: str = "") -> Self:
        return cls()

    def affine(self) -> tuple[float, float]:
        return 1.0, 0.0


class ZScore(Normalizer):
    """Reference standard deviations from the reference mean: `(s - mean) / max(std, floor)`.

    Args:
        mean: Mean of the reference scores.
        std: Standard deviation of the reference scores, with n - 1; 0 or above.
        floor: The smallest divisor, above 0, in units of the score: without one the noise of a
            head that hardly varies would become as large as the signal of the others.
        num: How many reference scores there were.
        source: What the reference set is.

    Example:
        >>> normalizer = ZScore.fit(torch.tensor([1.0, 2.0, 3.0, float("nan")]))
        >>> normalizer(torch.tensor([2.0, 4.0])), normalizer.affine()
        (tensor([0., 2.]), (1.0, -2.0))
    """

    name = "z_score"

    def __init__(
        self, mean: float, std: float, *, floor: float = 0.01, num: int = 0, source: str = ""
    ) -> None:
        if not (math.isfinite(mean) and math.isfinite(std) and std >= 0):
            expected = "a finite mean and a standard deviation of 0 or above"
            raise ConfigError(f"mean {mean}, std {std} of z_score", expected=expected)
        if not (math.isfinite(floor) and floor > 0):
            raise ConfigError("floor of z_score is wrong", expected="a number above 0", got=floor)
        self.mean = float(mean)
        self.std = float(std)
        self.floor = float(floor)
        self.num = num
        self.source = source

    def __call__(self, scores: Tensor) -> Tensor:
        return (Identity()(scores) - self.mean) / max(self.std, self.floor)

    @classmethod
    def fit(cls, scores: Tensor, *, floor: float = 0.01, source: str = "") -> Self:
        known = _known(scores, "z_score")
        std = known.std().item()
        return cls(known.mean().item(), std, floor=floor, num=known.numel(), source=source)

    def affine(self) -> tuple[float, float]:
        scale = 1 / max(self.std, self.floor)
        return scale, -self.mean * scale


class Quantile(Normalizer):
    r"""Log-odds of the quantile that a score has among the reference scores.

    A distinct reference score `v` has the mid-quantile

        F(v) = (#{s < v} + 0.5 #{s = v}) / n

    and the points are `(v, logit F(v))`. Between two points the map is linear, and beyond the
    outermost two it continues with the slope of the line that joins these; so it is strictly
    increasing, unbounded, and odd: negated reference scores give the negated map. `sigmoid` of the
    result is the quantile.

    Args:
        points: `[score, log-odds]` pairs, at least two, strictly increasing in both.
        num: How many reference scores there were.
        source: What the reference set is.

    Example:
        >>> normalizer = Quantile.fit(torch.arange(100.0))
        >>> normalizer(torch.tensor([5.0, 49.5, 94.0])).sigmoid()
        tensor([0.0550, 0.5000, 0.9450])
    """

    name = "quantile"

    def __init__(
        self, points: Sequence[Sequence[float]], *, num: int = 0, source: str = ""
    ) -> None:
        self.points = [[float(number) for number in point] for point in points]
        self.num = num
        self.source = source
        _check_points(self.points)

    def __call__(self, scores: Tensor) -> Tensor:
        values = scores.double()
        x, y = torch.tensor(self.points, dtype=torch.float64, device=scores.device).T.contiguous()
        right = torch.searchsorted(x, values.contiguous()).clamp(1, len(x) - 1)
        left = right - 1
        slope = (y[right] - y[left]) / (x[right] - x[left])
        nearest = values.clamp(x[0], x[-1])
        outer = (y[-1] - y[0]) / (x[-1] - x[0])
        result: Tensor = y[left] + slope * (nearest - x[left]) + outer * (values - nearest)
        return result.to(torch.promote_types(scores.dtype, torch.float32))

    @classmethod
    def fit(cls, scores: Tensor, *, max_points: int = 256, source: str = "") -> Self:
        known = _known(scores, "quantile")
        distinct, counts = known.unique(return_counts=True)
        if len(distinct) < 2:
            expected = "at least two different reference scores"
            raise DataError("quantile", expected=expected, got=f"{len(known)} equal ones")
        below = counts.cumsum(dim=0) - counts
        log_odds = ((below + 0.5 * counts) / len(known)).double().logit()
        kept = _evenly_spaced(log_odds, max_points)
        points = torch.stack([distinct[kept], log_odds[kept]], dim=-1).tolist()
        return cls(points, num=len(known), source=source)


def _known(scores: Tensor, name: str) -> Tensor:
    known = scores.detach()[~scores.isnan()].double()
    if known.numel() < 2 or not known.isfinite().all():
        raise DataError(
            f"reference scores of {name}",
            expected="at least two, all finite",
            got=f"{known.numel()}, {int((~known.isfinite()).sum())} of them infinite",
        )
    return known


def _evenly_spaced(values: Tensor, max_points: int) -> Tensor:
    """Return the indices of at most `max_points` ascending values, spaced evenly in value."""
    if len(values) <= max_points:
        return torch.arange(len(values), device=values.device)
    targets = torch.linspace(
        values[0].item(), values[-1].item(), max_points, dtype=values.dtype, device=values.device
    )
    middles = (values[1:] + values[:-1]) / 2
    indices: Tensor = torch.searchsorted(middles, targets).unique()
    return indices


def _check_points(points: list[list[float]]) -> None:
    flat = all(len(point) == 2 and all(map(math.isfinite, point)) for point in points)
    rising = flat and all(a < b and c < d for (a, c), (b, d) in itertools.pairwise(points))
    if len(points) < 2 or not rising:
        raise ConfigError(
            "points of quantile",
            expected="two or more finite [score, log-odds] pairs, increasing in both",
            got=points,
        )


NORMALIZERS: dict[str, type[Normalizer]] = {cls.name: cls for cls in (Identity, ZScore, Quantile)}


def from_dict(data: Mapping[str, Any]) -> Normalizer:
    """Rebuild what `to_dict` wrote.

    Raises:
        ConfigError: The name is unknown or does not take these parameters.

    Example:
        >>> from_dict({"name": "z_score", "mean": 0.5, "std": 2.0})
        ZScore(mean=0.5, std=2.0, floor=0.01, num=0, source='')
    """
    parameters = dict(data)
    return build(NORMALIZERS, "normalizer", parameters.pop("name", "missing"), parameters)
