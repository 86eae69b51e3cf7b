"""`RewardTask`: the Lightning module that trains reward models."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.optim import AdamW
from transformers import PreTrainedTokenizerBase

from prm.aggregation.objectives import ObjectiveAggregation
from prm.aggregation.steps import named_aggregation
from prm.data.batches import OptimizerBatch
from prm.data.items import LabeledItem
from prm.errors import ConfigError, ModelError
from prm.losses.language import LanguageModelLoss, NextTokenLogits
from prm.models.heads import HeadKind
from prm.models.language_head import LanguageHead
from prm.models.lora import LoRA
from prm.models.reward_model import RewardModel
from prm.models.sources import BackboneSource
from prm.models.structure import token_embeddings
from prm.spec import ResponseFormat, RewardSpec, Shaping, StepFormat, Template
from prm.training.build import Recipe
from prm.training.cache.states import StateCache
from prm.training.checkpoints import snapshot
from prm.training.distributed import (
    average_gradients,
    check_finite,
    clip_gradients,
    freeze_unused,
    gradient_sync,
    whole,
)
from prm.training.losses import (
    BatchLoss,
    LanguageLoss,
    LossPart,
    ResponseLosses,
    StepLosses,
    not_finite,
)
from prm.training.measured import MeasuredModule
from prm.training.objectives import (
    ResponseObjective,
    StepObjective,
    fit_response_losses,
    fit_step_losses,
)
from prm.training.optim import Schedule, check_rates, make_optimizer, parameter_groups
from prm.training.strategies import ShardedStrategy, ZeroStrategy, check_precision
from prm.trees.packing import Pack, pack


class RewardTask(MeasuredModule):
    """Trains a reward model on labeled records: of steps, of whole responses, or of both.

    Every objective has its own head and its own losses; a record supervises the objectives it has
    labels of, and no other. One call of `training_step` is one optimizer step: the micro-batches of
    the batch are run one after the other, their losses divided by the labels of the whole batch
    over all ranks. The same batch gives the same update whatever the token budget and the number of
    ranks.

    Args:
        backbone: Where model and tokenizer come from; a decoder, or for responses alone an encoder.
        steps: Objectives of steps.
        responses: Objectives of whole responses.
        chain_reward: The step objective whose aggregated score is a chain's reward; needed with
            several.
        step_aggregation: How a chain's steps become one score, by short name.
        objective_aggregation: How the objectives of a response become one reward; needed with
            several.
        shaping: What happens to an aggregated score before it is the reward; no loss reads it.
        template: How the prompt becomes tokens.
        step_format: How steps become tokens, and where they are read.
        response_format: How responses become tokens, and where they are read.
        max_length: Most tokens of a chain or response; the model's position limit is checked
            against it.
        on_too_long: See `RewardSpec`.
        on_long_prompt: See `RewardSpec`.
        head: Kind of the heads.
        learn_weights: Learn how much each loss counts, from how noisy it is. See
            `UncertaintyWeights`.
        language_model: Next-token regularizer on the same forward pass. Logits are those of the
            stock language model. Its output embeddings are the input embeddings; those of a
            pretrained model that has its own stay as they are.
        lora: Train low-rank adapters instead of the backbone's weights.
        freeze_backbone: Train the heads only. Steps are then read at their own last token, unless
            the tokenizer has the step marker already: a new token would stay without a meaning.
        state_cache: Folder that keeps the hidden states of a frozen backbone at the reads: each
            text runs through the backbone once, and never again for other labels, losses,
            objectives or seeds. `None` to run it in every epoch.
        gradient_checkpointing: Recompute activations in the backward pass.
        compile_layers: Compile the decoder layers: the first steps take longer, later ones less.
        optimizer: Optimizer, called with parameter groups.
        lr: Peak learning rate of the backbone.
        head_lr_factor: Factor of the heads' learning rate.
        weight_decay: Weight decay of matrices.
        schedule: Learning-rate schedule. Where the end of the run is not known (`max_epochs: -1`),
            its warmup, of which a share is one of an epoch, and then the peak.
        gradient_clip: Largest norm of the gradient; `None` for no limit.

    Raises:
        ConfigError: There is no objective, or options exclude each other.
        SpecError: Names repeat, or what several objectives need is missing.
    """

    def __init__(
        self,
        backbone: BackboneSource,
        steps: list[StepObjective] | None = None,
        responses: list[ResponseObjective] | None = None,
        chain_reward: str = "",
        step_aggregation: str | dict[str, Any] = "min",
        objective_aggregation: ObjectiveAggregation | None = None,
        shaping: Shaping = Shaping(),  # noqa: B008
        template: Template = Template(),  # noqa: B008
        step_format: StepFormat = StepFormat(),  # noqa: B008
        response_format: ResponseFormat = ResponseFormat(),  # noqa: B008
        max_length: int = 4096,
        on_too_long: Literal["truncate", "drop", "error"] = "truncate",
        on_long_prompt: Literal["drop", "cut_left"] = "drop",
        head: HeadKind = "linear",
        learn_weights: bool = False,
        language_model: LanguageModelLoss | None = None,
        lora: LoRA | None = None,
        freeze_backbone: bool = False,
        state_cache: Path | None = None,
        gradient_checkpointing: bool = False,
        compile_layers: bool = False,
        optimizer: OptimizerCallable = AdamW,
        lr: float = 1e-5,
        head_lr_factor: float = 1.0,
        weight_decay: float = 0.0,
        schedule: Schedule = Schedule(),  # noqa: B008
        gradient_clip: float | None = 1.0,
    ) -> None:
        super().__init__()
        check_rates(lr, head_lr_factor, weight_decay, gradient_clip)
        self.automatic_optimization = False
        self.steps, self.responses = steps or [], responses or []
        if not self.steps and not self.responses:
            raise ConfigError(
                "there is nothing to train",
                expected="one or more objectives",
                fix="Set model.steps, model.responses, or both",
            )
        self.spec = backbone.adapted(
            RewardSpec(
                template=template,
                step_format=step_format,
                response_format=response_format,
                step_heads=tuple(objective.spec for objective in self.steps),
                response_heads=tuple(objective.spec for objective in self.responses),
                chain_reward=chain_reward,
                step_aggregation=named_aggregation(step_aggregation),
                objective_aggregation=objective_aggregation,
                shaping=shaping,
                max_length=max_length,
                on_too_long=on_too_long,
                on_long_prompt=on_long_prompt,
            )
        )
        self.recipe = Recipe(
            backbone,
            head,
            lora,
            freeze_backbone,
            gradient_checkpointing,
            compile_layers,
            state_cache,
            language_model,
        )
        self.optimizer = optimizer
        self.lr = lr
        self.head_lr_factor = head_lr_factor
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.gradient_clip = gradient_clip
        _refuse_gates(self.spec)
        self.loss = BatchLoss(self._loss_parts(), learn_weights)
        self._states: StateCache | None = None
        self.language_head: LanguageHead | None = None

    def _loss_parts(self) -> list[LossPart]:
        parts: list[LossPart] = []
        if self.steps:
            parts.append(StepLosses(self.steps, self.spec))
        if self.responses:
            parts.append(ResponseLosses(self.responses, self.spec))
        if self.recipe.language_model is not None:
            parts.append(LanguageLoss(self.recipe.language_model, self.spec))
        return parts

    @property
    def monitored(self) -> str:
        """Validation metric that the best checkpoint is chosen by, if the user names none."""
        return "val/ranking" if self.responses else "val/step_auroc"

    def configure_model(self) -> None:
        """Build the model, once; a from-scratch tokenizer is trained on the training data.

        Raises:
            ConfigError: The trainer's precision is not supported.
        """
        check_precision(self.trainer.precision)
        if self.model is not None:
            return
        strategy = self.trainer.strategy
        if isinstance(strategy, ShardedStrategy):
            self._build_sharded(strategy)
        elif not self.recipe.source.needs_texts or self.trainer.state.fn == "fit":
            self.build(self._new_tokenizer())

    def _new_tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the tokenizer, the same on all ranks."""
        source = self.recipe.source
        tokenizer = source.tokenizer(self.data.texts() if source.needs_texts else ())
        return snapshot.same_on_all_ranks(tokenizer, self.trainer.strategy)

    def _build_sharded(self, strategy: ShardedStrategy) -> None:
        """Build the model on rank 0 and its shape alone on the others, and share it out."""
        if strategy.checkpoint is None:
            tokenizer = self._new_tokenizer()
        else:  # it is loaded into shards, so they must have its shape
            tokenizer, _ = snapshot.restore(snapshot.head(strategy.checkpoint))
        on_meta = torch.device("meta")
        with contextlib.nullcontext() if strategy.is_global_zero else on_meta:
            model = self.recipe.model(tokenizer, self.spec)
        self._take(model)
        strategy.spread(model)

    def build(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Build the model around a tokenizer."""
        self._take(self.recipe.model(tokenizer, self.spec))

    def _take(self, model: RewardModel) -> None:
        """Train this model, on the data of the run if there are any."""
        self.model, self.spec = model, model.spec
        if self._trainer is not None and self.trainer.state.fn == "fit":
            freeze_unused(model.backbone, self.trainer.strategy)
        self.language_head = self.recipe.language_head(model)
        if self._trainer is not None and self._has_data:
            self.data.attach(model.builder, self.packer)

    def rebuilt(self, state: dict[str, Tensor]) -> RewardModel:
        """Return a plain copy of the model on the CPU with the weights of a task's state."""
        model = self.recipe.model(self.reward_model.tokenizer, self.spec)
        prefix = "model."
        weights = {
            name.removeprefix(prefix): value
            for name, value in state.items()
            if name.startswith(prefix)
        }
        model.load_state_dict(weights)
        return model

    def packer(self, items: Sequence[LabeledItem]) -> Pack:
        """Return what makes the model's input of these items: tokens, or cached states."""
        folder = self.recipe.state_cache
        if folder is None:
            return pack
        if self._states is None:
            self._states = StateCache(folder, self.reward_model, self.trainer, self.data.max_tokens)
        return self._states.packer(items)

    def training_step(self, batch: OptimizerBatch, batch_idx: int) -> None:
        """Take one optimizer step."""
        torch.manual_seed(self.global_step)  # a resumed run draws what the run would have drawn
        optimizer: Any = self.optimizers()
        totals = self.loss.totals(batch.labels)
        optimizer.zero_grad()
        sums = dict.fromkeys(totals, torch.zeros((), device=self.device))
        parts: list[dict[str, Tensor]] = []
        last = len(batch.micro_batches) - 1
        share = 1 / (self.trainer.world_size * len(batch.micro_batches))
        for index, micro_batch in enumerate(batch.micro_batches):
            with gradient_sync(self.trainer.strategy, index == last):
                losses = self.loss.sums(micro_batch, self(micro_batch), self._logits())
                self.manual_backward(
                    self.loss.mean(losses, totals, share) * self.trainer.world_size
                )
            parts.append({name: loss.detach() for name, loss in losses.items()})
            sums = {name: sums[name] + loss for name, loss in parts[-1].items()}
        means = self.loss.logged(sums, totals, 1 / self.trainer.world_size)
        norm = self._update(
            optimizer, lambda: not_finite(self.global_step, batch, parts, self.data.items("train"))
        )
        self._log_step(batch, means, norm)
        scheduler: Any = self.lr_schedulers()
        scheduler.step()

    def _update(self, optimizer: Any, refusal: Callable[[], ModelError]) -> Tensor:
        """Clip the gradients and take the step; return their norm before.

        Raises:
            ModelError: A gradient is not finite, on all ranks; nothing was updated. (DeepSpeed
                clips within its step, so there the weights are lost, and nothing is written.)
        """
        strategy = self.trainer.strategy
        if isinstance(strategy, ZeroStrategy):  # DeepSpeed holds the gradients, and clips them
            optimizer.step()
            norm = strategy.gradient_norm()
            if not norm.isfinite():
                raise refusal()
            return norm
        if isinstance(strategy, ShardedStrategy):
            average_gradients(self.loss.parameters())
        norm = clip_gradients(self.parameters(), self.gradient_clip)
        if not norm.isfinite():
            raise refusal()
        optimizer.step()
        return norm

    def configure_optimizers(self) -> Any:
        """Return optimizer and schedule.

        Raises:
            ConfigError: The optimizer cannot be made.
        """
        model = self.reward_model
        groups = parameter_groups(
            model.backbone,
            [model.heads, self.loss],
            self.lr,
            self.head_lr_factor,
            self.weight_decay,
        )
        optimizer = make_optimizer(self.optimizer, groups)
        schedule, num_steps = self.schedule, self.trainer.estimated_stepping_batches
        if num_steps == math.inf:
            self.trainer.fit_loop.setup_data()
            schedule, num_steps = schedule.without_end(), self.trainer.num_training_batches
            rank_zero_info(
                "The end of the run is not known: the learning rate stays at its peak after "
                f"{math.ceil(schedule.warmup_steps(int(num_steps)))} steps of warmup"
            )
        return {
            "optimizer": optimizer,
            "lr_scheduler": schedule.scheduler(optimizer, int(num_steps)),
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the spec and the tokenizer, as text, and the metrics beside the weights.

        Raises:
            ModelError: A weight is not finite, on this rank: a file of them is of no use.
        """
        check_finite(self)
        metrics = self.validation_metrics()
        checkpoint["prm"] = {**snapshot.take(self.reward_model), "metrics": metrics}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build the model around the checkpoint's tokenizer if it is not built that way."""
        self._states = None
        tokenizer, spec = snapshot.restore(checkpoint)
        if self.model is None or self.model.spec.tokenizer != spec.tokenizer:
            self.model = None
            self.build(tokenizer)
        snapshot.check_same_contract(self.spec, spec)
        self.spec = self.reward_model.spec = self.spec.with_(normalizers=spec.normalizers)
        if "state_dict" in checkpoint:
            snapshot.check_same_shapes(self.state_dict(), checkpoint["state_dict"])

    def setup(self, stage: str) -> None:
        """Show the training records to the losses."""
        if stage == "fit":
            records = self.data.training_records()
            fit_step_losses(self.steps, records)
            fit_response_losses(self.responses, records)

    def _logits(self) -> NextTokenLogits | None:
        head = self.language_head
        if head is None:
            return None
        embeddings = token_embeddings(self.reward_model.backbone.model)
        if head.is_tied:
            embeddings = whole(embeddings)
        return lambda states: head(states, embeddings)

    def _log_step(self, batch: OptimizerBatch, means: dict[str, Tensor], norm: Tensor) -> None:
        for name, value in means.items():
            self.log(
                f"train/{name}", value, prog_bar=name == "loss", sync_dist=True, reduce_fx="sum"
            )
        tokens = sum(part.trees.num_tokens for part in batch.micro_batches if part.records)
        self.log("train/grad_norm", norm)
        self.log("train/lr", self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]
        self.log("train/tokens", float(tokens), sync_dist=True, reduce_fx="sum")


def _refuse_gates(spec: RewardSpec) -> None:
    aggregation = spec.objective_aggregation
    if aggregation is not None and aggregation.needs_gates:
        raise ConfigError(
            f"{aggregation.name} needs a gate, which is learned on trained heads",
            fix="Train with another aggregation, then run `prm gate`",
        )
