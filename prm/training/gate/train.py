"""Gating: weights of the objectives that depend on the prompt, learned on a frozen model.

Hidden states of prompts and utilities of responses are computed once; what is trained is a small
perceptron on them.

Source: Wang et al. 2024 (arXiv 2406.12845), section 3.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import AdamW

from prm.aggregation.decorrelation import decorrelation_factors
from prm.aggregation.objectives import Gated
from prm.data.splits import split_by_group
from prm.errors import ConfigError, DataError
from prm.models.gate import Gate
from prm.models.reward_model import RewardModel
from prm.records import Comparison
from prm.training.gate.pairs import Pairs, read_pairs


@dataclass(frozen=True, slots=True)
class GateOptions:
    """How a gate is trained.

    Args:
        objective: Name of the comparisons to learn from: which response is better overall.
        against: Objective that the others are made independent of, such as length; `None` for none.
        held_out: Share of the prompts that are not trained on, in (0, 1): by one half of them
            training stops, the report is about the other.
        width: Width of the gate's hidden layer.
        temperature: Above 0; the higher, the closer the weights stay to equal.
        lr: Learning rate.
        weight_decay: Weight decay.
        batch_size: Pairs in one step.
        max_epochs: Most passes over the pairs.
        patience: Epochs without a better held-out loss after which training stops.
        max_tokens: Tokens in one forward pass of the model.
        seed: Seed of the held-out prompts, the first weights and the order of pairs.
    """

    objective: str = "overall"
    against: str | None = None
    held_out: float = 0.2
    width: int = 64
    temperature: float = 1.0
    lr: float = 1e-3
    weight_decay: float = 0.01
    batch_size: int = 256
    max_epochs: int = 100
    patience: int = 10
    max_tokens: int = 16384
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise ConfigError("held_out", expected="a share in (0, 1)", got=self.held_out)
        counts = ("width", "batch_size", "max_epochs", "patience", "max_tokens")
        for name in ("temperature", "lr", *counts):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(name, expected="a number above 0", got=getattr(self, name))
        for name in ("weight_decay", "seed"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(name, expected="a number of at least 0", got=getattr(self, name))


@dataclass(frozen=True, slots=True)
class GateReport:
    """What training a gate found.

    Accuracies are over pairs of prompts that neither trained the gate nor chose its epoch, ties
    counting half.

    Args:
        num_pairs: Pairs that were trained on.
        num_held_out: Pairs that the accuracies are over.
        num_dropped: Comparisons that do not fit the model, or rank nothing above anything.
        num_epochs: Epochs to the best held-out loss; 0 if no weights beat equal ones.
        accuracy_equal: Accuracy of equal weights.
        accuracy_gated: Accuracy of the gate.
        mean_gates: Objective to its mean weight over the prompts of these pairs.
        penalties: Objective to the factor of `against` that is taken out of it.
    """

    num_pairs: int
    num_held_out: int
    num_dropped: int
    num_epochs: int
    accuracy_equal: float
    accuracy_gated: float
    mean_gates: dict[str, float]
    penalties: dict[str, float]


OnProgress = Callable[[str, int, int], None]


def train_gate(
    model: RewardModel,
    comparisons: Iterable[Comparison],
    options: GateOptions = GateOptions(),
    on_progress: OnProgress = lambda _phase, _count, _total: None,
) -> GateReport:
    """Learn weights of the objectives from the prompt, and make them the model's aggregation.

    The reward of a response is `R = sum_k g_k(prompt) u'_k(response)`, and the gate minimizes
    `-log sigmoid(b (R_better - R_worse))` with a learned scale `b`, which the reward does not keep.
    Backbone and heads stay as they are.

    Args:
        model: A decoder with several response objectives; gets the gate and a `Gated` aggregation.
        comparisons: Which responses are better, all things considered.
        options: How to train.
        on_progress: Called with a phase, `read` or `train`, how much more of it is done, and how
            much there is at most.

    Raises:
        ConfigError: The model has one objective only, or `against` is not one of its.
        DataError: There are too few comparisons of the objective.
        ModelError: The model is an encoder.
    """
    names = model.spec.response_names
    if len(names) < 2:
        raise ConfigError("gates need several objectives", got=list(names) or "none")
    chosen = _chosen(comparisons, options.objective)
    half = options.held_out / 2
    parts = split_by_group(chosen, {CHOOSING: half, MEASURED: half}, options.seed)
    train, choosing, measured = (
        read_pairs(
            model,
            parts[part],
            options.max_tokens,
            lambda count: on_progress("read", count, len(chosen)),
        )
        for part in ("train", CHOOSING, MEASURED)
    )
    aggregation = Gated()
    if options.against is not None:
        factors = decorrelation_factors(train.utilities, names, options.against)
        aggregation = Gated(factors, options.against)
    task = _GateTask(train, choosing, aggregation, names, options)
    num_epochs = task.fit(on_progress)
    model.gate = task.best.to(model.device)
    model.spec = model.spec.with_(objective_aggregation=aggregation)
    used = sum(len(pairs.prompt.unique()) for pairs in (train, choosing, measured))
    return task.report(measured, len(chosen) - used, num_epochs)


CHOOSING, MEASURED = "choosing", "measured"
"""Names of the parts that training stops by, and that the report is about."""


def _chosen(comparisons: Iterable[Comparison], objective: str) -> list[Comparison]:
    found: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        found.setdefault(comparison.objective, []).append(comparison)
    if objective not in found:
        raise DataError(
            "there are no comparisons to learn from",
            expected=f"comparisons of objective {objective!r}",
            got=f"comparisons of {', '.join(map(repr, found)) or 'nothing'}",
            fix="Name the objective of the comparisons that say which response is better overall",
        )
    return found[objective]


class _GateTask:
    """The gate that is trained, the best one so far, and what they are trained on."""

    def __init__(
        self,
        train: Pairs,
        choosing: Pairs,
        aggregation: Gated,
        names: Sequence[str],
        options: GateOptions,
    ) -> None:
        self.train, self.choosing = train, choosing
        self.aggregation, self.names, self.options = aggregation, names, options
        self.generator = torch.Generator().manual_seed(options.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            self.gate = Gate(train.states.shape[1], len(names), options.width, options.temperature)
        self.gate.standardize(train.states)
        self.scale = nn.Parameter(torch.zeros(()))
        self.differences = train.differences(aggregation, names)
        self.unseen = choosing.differences(aggregation, names)
        self.best = copy.deepcopy(self.gate)

    def fit(self, on_progress: OnProgress) -> int:
        """Train until the loss of the choosing pairs has not fallen for a while.

        Returns:
            The best epoch.
        """
        groups: list[dict[str, Any]] = [
            {"params": [*self.gate.parameters()]},
            {"params": [self.scale], "weight_decay": 0.0},
        ]
        optimizer = AdamW(groups, lr=self.options.lr, weight_decay=self.options.weight_decay)
        best_loss, best_epoch = self._choosing_loss(), 0
        for epoch in range(1, self.options.max_epochs + 1):
            order = torch.randperm(len(self.train.prompt), generator=self.generator)
            for rows in order.split(self.options.batch_size):
                optimizer.zero_grad()
                self._loss(self.train, self.differences, rows).backward()
                optimizer.step()
            loss = self._choosing_loss()
            on_progress("train", 1, self.options.max_epochs)
            if loss < best_loss:
                self.best, best_loss, best_epoch = copy.deepcopy(self.gate), loss, epoch
            elif epoch - best_epoch >= self.options.patience:
                break
        self.best.eval().requires_grad_(False)
        return best_epoch

    def report(self, measured: Pairs, num_dropped: int, num_epochs: int) -> GateReport:
        """Compare the best gate with equal weights on pairs that nothing was chosen by."""
        gates = self.best(measured.states)
        equal = torch.full_like(gates, 1 / len(self.names))
        return GateReport(
            num_pairs=len(self.train.prompt),
            num_held_out=len(measured.prompt),
            num_dropped=num_dropped,
            num_epochs=num_epochs,
            accuracy_equal=self._accuracy(measured, equal),
            accuracy_gated=self._accuracy(measured, gates),
            mean_gates=dict(zip(self.names, gates.mean(dim=0).tolist(), strict=True)),
            penalties=self.aggregation.penalties or {},
        )

    @torch.no_grad()
    def _choosing_loss(self) -> float:
        every = torch.arange(len(self.choosing.prompt))
        return self._loss(self.choosing, self.unseen, every).item()

    def _loss(self, pairs: Pairs, differences: Tensor, rows: Tensor) -> Tensor:
        """Return the weighted mean of `-log sigmoid(exp(scale) g . (u_better - u_worse))`."""
        gates = self.gate(pairs.states[pairs.prompt[rows]])
        margins = self.scale.exp() * (gates * differences[rows]).sum(dim=-1)
        weights = pairs.weight[rows]
        return (weights * functional.softplus(-margins)).sum() / weights.sum()

    def _accuracy(self, pairs: Pairs, gates: Tensor) -> float:
        differences = pairs.differences(self.aggregation, self.names)
        margins = (gates[pairs.prompt] * differences).sum(dim=-1)
        won = (margins > 0).float() + 0.5 * (margins == 0).float()
        return ((won * pairs.weight).sum() / pairs.weight.sum()).item()
