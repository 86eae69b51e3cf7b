"""What is trained: the objectives of steps and of whole responses, each with its losses."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import nn

from prm.errors import ConfigError, DataError
from prm.losses.preference import BradleyTerry, PreferenceLoss
from prm.losses.rating import Pinball, RatingLoss
from prm.losses.readouts import ResponseReadout
from prm.losses.steps import BCE, StepLoss
from prm.records import CORRECTNESS, Record
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
        levels = rating.levels if isinstance(rating, Pinball) else ()
        self.spec = ResponseHead(name, readout, losses[-1].num_columns, direction, levels)

    @property
    def uses_ratings(self) -> bool:
        """Whether a loss reads what is known of each response on its own."""
        return self.rating is not None or (
            self.preference is not None and self.preference.uses_ratings
        )


def fit_step_losses(objectives: Sequence[StepObjective], records: Iterable[Record]) -> None:
    """Give each loss what it needs to know about the training labels.

    Raises:
        ConfigError: An objective has no label.
    """
    for objective in objectives:
        values = (label for one in records for label in one.labels.get(objective.name, ()))
        labels = torch.from_numpy(np.fromiter(values, np.float32))  # NaN where there is none
        if labels.isnan().all():
            raise ConfigError(
                f"no training chain has a label of objective {objective.name!r}",
                fix="Name the objectives as the chains' labels are named",
            )
        objective.loss.fit_balance(labels)


def fit_response_losses(objectives: Sequence[ResponseObjective], records: Iterable[Record]) -> None:
    """Check the training labels of each objective, and let its losses know them.

    Raises:
        ConfigError: An objective has no label, or labels that no loss of it uses.
        DataError: A rating is out of the range of its loss.
    """
    compared, ratings = _response_labels(records)
    for objective in objectives:
        name = objective.name
        num_compared = compared[name]
        values = torch.tensor(ratings[name], dtype=torch.float32)
        if num_compared and objective.preference is None:
            raise _unused(name, f"{num_compared} comparisons", "preference")
        if len(values) and not objective.uses_ratings:
            raise _unused(name, f"{len(values)} ratings", "rating")
        if not num_compared and not len(values):
            raise ConfigError(
                f"no training record has a label of objective {name!r}",
                fix="Name the objectives as the records' labels are named",
            )
        if objective.preference is not None:
            objective.preference.check_ratings(values)
        if objective.rating is not None:
            try:
                objective.rating.check(values)
            except DataError as error:
                raise error.at(f"objective {objective.name!r}") from None
            objective.rating.fit(values)


def _response_labels(records: Iterable[Record]) -> tuple[Counter[str], dict[str, array[float]]]:
    """Return how many comparisons, and which ratings, there are by objective."""
    compared: Counter[str] = Counter()
    ratings: defaultdict[str, array[float]] = defaultdict(lambda: array("d"))
    for record in records:
        compared.update(record.objectives if record.ranks else ())
        for name, value in record.values.items():
            ratings[name].extend([] if value is None else [value])
    return compared, ratings


def _unused(name: str, what: str, option: str) -> ConfigError:
    return ConfigError(
        f"the training data have {what} of objective {name!r}, and no loss uses them",
        fix=f"Set its {option} loss, or take the labels out of the data",
    )


def in_label_units(objectives: Iterable[ResponseObjective]) -> list[str]:
    """Return the objectives whose scores are in the units of their ratings."""
    return [one.name for one in objectives if one.rating is not None and one.rating.in_label_units]


def _check_weight(name: str, weight: float) -> float:
    if not 0 <= weight < float("inf"):
        raise ConfigError(
            f"loss_weight of {name!r} is wrong", expected="a number of 0 or more", got=weight
        )
    return weight
