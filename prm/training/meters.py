"""Validation and test metrics of a task: over all records, and by source."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prm.data.items import LabeledChain, LabeledItem
from prm.losses.preference import PreferenceTargets, pairs_of
from prm.metrics.first_error import UNDECIDED
from prm.metrics.responses import ResponseMetrics
from prm.metrics.steps import StepMetrics
from prm.records import Chain
from prm.spec import RewardSpec
from prm.training.reads import Reads, ResponseReads

ALL = "all"

REWARD = "reward"
"""Name under which the accuracy of the aggregated reward is logged."""

RANKING = "ranking"
"""Mean over objectives of how often the model ranks two responses right; see `ResponseMeters`."""


class StepMeters(nn.Module):
    """One `StepMetrics` for all chains and, with several sources, one for each of them.

    Args:
        objective: Name of the objective that is measured.
        column: Its column in the reads.
        sources: Names of all sources of chains, the same on every rank.
    """

    def __init__(self, objective: str, column: int, sources: Iterable[str]) -> None:
        super().__init__()
        self.objective = objective
        self.column = column
        self.index = _keys(sources)
        keys = [ALL, *self.index.values()] if len(self.index) > 1 else [ALL]
        self.metrics = nn.ModuleDict({key: StepMetrics() for key in keys})

    def count(self, items: Sequence[LabeledItem], reads: Reads) -> None:
        """Add the chains of a micro-batch."""
        assert reads.steps is not None
        probabilities = reads.steps.logits[:, self.column].sigmoid()
        for position, record in enumerate(reads.steps.records):
            chosen = reads.steps.chain == position
            item = items[record]
            assert isinstance(item, LabeledChain)
            self._count(item.chain, reads.steps.step[chosen], probabilities[chosen])

    def _count(self, chain: Chain, steps: Tensor, probabilities: Tensor) -> None:
        """Add a chain; steps that were not read count as not scored, in place."""
        scored = torch.full((len(chain.completions),), torch.nan)
        scored[steps] = probabilities
        known = chain.labels.get(self.objective, (None,) * len(chain.completions))
        labels = torch.tensor([torch.nan if label is None else label for label in known])
        first_error = chain.first_error(self.objective)
        coded = torch.tensor([UNDECIDED if first_error is None else first_error])
        for key in (ALL, self.index.get(chain.source, "")):
            if key in self.metrics:
                metric: Any = self.metrics[key]
                metric.update(scored, labels, torch.zeros_like(labels).long(), coded)

    def values(self) -> dict[str, Tensor]:
        """Return the metrics over all ranks: `name` over all chains, `source/name` by source."""
        names = {key: f"{source}/" for source, key in self.index.items()} | {ALL: ""}
        return {
            f"{names[key]}{name}": value
            for key, metric in self.metrics.items()
            for name, value in metric.compute().items()  # type: ignore[operator]
        }


class ResponseMeters(nn.Module):
    """One `ResponseMetrics` per objective, one for the reward, and by source with several sources.

    The metric `ranking` is one number to choose a checkpoint by: the mean over objectives of their
    pair accuracy and of their AUROC (for ratings that are not binary, of `(1 + Spearman) / 2`).

    Args:
        spec: The reward spec.
        sources: Names of all sources of responses, the same on every rank.
        in_label_units: Objectives whose scores are in the units of their ratings.
    """

    def __init__(
        self, spec: RewardSpec, sources: Iterable[str], in_label_units: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.spec = spec
        self.index = _keys(sources)
        parts = [ALL, *self.index.values()] if len(self.index) > 1 else [ALL]
        self.names = [*spec.response_names, REWARD]
        self.metrics = nn.ModuleDict(
            {
                f"{column}_{part}": ResponseMetrics(in_label_units=name in in_label_units)
                for column, name in enumerate(self.names)
                for part in parts
            }
        )

    def count(self, items: Sequence[LabeledItem], reads: Reads) -> None:
        """Add the response sets of a micro-batch."""
        found = reads.responses
        assert found is not None
        utilities = self.spec.utilities(found.scores)
        rewards = self.spec.rewards(found.scores)
        sources = [items[record].source for record in found.records]
        for part in (ALL, *self.index.values()):
            if f"0_{part}" not in self.metrics:
                continue
            chosen = torch.tensor(
                [part in (ALL, self.index.get(source)) for source in sources], dtype=torch.bool
            )[found.owner]
            for column in range(len(self.spec.response_names)):
                self._count(column, part, found, utilities[:, column], rewards, chosen)

    def _count(
        self,
        column: int,
        part: str,
        reads: ResponseReads,
        utilities: Tensor,
        rewards: Tensor,
        chosen: Tensor,
    ) -> None:
        """Add the labels of one objective at the chosen reads, and its pairs to the reward's."""
        metric: Any = self.metrics[f"{column}_{part}"]
        reward: Any = self.metrics[f"{len(self.spec.response_names)}_{part}"]
        none = torch.zeros(0)
        metric.update(
            reads.scores[chosen, column],
            reads.labels.values[chosen, column],
            *_pairs(reads.labels.preferences[column], utilities, chosen),
        )
        reward.update(none, none, *_pairs(reads.labels.preferences[column], rewards, chosen))

    def values(self) -> dict[str, Tensor]:
        """Return `objective/name` over all records, `objective/source/name`, and `ranking`."""
        sources = {key: f"{source}/" for source, key in self.index.items()} | {ALL: ""}
        values: dict[str, Tensor] = {}
        ranking: list[Tensor] = []
        for key, metric in self.metrics.items():
            column, _, part = key.partition("_")
            name = self.names[int(column)]
            computed = metric.compute()  # type: ignore[operator]
            known = {metric: value for metric, value in computed.items() if not value.isnan()}
            values |= {f"{name}/{sources[part]}{metric}": value for metric, value in known.items()}
            if part == ALL and name != REWARD:
                ranking.extend(_ranking(known))
        if ranking:
            values[RANKING] = torch.stack(ranking).mean()
        return values


def _ranking(values: dict[str, Tensor]) -> list[Tensor]:
    found = [values["pair_accuracy_half"]] if "pair_accuracy_half" in values else []
    if "auroc" in values:
        found.append(values["auroc"])
    elif "spearman" in values:
        found.append((1 + values["spearman"]) / 2)
    return found


def _pairs(
    targets: PreferenceTargets, utilities: Tensor, chosen: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return margins, outcomes, strengths and weights of the pairs of some comparisons."""
    pairs = pairs_of(targets)
    first, second = targets.read[pairs.first], targets.read[pairs.second]
    share = 1 / torch.bincount(pairs.comparison, minlength=targets.num_comparisons).clamp(min=1)
    columns = (
        utilities[first] - utilities[second],
        torch.where(pairs.tied, 0.5, 1.0),
        torch.where(pairs.tied, math.nan, targets.strength[pairs.comparison]),
        share[pairs.comparison],
    )
    margins, outcomes, strengths, weights = (column[chosen[first]] for column in columns)
    return margins, outcomes, strengths, weights


def _keys(sources: Iterable[str]) -> dict[str, str]:
    """Return a module name for each source."""
    return {name: str(position) for position, name in enumerate(sorted(set(sources)))}
