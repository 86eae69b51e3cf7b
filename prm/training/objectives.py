"""What is trained: the objectives of steps and of whole responses, each with its losses."""

from __future__ import annotations

from typing import Literal

from torch import nn

from prm.errors import ConfigError
from prm.losses.preference import BradleyTerry, PreferenceLoss
from prm.losses.rating import RatingLoss
from prm.losses.readouts import ResponseReadout
from prm.losses.steps import BCE, StepLoss
from prm.records import CORRECTNESS
from prm.spec import Direction, ResponseHead, StepHead


class StepObjective:
    """One step objective to train.

    Args:
        name: Name of the objective; `labels` of chains are looked up by it.
        loss: Its loss.
        loss_weight: Factor of its loss, 0 or more.

    Raises:
        ConfigError: The factor is below 0.
    """

    def __init__(
        self, name: str = CORRECTNESS, loss: StepLoss | None = None, loss_weight: float = 1.0
    ) -> None:
        self.name = name
        self.loss = loss or BCE()
        self.loss_weight = _check_weight(name, loss_weight)

    @property
    def spec(self) -> StepHead:
        """The objective as the spec holds it."""
        return StepHead(self.name, self.loss.readout)


class ResponseObjective(nn.Module):
    """One objective of whole responses to train, from comparisons, ratings, or both.

    Args:
        name: Name of the objective; comparisons and ratings are looked up by it.
        preference: Loss of its comparisons; Bradley-Terry if there is no rating loss either.
        rating: Loss of its ratings.
        loss_weight: Factor of both losses, 0 or more.
        readout: What its head columns mean: `value`, or with the losses made for them `gaussian`
            (mean and spread) or `quantile`.
        direction: Whether a higher score is better (`maximize`) or worse (`minimize`).
        normalizer: How scores are brought to a common scale before they are aggregated, fitted on
            the validation responses: `none`, `zscore` or `quantile`.
    """

    def __init__(
        self,
        name: str,
        preference: PreferenceLoss | None = None,
        rating: RatingLoss | None = None,
        loss_weight: float = 1.0,
        readout: ResponseReadout = "value",
        direction: Direction = "maximize",
        normalizer: Literal["none", "zscore", "quantile"] = "none",
    ) -> None:
        super().__init__()
        self.name = name
        self.preference = BradleyTerry() if preference is None and rating is None else preference
        self.rating = rating
        self.loss_weight = _check_weight(name, loss_weight)
        self.normalizer = normalizer
        if readout == "quantile" and (rating is None or readout not in rating.readouts):
            raise ConfigError("readout 'quantile' needs ratings with the loss Pinball", got=rating)
        losses = [loss for loss in (self.preference, rating) if loss is not None]
        for loss in losses:
            if readout not in loss.readouts:
                raise ConfigError(
                    f"{type(loss).__name__} cannot train the readout of {name!r}",
                    expected=" or ".join(loss.readouts),
                    got=readout,
                )
        self.spec = ResponseHead(name, readout, losses[-1].num_columns, direction)

    @property
    def uses_ratings(self) -> bool:
        """Whether a loss reads what is known of each response on its own."""
        return self.rating is not None or (
            self.preference is not None and self.preference.uses_ratings
        )


def in_label_units(task: nn.Module) -> list[str]:
    """Return the objectives of a task whose scores are in the units of their ratings."""
    return [
        module.name
        for module in task.modules()
        if isinstance(module, ResponseObjective)
        and module.rating is not None
        and module.rating.in_label_units
    ]


def _check_weight(name: str, weight: float) -> float:
    if not 0 <= weight < float("inf"):
        raise ConfigError(
            f"loss_weight of {name!r} is wrong", expected="a number of 0 or more", got=weight
        )
    return weight
