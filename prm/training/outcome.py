"""`OutcomeRewardTask`: the Lightning module that trains outcome reward models."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import torch

from prm.aggregation.normalize import Normalizer, Quantile, ZScore
from prm.aggregation.objectives import ObjectiveAggregation
from prm.data.planning import plan_evaluation
from prm.data.response_labels import LabeledResponses
from prm.errors import ConfigError, DataError
from prm.losses.cost import SignAwareCost
from prm.losses.preference import check_labels
from prm.models.reward_model import RewardModel
from prm.models.sources import BackboneSource
from prm.records import Comparison, Rating, Record
from prm.spec import ResponseFormat
from prm.training.losses import ResponseLosses
from prm.training.objectives import ResponseObjective
from prm.training.task import RewardTask
from prm.trees.packing import Pack, pack

NORMALIZERS: dict[str, type[Normalizer]] = {"zscore": ZScore, "quantile": Quantile}

REFERENCE = 4096
"""Most response sets that normalizers are fitted on."""


class OutcomeRewardTask(RewardTask):
    """Trains an `OutcomeRewardModel` on comparisons and ratings of responses.

    Every objective has its own head and its own losses; a record supervises the objectives it has
    labels of, and no other.

    Args:
        backbone: Where model and tokenizer come from; a decoder or an encoder.
        objectives: The objectives of responses.
        aggregation: How the objectives become one reward; needed with several.
        response_format: How responses become tokens, and where they are read.
        learn_weights: Learn how much each loss counts, from how noisy it is. See
            `UncertaintyWeights`.
        **options: The options of `RewardTask`.
    """

    monitored = "val/ranking"

    def __init__(
        self,
        backbone: BackboneSource,
        objectives: list[ResponseObjective],
        aggregation: ObjectiveAggregation | None = None,
        response_format: ResponseFormat = ResponseFormat(),  # noqa: B008
        learn_weights: bool = False,
        **options: Any,
    ) -> None:
        spec_options = {
            "response_heads": tuple(objective.spec for objective in objectives),
            "objective_aggregation": aggregation,
            "response_format": response_format,
        }
        super().__init__(backbone, spec_options, **options)
        self.objectives = objectives
        self.loss = self.batch_loss([ResponseLosses(objectives, self.spec)], learn_weights)

    def prepare_losses(self, records: Iterable[Record]) -> None:
        fit_response_losses(self.objectives, records)

    def finish(self, model: RewardModel) -> None:
        """Fit the normalizers of the objectives that have one."""
        fit_normalizers(self.objectives, model, self)


def fit_response_losses(objectives: Sequence[ResponseObjective], records: Iterable[Record]) -> None:
    """Check the training labels of each objective, and let its losses know them.

    Raises:
        ConfigError: An objective has no label, or labels that no loss of it uses.
        DataError: A rating is out of the range of its loss.
    """
    compared, ratings = _outcome_labels(records)
    for objective in objectives:
        name = objective.name
        num_compared = compared[name]
        values = torch.tensor(ratings[name], dtype=torch.float32)
        if num_compared and objective.preference is None:
            raise _unused(name, f"{num_compared} comparisons", "preference")
        uses_ratings = objective.rating or isinstance(objective.preference, SignAwareCost)
        if len(values) and not uses_ratings:
            raise _unused(name, f"{len(values)} ratings", "rating")
        if not num_compared and not len(values):
            raise ConfigError(
                f"no training record has a label of objective {name!r}",
                fix="Name the objectives as the records' labels are named",
            )
        if isinstance(objective.preference, SignAwareCost):
            check_labels("rating", values, (values == 0) | (values == 1), "0 or 1")
        if objective.rating is not None:
            try:
                objective.rating.check(values)
            except DataError as error:
                raise error.at(f"objective {objective.name!r}") from None
            objective.rating.fit(values)


def _outcome_labels(records: Iterable[Record]) -> tuple[Counter[str], dict[str, array[float]]]:
    """Return how many comparisons, and which ratings, there are by objective."""
    compared: Counter[str] = Counter()
    ratings: defaultdict[str, array[float]] = defaultdict(lambda: array("d"))
    for record in records:
        if isinstance(record, Comparison):
            compared[record.objective] += 1
        elif isinstance(record, Rating):
            for name, value in record.values.items():
                ratings[name].extend([] if value is None else [value])
    return compared, ratings


def _unused(name: str, what: str, option: str) -> ConfigError:
    return ConfigError(
        f"the training data have {what} of objective {name!r}, and no loss uses them",
        fix=f"Set its {option} loss, or take the labels out of the data",
    )


def fit_normalizers(
    objectives: Sequence[ResponseObjective], model: RewardModel, task: RewardTask
) -> None:
    """Fit normalizers on the scores of the validation responses (training ones if there are none).

    They become part of the model's spec, in place of those that were there.
    """
    chosen = {o.name: NORMALIZERS[o.normalizer] for o in objectives if o.normalizer != "none"}
    if not chosen:
        model.spec = model.spec.with_(normalizers={})
        return
    part = "validation" if task.data.items("validation") else "train"
    responses = (item for item in task.data.items(part) if isinstance(item, LabeledResponses))
    reference = list(islice(responses, REFERENCE))
    scores = score_items(model, reference, task.data.max_tokens, task.packer(reference))
    normalizers = {
        name: cls.fit(scores[:, model.spec.response_names.index(name)], source=part)
        for name, cls in chosen.items()
    }
    model.spec = model.spec.with_(normalizers=normalizers)


@torch.no_grad()
def score_items(
    model: RewardModel, items: Sequence[LabeledResponses], max_tokens: int, pack: Pack = pack
) -> torch.Tensor:
    """Return the scores of all responses of some items, `[response, objective]`, in any order."""
    model.eval()
    scores = []
    for plan in plan_evaluation([item.tree.num_tokens for item in items], max_tokens):
        trees = pack([items[index].tree for index in plan.records])
        scores.append(model.response_scores(model(trees.to(model.device)).columns))
    return torch.cat(scores).cpu()
