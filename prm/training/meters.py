"""Validation and test metrics of a task: over all records, and by source."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
import torchmetrics
from torch import Tensor, nn

from prm.data.items import Facts, LabeledChain, LabeledItem
from prm.losses.preference import PreferenceTargets, pairs_of
from prm.metrics.first_error import UNDECIDED
from prm.metrics.pairs import PAIR_ACCURACY_HALF
from prm.metrics.responses import ResponseMetrics
from prm.metrics.steps import StepMetrics
from prm.metrics.values import AUROC, SPEARMAN
from prm.records import Chain
from prm.spec import RewardSpec
from prm.training.reads import Reads, ResponseReads

REWARD = "reward"
"""Name under which the accuracy of the aggregated reward is logged."""

RANKING = "ranking"
"""Mean over objectives of how often the model ranks two responses right; see `ResponseMeters`."""


class BySource(nn.Module):
    """Metrics over all records and, with several sources, over those of each.

    Args:
        make: What makes metrics that have seen nothing.
        sources: Names of all sources, the same on every rank.
    """

    def __init__(self, make: Callable[[], torchmetrics.Metric], sources: Iterable[str]) -> None:
        super().__init__()
        names = sorted(set(sources))
        self.sources = names if len(names) > 1 else []
        self.overall = make()
        self.parts = nn.ModuleList(make() for _ in self.sources)

    def part(self, source: str | None) -> Any:
        """Return the metrics of one of several sources, or of all records."""
        return self.overall if source is None else self.parts[self.sources.index(source)]

    def values(self, prefix: str = "") -> dict[str, Tensor]:
        """Return the metrics over all ranks: `name` over all records, `source/name` by source."""
        return {
            prefix + ("" if source is None else f"{source}/") + name: value
            for source in (None, *self.sources)
            for name, value in self.part(source).compute().items()
        }


class StepMeters(nn.Module):
    """`StepMetrics` of all chains and by source.

    Args:
        objective: Name of the objective that is measured.
        column: Its column in the reads.
        sources: Names of all sources of chains, the same on every rank.
        taken: Names that metrics of responses begin with.
    """

    def __init__(
        self, objective: str, column: int, sources: Iterable[str], taken: Container[str] = ()
    ) -> None:
        super().__init__()
        self.objective = objective
        self.column = column
        self.taken = taken
        names = sorted(set(sources))
        self.numbers = {name: torch.tensor([number]) for number, name in enumerate(names)}
        self.metrics = BySource(StepMetrics, names)

    def count(self, items: Sequence[LabeledItem], reads: Reads) -> None:
        """Add the chains of a micro-batch."""
        assert reads.steps is not None
        probabilities = reads.steps.logits[:, self.column].sigmoid()
        for position, record in enumerate(reads.steps.records):
            chosen = reads.steps.chain == position
            item = cast(LabeledChain, items[record])
            complete = item.num_truncated == 0
            self._count(item.chain, reads.steps.step[chosen], probabilities[chosen], complete)

    def count_dropped(self, chains: Iterable[Chain]) -> None:
        """Add chains that the model cannot read at all, which have no prediction."""
        none = torch.zeros(0)
        for chain in chains:
            self._count(chain, none.long(), none, complete=False)

    def _count(self, chain: Chain, steps: Tensor, probabilities: Tensor, complete: bool) -> None:
        """Add a chain; steps that were not read count as not scored, in place."""
        scored = torch.full((len(chain.completions),), torch.nan)
        scored[steps] = probabilities
        known = chain.labels.get(self.objective, (None,) * len(chain.completions))
        labels = torch.tensor([torch.nan if label is None else label for label in known])
        first_error = chain.first_error(self.objective)
        coded = torch.tensor([UNDECIDED if first_error is None else first_error])
        whole = torch.tensor([complete])
        for source in (None, chain.source) if self.metrics.sources else (None,):
            part = self.metrics.part(source)
            index = torch.zeros_like(labels).long()
            part.update(scored, labels, index, coded, whole, self.numbers.get(chain.source))

    def values(self) -> dict[str, Tensor]:
        """Return `name` over all chains and ranks, `source/name` by source.

        A source whose name is taken has `steps/` before it.
        """
        return {
            ("steps/" if name.rpartition("/")[0] in self.taken else "") + name: value
            for name, value in self.metrics.values().items()
        }


class ResponseMeters(nn.Module):
    """`ResponseMetrics` of each objective and of the reward, over all records and by source.

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
        names = tuple(sources)
        self.objectives = nn.ModuleList(
            BySource(partial(ResponseMetrics, in_label_units=name in in_label_units), names)
            for name in spec.response_names
        )
        self.reward = BySource(ResponseMetrics, names)

    def count(self, items: Sequence[LabeledItem], reads: Reads) -> None:
        """Add the response sets of a micro-batch."""
        found = reads.responses
        assert found is not None
        utilities, rewards = self.spec.utilities(found.scores), self.spec.rewards(found.scores)
        sources = [items[record].source for record in found.records]
        for source in (None, *self.reward.sources):
            chosen = torch.tensor([source in (None, other) for other in sources], dtype=torch.bool)
            self._count(found, source, utilities, rewards, chosen[found.owner])

    def _count(
        self,
        reads: ResponseReads,
        source: str | None,
        utilities: Tensor,
        rewards: Tensor,
        chosen: Tensor,
    ) -> None:
        """Add the labels of each objective at the chosen reads, and its pairs to the reward's."""
        none = torch.zeros(0)
        for column, objective in enumerate(self.objectives):
            assert isinstance(objective, BySource)
            targets = reads.labels.preferences[column]
            objective.part(source).update(
                reads.scores[chosen, column],
                reads.labels.values[chosen, column],
                *_pairs(targets, utilities[:, column], chosen),
            )
            self.reward.part(source).update(none, none, *_pairs(targets, rewards, chosen))

    def values(self) -> dict[str, Tensor]:
        """Return `objective/name` over all records, `objective/source/name`, and `ranking`."""
        found: dict[str, Tensor] = {}
        names = self.spec.response_names
        for name, metrics in zip((*names, REWARD), (*self.objectives, self.reward), strict=True):
            assert isinstance(metrics, BySource)
            found |= metrics.values(f"{name}/")
        values = {name: value for name, value in found.items() if not value.isnan()}
        ranking = [part for name in names for part in _ranking(values, name)]
        if ranking:
            values[RANKING] = torch.stack(ranking).mean()
        return values


MONITORED = (
    *(metric.name for metric in StepMetrics.metrics if metric.higher_is_better),
    RANKING,
    *(metric.name for metric in ResponseMetrics.metrics if metric.higher_is_better),
)
"""Validation metrics of which more is better, which a best checkpoint can be chosen by."""


class Meters(nn.ModuleList):
    """The meters of everything that a spec has heads for.

    Args:
        spec: The reward spec.
        facts: What there is to know of the items that are measured, the same on every rank.
        in_label_units: Response objectives whose scores are in the units of their ratings.
        dropped: What the model cannot read, the same on every rank; its chains count as wrong.
        is_counting: Whether this rank counts them.
    """

    def __init__(
        self,
        spec: RewardSpec,
        facts: Facts,
        in_label_units: Sequence[str],
        dropped: Iterable[object] = (),
        *,
        is_counting: bool = True,
    ) -> None:
        meters: list[nn.Module] = []
        if spec.step_heads:
            column = spec.step_names.index(spec.chain_reward)
            lost = [unit for unit in dropped if isinstance(unit, Chain)]
            sources = facts.sources(chains=True) | {chain.source for chain in lost}
            taken = (*spec.response_names, REWARD)
            steps = StepMeters(spec.chain_reward, column, sources, taken)
            steps.count_dropped(lost if is_counting else ())
            meters.append(steps)
        if spec.response_heads:
            meters.append(ResponseMeters(spec, facts.sources(chains=False), in_label_units))
        super().__init__(meters)

    def count(self, items: Sequence[LabeledItem], reads: Reads) -> None:
        """Add a micro-batch."""
        for meters in self:
            meters.count(items, reads)  # type: ignore[operator]

    def values(self) -> dict[str, Tensor]:
        """Return the metrics over all ranks by name."""
        return {name: value for meters in self for name, value in meters.values().items()}  # type: ignore[operator]


def _ranking(values: Mapping[str, Tensor], objective: str) -> list[Tensor]:
    pairs, auroc, spearman = (
        values.get(f"{objective}/{metric.name}") for metric in (PAIR_ACCURACY_HALF, AUROC, SPEARMAN)
    )
    if auroc is None and spearman is not None:
        auroc = (1 + spearman) / 2
    return [part for part in (pairs, auroc) if part is not None]


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
