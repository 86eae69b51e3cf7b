r"""Losses of process reward models: step labels against what a head says at the read positions.

A loss is two pure pieces over the reads of any number of chains, so that the sum over micro-batches
and ranks equals the whole optimizer batch:

- `weights(targets)`: how much each read counts, from labels alone (0 where unlabeled);
- `per_step(columns, targets)`: the loss of each read, from the head's output columns.

The loss of an optimizer batch is `sum(weights * per_step) / sum(weights)`, both sums over the whole
batch; it is 0 when nothing is labeled. All losses are finite for any finite input (tested at 1e4)
and are computed in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from prm.errors import ConfigError
from prm.losses.checks import check_class_weight, check_columns, check_smoothing, class_totals

Readout = Literal["sigmoid", "softmax"]


@dataclass(frozen=True, slots=True)
class StepTargets:
    """Labels of one objective at the reads of a batch; all fields have shape `[read]`.

    Args:
        labels: Probability in [0, 1] that the step is correct; NaN where unlabeled. float32.
        chain: Which chain of the batch a read belongs to; reads of a chain are adjacent. int64.
    """

    labels: Tensor
    chain: Tensor

    @property
    def labeled(self) -> Tensor:
        """Which reads have a label, shape `[read]`, bool."""
        return ~self.labels.isnan()


class StepLoss:
    """Base of the process losses.

    Args:
        step_weighting: `step`: every labeled step counts the same. `chain`: every chain counts the
            same, shared evenly by its labeled steps.
        error_weight: How much a wrong step (label 0) counts relative to a correct one; a soft label
            is weighted in between. `balanced` makes both classes count the same over the training
            set: the ratio of correct to wrong labels is filled in before training.

    Attributes:
        readout: How columns become a probability: one column through a sigmoid, or two through a
            softmax.
    """

    readout: ClassVar[Readout] = "sigmoid"

    def __init__(
        self,
        step_weighting: Literal["step", "chain"] = "step",
        error_weight: float | Literal["balanced"] = 1.0,
    ) -> None:
        if step_weighting not in ("step", "chain"):
            raise ConfigError(
                "step_weighting is wrong", expected="'step' or 'chain'", got=step_weighting
            )
        check_class_weight("error_weight", error_weight)
        self.step_weighting = step_weighting
        self.error_weight = error_weight

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({arguments})"

    @property
    def num_columns(self) -> int:
        """How many columns the head needs."""
        return num_columns(self.readout)

    def fit_balance(self, labels: Tensor) -> None:
        """Replace `error_weight="balanced"` by the ratio of correct to wrong in `labels` `[step]`.

        Raises:
            ConfigError: One of the classes does not occur.
        """
        if self.error_weight == "balanced":
            classes = ("correct", "wrong")
            correct, wrong = class_totals("error_weight", labels, "labels", classes)
            self.error_weight = correct / wrong

    def weights(self, targets: StepTargets) -> Tensor:
        """Return how much each read counts, shape `[read]`, 0 where unlabeled."""
        if self.error_weight == "balanced":
            raise ConfigError(
                "error_weight 'balanced' was not fitted", fix="Call fit_balance before training"
            )
        labels = targets.labels.nan_to_num(0.0)
        weights = labels + (1 - labels) * float(self.error_weight)
        weights = torch.where(targets.labeled, weights, 0.0)
        if self.step_weighting == "chain":
            return _share(weights, targets.labeled, targets.chain)
        return weights

    def per_step(self, columns: Tensor, targets: StepTargets) -> Tensor:
        """Return the loss of each read, shape `[read]`; unlabeled reads may hold any number.

        Args:
            columns: Head output, shape `[read, column]`, float32.
            targets: Labels of the same reads.

        Raises:
            ConfigError: The number of columns does not fit.
        """
        check_columns(self, columns, self.num_columns)
        return self._losses(columns, targets)

    def _losses(self, columns: Tensor, targets: StepTargets) -> Tensor:
        """Return `per_step` of columns whose number fits; every loss has its own."""
        raise NotImplementedError

    def sum(self, columns: Tensor, targets: StepTargets) -> Tensor:
        """Return `sum(weights * per_step)`, a scalar; exactly 0 (with gradient 0) if unlabeled."""
        columns = torch.where(targets.labeled[:, None], columns.float(), 0.0)
        losses = self.per_step(columns, targets)
        weights = self.weights(targets)
        return torch.where(weights > 0, losses, 0.0).mul(weights).sum()


class BCE(StepLoss):
    r"""Binary cross-entropy against hard or soft labels.

    `-y log sigmoid(l) - (1 - y) log(1 - sigmoid(l))`, on one logit per step.

    Args:
        label_smoothing: Moves labels towards 1/2: `y (1 - s) + s / 2`, with s in [0, 1).
        step_weighting: See `StepLoss`.
        error_weight: See `StepLoss`.

    Example:
        >>> targets = StepTargets(torch.tensor([1.0, 0.0]), torch.tensor([0, 0]))
        >>> BCE().per_step(torch.zeros(2, 1), targets)
        tensor([0.6931, 0.6931])

    Source: Lightman et al. 2023 (hard labels); Wang et al. 2023, equation 4 (soft labels).
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        step_weighting: Literal["step", "chain"] = "step",
        error_weight: float | Literal["balanced"] = 1.0,
    ) -> None:
        super().__init__(step_weighting, error_weight)
        self.label_smoothing = check_smoothing(label_smoothing)

    def _smoothed(self, targets: StepTargets) -> Tensor:
        labels = targets.labels.nan_to_num(0.0)
        return labels * (1 - self.label_smoothing) + self.label_smoothing / 2

    def _losses(self, columns: Tensor, targets: StepTargets) -> Tensor:
        return functional.binary_cross_entropy_with_logits(
            columns[:, 0], self._smoothed(targets), reduction="none"
        )


class CrossEntropy(BCE):
    """`BCE` with two classes: cross-entropy on the columns (wrong, correct).

    The probability of a correct step is `softmax(columns)[1]`. This is the layout of most public
    process models (two-label token classification).

    Args:
        label_smoothing: Moves labels towards 1/2: `y (1 - s) + s / 2`, with s in [0, 1).
        step_weighting: See `StepLoss`.
        error_weight: See `StepLoss`.
    """

    readout = "softmax"

    def _losses(self, columns: Tensor, targets: StepTargets) -> Tensor:
        labels = self._smoothed(targets)
        return functional.cross_entropy(
            columns, torch.stack([1 - labels, labels], dim=-1), reduction="none"
        )


class MSE(StepLoss):
    """Squared error of the probability, the Brier score: `(sigmoid(l) - y)^2`.

    Its gradient vanishes for confidently wrong steps; it is meant for soft labels (Monte Carlo
    estimates), where cross-entropy over-weights the extremes.
    """

    def _losses(self, columns: Tensor, targets: StepTargets) -> Tensor:
        return (columns[:, 0].sigmoid() - targets.labels.nan_to_num(0.0)).square()


class QValueRanking(StepLoss):
    r"""Q-value ranking within a chain (process Q-value model, PQM).

    For the correct steps c_1 .. c_m of a chain, in order, the state c_0 before them with Q = 0,
    and the wrong steps W:

    `-(1/(m+1)) sum_t [ Q_{c_t} - log( sum_{q <= t} exp Q_{c_q} + sum_{w in W} exp(Q_w + zeta) ) ]`

    with t from 0 to m, computed with logsumexp throughout. Without a wrong step the term of t = 0
    says nothing and does not count. So the first state fixes the zero of Q, and a chain that is
    wrong from its first step has a loss. Labels of at least 0.5 are correct. `step_weighting` and
    `error_weight` do not apply: each chain counts 1.

    The authors' training code counts the current correct step twice from the second one on and
    adds 1e-5 to the sums: 2.2904 for the example, in place of 2.2195.

    Args:
        zeta: Margin by which wrong steps must lie below correct ones, at least 0.

    Example:
        >>> targets = StepTargets(torch.tensor([1.0, 1, 0]), torch.zeros(3).long())
        >>> QValueRanking().sum(torch.tensor([[1.0], [2.0], [-1.0]]), targets)
        tensor(2.2195)

    Source: Li and Li 2024, arXiv 2410.11287, equation 10 (zeta = 4 in the authors' code).
    """

    def __init__(self, zeta: float = 4.0) -> None:
        super().__init__()
        if not 0 <= zeta < float("inf"):
            raise ConfigError("zeta is wrong", expected="a number of at least 0", got=zeta)
        self.zeta = zeta

    def weights(self, targets: StepTargets) -> Tensor:
        correct, wrong = targets.labels >= 0.5, targets.labels < 0.5
        counted = torch.where(_per_chain(correct.float(), targets.chain) > 0, correct, wrong)
        return _share(counted.float(), counted, targets.chain)

    def _losses(self, columns: Tensor, targets: StepTargets) -> Tensor:
        values = columns[:, 0]
        losses = [
            self._chain(values[targets.chain == chain], targets.labels[targets.chain == chain])
            for chain in targets.chain.unique_consecutive().tolist()
        ]
        return torch.cat(losses) if losses else values

    def _chain(self, values: Tensor, labels: Tensor) -> Tensor:
        """Return a share of the chain's loss for each read that counts, whose mean is the loss."""
        correct, wrong = labels >= 0.5, labels < 0.5
        states = torch.cat([values.new_zeros(1), values[correct]])
        rivals = states.logcumsumexp(dim=0)
        if wrong.any():
            rivals = torch.logaddexp(rivals, (values[wrong] + self.zeta).logsumexp(dim=0))
        first, *_ = terms = rivals - states
        num_correct = len(terms) - 1
        if num_correct == 0:
            return torch.where(wrong, first, 0.0)
        shares = (num_correct * terms[1:] + first) / (num_correct + int(wrong.any()))
        return torch.zeros_like(values).masked_scatter(correct, shares)


def log_odds(columns: Tensor, readout: Readout) -> Tensor:
    """Return the log-odds of "correct", shape `[...]`, from head columns `[..., column]`.

    Example:
        >>> log_odds(torch.tensor([[0.5, 2.0]]), "softmax")
        tensor([1.5000])
    """
    columns = columns.float()
    return columns[..., 0] if readout == "sigmoid" else columns[..., 1] - columns[..., 0]


def num_columns(readout: Readout) -> int:
    """Return how many head columns a readout uses."""
    return 1 if readout == "sigmoid" else 2


def _share(weights: Tensor, counted: Tensor, chain: Tensor) -> Tensor:
    """Divide each weight by the number of counted reads of its chain."""
    return weights / _per_chain(counted.to(weights.dtype), chain).clamp(min=1.0)


def _per_chain(values: Tensor, chain: Tensor) -> Tensor:
    """Return for each read the sum of the values of its chain, shape `[read]`."""
    if chain.numel() == 0:
        return values
    sums = torch.zeros(int(chain.max()) + 1, dtype=values.dtype, device=values.device)
    return sums.index_add(0, chain, values)[chain]
