"""The loss of an optimizer batch, made of micro-batches: `sum_n w_n S_n / T_n`.

`S_n` is a named loss summed over micro-batches and ranks; `T_n`, how much it could sum over, comes
from the labels of the whole batch. So the loss does not depend on how the batch is cut. A part
gives the `S_n` (`sums`), `T_n` (`totals`) and `w_n` (`weights`) of one kind of labels, by name.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from prm.data.batches import MicroBatch, OptimizerBatch
from prm.data.items import LabeledItem
from prm.data.labels import Labels, ResponseLabels, StepLabels
from prm.errors import ConfigError, ModelError
from prm.losses.language import LanguageModelLoss, NextTokenLogits, next_token_loss
from prm.losses.preference import PreferenceTargets
from prm.losses.steps import StepTargets
from prm.losses.uncertainty import UncertaintyWeights
from prm.models.reward_model import ModelOutput
from prm.spec import ResponseHead, RewardSpec
from prm.training.objectives import ResponseObjective, StepObjective
from prm.trees.packing import PackedTrees
from prm.trees.prompts import place

LANGUAGE_MODEL = "language_model"
"""Name of the next-token loss among the losses."""


class BatchLoss(nn.Module):
    """The sum of all losses over an optimizer batch.

    Args:
        parts: Where the losses come from; their names differ.
        learn_weights: Learn one log-variance per loss in place of fixed equal weights; the factors
            of the losses still apply. See `UncertaintyWeights`.
    """

    def __init__(self, parts: Sequence[LossPart], learn_weights: bool = False) -> None:
        super().__init__()
        self.parts = parts
        self.learned = nn.ModuleList([part for part in parts if isinstance(part, nn.Module)])
        self.weights = {name: value for part in parts for name, value in part.weights.items()}
        self.uncertainty = UncertaintyWeights(list(self.weights)) if learn_weights else None

    def totals(self, labels: Labels) -> dict[str, Tensor]:
        """Return `T_n` by name, from the labels of the whole optimizer batch."""
        totals = {name: value for part in self.parts for name, value in part.totals(labels).items()}
        if all(total == 0 for total in totals.values()):
            warnings.warn("an optimizer batch without any label; its loss is 0", stacklevel=2)
        return totals

    def sums(
        self, batch: MicroBatch, output: ModelOutput, logits: NextTokenLogits | None
    ) -> dict[str, Tensor]:
        """Return a micro-batch's part of `S_n` by name.

        Args:
            batch: The micro-batch.
            output: What the model gives for it.
            logits: Makes next-token logits of states; needed with a language model.
        """
        return {
            name: value
            for part in self.parts
            for name, value in part.sums(batch, output, logits).items()
        }

    def mean(
        self, sums: dict[str, Tensor], totals: dict[str, Tensor], share: float = 1.0
    ) -> Tensor:
        """Return `sum_n w_n S_n / T_n`; a loss whose total is 0 adds 0.

        Args:
            sums: `S_n` by name, of the whole batch or of a part of it.
            totals: `T_n` by name.
            share: Which share of what does not depend on `S_n` (the penalty of learned weights)
                is added; the shares of all micro-batches and ranks sum to 1.
        """
        parts = [
            self._factor(name) * value / totals[name].clamp(min=1e-8)
            for name, value in sums.items()
        ]
        if self.uncertainty is not None:
            labeled = [name for name in sums if totals[name] > 0]
            parts.append(share * self.uncertainty.penalty(labeled))
        return torch.stack(parts).sum()

    def logged(
        self, sums: dict[str, Tensor], totals: dict[str, Tensor], share: float
    ) -> dict[str, Tensor]:
        """Return `S_n / T_n` under `loss_n`, and `mean` under `loss`; arguments as there.

        Called before the update, as learned weights are then those that the sums are weighted by.
        """
        means = {f"loss_{name}": total / totals[name].clamp(1e-8) for name, total in sums.items()}
        if len(means) == 1:
            return {"loss": next(iter(means.values()))}
        return means | {"loss": self.mean(sums, totals, share).detach()}

    def _factor(self, name: str) -> float | Tensor:
        if self.uncertainty is None:
            return self.weights[name]
        return self.weights[name] * self.uncertainty.factor(name)


class StepLosses:
    """The losses of step objectives."""

    def __init__(self, objectives: Sequence[StepObjective], spec: RewardSpec) -> None:
        self.objectives = objectives
        self.columns = spec.columns
        self.weights = {objective.name: objective.loss_weight for objective in objectives}

    def totals(self, labels: Labels) -> dict[str, Tensor]:
        return {
            objective.name: objective.loss.weights(_step_targets(labels.steps, index)).sum()
            for index, objective in enumerate(self.objectives)
        }

    def sums(
        self, batch: MicroBatch, output: ModelOutput, logits: NextTokenLogits | None
    ) -> dict[str, Tensor]:
        columns = output.columns[batch.labels.step_reads]
        return {
            objective.name: objective.loss.sum(
                columns[:, self.columns[objective.name]], _step_targets(batch.labels.steps, index)
            )
            for index, objective in enumerate(self.objectives)
        }


class ResponseLosses(nn.Module):
    """The losses of the objectives of whole responses: `name/preference` and `name/rating`."""

    def __init__(self, objectives: Sequence[ResponseObjective], spec: RewardSpec) -> None:
        super().__init__()
        self.objectives = nn.ModuleList(objectives)
        self.columns = spec.columns
        self.weights = {
            f"{objective.name}/{kind}": objective.loss_weight
            for objective in objectives
            for kind in ("preference", "rating")
            if getattr(objective, kind) is not None
        }

    def totals(self, labels: Labels) -> dict[str, Tensor]:
        return {
            name: loss.weights(arguments[-1]).sum()
            for name, _, loss, arguments in self._losses(labels.responses)
        }

    def sums(
        self, batch: MicroBatch, output: ModelOutput, logits: NextTokenLogits | None
    ) -> dict[str, Tensor]:
        read = output.columns[batch.labels.response_reads]
        return {
            name: loss.sum(read[:, self.columns[head.name]], head.readout, *arguments)
            for name, head, loss, arguments in self._losses(batch.labels.responses)
        }

    def _losses(
        self, labels: ResponseLabels
    ) -> Iterator[tuple[str, ResponseHead, Any, tuple[Any, ...]]]:
        """Yield name, head and loss, and what the loss takes besides, its targets last."""
        for index, objective in enumerate(self.objectives):
            assert isinstance(objective, ResponseObjective)
            name, head = objective.name, objective.spec
            if objective.preference is not None:
                compared = _oriented(labels.preferences[index], head.sign)
                yield f"{name}/preference", head, objective.preference, (head.sign, compared)
            if objective.rating is not None:
                yield f"{name}/rating", head, objective.rating, (labels.values[:, index],)


class LanguageLoss:
    """The next-token regularizer, on the texts of steps without their markers.

    Args:
        loss: Its options.
        spec: The reward spec, for the reward objective of chains.
    """

    def __init__(self, loss: LanguageModelLoss, spec: RewardSpec) -> None:
        self.loss = loss
        self.weights = {LANGUAGE_MODEL: loss.loss_weight}
        names = spec.step_names
        self.step_column = names.index(spec.chain_reward) if names else None
        self.num_markers = int(spec.marker is not None)

    def totals(self, labels: Labels) -> dict[str, Tensor]:
        selected, num_tokens = self._selected(labels)
        return {LANGUAGE_MODEL: num_tokens[selected].sum().float()}

    def sums(
        self, batch: MicroBatch, output: ModelOutput, logits: NextTokenLogits | None
    ) -> dict[str, Tensor]:
        """Sum the loss over the tokens of the selected reads; a filler has none."""
        assert logits is not None
        assert isinstance(batch.trees, PackedTrees)
        if output.states is None:
            raise ConfigError(
                "language_model needs a decoder", fix="Take it out, or use a causal backbone"
            )
        trees = batch.trees
        selected, _ = self._selected(batch.labels)
        if not batch.records:
            selected = torch.zeros_like(selected)
        in_read = trees.token_read >= 0
        tokens = torch.zeros_like(in_read)
        tokens[in_read] = selected[trees.token_read[in_read]]
        if self.num_markers:
            tokens[trees.reads[batch.labels.step_reads]] = False
        targets = tokens.nonzero().squeeze(-1)
        total = next_token_loss(
            output.states, logits, trees.input_ids[targets], trees.previous[targets]
        )
        return {LANGUAGE_MODEL: total}

    def _selected(self, labels: Labels) -> tuple[Tensor, Tensor]:
        """Return which reads count, and the tokens of each, both `[read]`."""
        steps, responses = labels.steps, labels.responses
        chosen = torch.zeros_like(steps.num_tokens, dtype=torch.bool)
        if self.step_column is not None:
            chosen = self.loss.selected_steps(steps.labels[:, self.step_column])
        order = torch.cat([labels.step_reads, labels.response_reads]).argsort()
        selected = torch.cat([chosen, self.loss.selected_responses(responses.preferred)])
        num_tokens = torch.cat([steps.num_tokens - self.num_markers, responses.num_tokens])
        return selected[order], num_tokens[order]


LossPart = StepLosses | ResponseLosses | LanguageLoss


def _step_targets(labels: StepLabels, index: int) -> StepTargets:
    return StepTargets(labels.labels[:, index], labels.chain)


def _oriented(targets: PreferenceTargets, sign: int) -> PreferenceTargets:
    """Return the targets with labels that say "acceptable": a high value is not, if minimized."""
    return targets if sign > 0 else replace(targets, label=1 - targets.label)


def not_finite(
    step: int,
    batch: OptimizerBatch,
    losses: Sequence[dict[str, Tensor]],
    items: Sequence[LabeledItem],
) -> ModelError:
    """Return the error that names what is not finite, and the records that it came from.

    Args:
        step: Number of the optimizer step.
        batch: This rank's share of the optimizer batch.
        losses: The sums of each micro-batch by name.
        items: The training items.
    """
    found = "finite losses and a gradient that is not"
    for micro_batch, sums in zip(batch.micro_batches, losses, strict=True):
        wrong = [name for name, loss in sums.items() if not loss.isfinite()]
        if wrong:
            records = [(record, items[record].records[0]) for record in micro_batch.records]
            places = [place(first) or f"unit {record}" for record, first in records]
            more = f" and {len(places) - 3} more" if len(places) > 3 else ""
            found = f"a loss of {', '.join(wrong)} on {'; '.join(places[:3])}{more}"
            break
    return ModelError(
        f"training stopped before optimizer step {step}: a number is not finite",
        got=found,
        fix="Nothing was updated or written. Look at the labels of these records, or lower "
        "model.lr; checkpoints/last.ckpt is from before",
    )
