"""`ProcessRewardTask`: the Lightning module that trains process reward models."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import lightning as L
import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.optim import AdamW

from prm.aggregation.steps import named_aggregation
from prm.data.batches import MicroBatch, OptimizerBatch
from prm.data.tokenize import TreeBuilder
from prm.errors import ConfigError
from prm.losses.language import LanguageModelLoss
from prm.models.heads import HeadKind
from prm.models.lora import LoRA
from prm.models.reward_model import ModelOutput, ProcessRewardModel
from prm.models.sources import BackboneSource
from prm.spec import Objective, RewardSpec, StepFormat, Template
from prm.training import snapshot
from prm.training.distributed import clip_gradients, gradient_sync, shard, whole
from prm.training.meters import StepMeters
from prm.training.objectives import BatchLoss, StepObjective
from prm.training.optim import Schedule, parameter_groups

if TYPE_CHECKING:
    from prm.data.datamodules import ChainDataModule


@dataclass(slots=True)
class ReadLogits:
    """Step log-odds of some chains, as evaluation and prediction steps return them.

    Args:
        records: Index of each chain in its data set.
        chain: Which of these chains a read belongs to, shape `[read]`.
        step: Index of the step in its chain, shape `[read]`.
        logits: Log-odds, shape `[read, objective]`, float32, on the CPU.
    """

    records: tuple[int, ...]
    chain: Tensor
    step: Tensor
    logits: Tensor


class ProcessRewardTask(L.LightningModule):
    """Trains a `ProcessRewardModel` on labeled chains.

    One call of `training_step` is one optimizer step: the micro-batches of the batch are run one
    after the other, their losses divided by the labels of the whole batch over all ranks. The same
    batch gives the same update whatever the token budget and the number of ranks.

    Args:
        backbone: Where model and tokenizer come from.
        objectives: Step objectives; one, correctness with binary cross-entropy, if not given.
        reward_objective: The objective whose aggregated score is the reward; needed with several.
        template: How the prompt becomes tokens.
        step_format: How steps become tokens.
        aggregation: Step aggregation stored with the model, by short name.
        max_length: Most tokens of a chain; the model's position limit is checked against it.
        on_too_long: See `RewardSpec`.
        on_long_prompt: See `RewardSpec`.
        head: Kind of the heads.
        language_model: Next-token regularizer on the same forward pass. Its output embeddings are
            the input embeddings; those of a pretrained model that has its own stay as they are.
        lora: Train low-rank adapters instead of the backbone's weights.
        freeze_backbone: Train the heads only.
        gradient_checkpointing: Recompute activations in the backward pass.
        optimizer: Optimizer, called with parameter groups.
        lr: Peak learning rate of the backbone.
        head_lr_factor: Factor of the heads' learning rate.
        weight_decay: Weight decay of matrices.
        schedule: Learning-rate schedule.
        gradient_clip: Largest norm of the gradient; `None` for no limit.
    """

    def __init__(
        self,
        backbone: BackboneSource,
        objectives: list[StepObjective] | None = None,
        reward_objective: str = "",
        template: Template = Template(),  # noqa: B008
        step_format: StepFormat = StepFormat(),  # noqa: B008
        aggregation: str | dict[str, Any] = "min",
        max_length: int = 4096,
        on_too_long: Literal["truncate", "drop", "error"] = "truncate",
        on_long_prompt: Literal["drop", "cut_left"] = "drop",
        head: HeadKind = "linear",
        language_model: LanguageModelLoss | None = None,
        lora: LoRA | None = None,
        freeze_backbone: bool = False,
        gradient_checkpointing: bool = False,
        optimizer: OptimizerCallable = AdamW,
        lr: float = 1e-5,
        head_lr_factor: float = 1.0,
        weight_decay: float = 0.0,
        schedule: Schedule = Schedule(),  # noqa: B008
        gradient_clip: float | None = 1.0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.source = backbone
        self.objectives = objectives or [StepObjective()]
        self.spec = RewardSpec(
            template=template,
            step_format=step_format,
            objectives=tuple(Objective(o.name, o.loss.readout) for o in self.objectives),
            reward_objective=reward_objective,
            step_aggregation=named_aggregation(aggregation),
            max_length=max_length,
            on_too_long=on_too_long,
            on_long_prompt=on_long_prompt,
        )
        self.head = head
        self.language_model = language_model
        self.lora = lora
        self.freeze_backbone = freeze_backbone
        self.gradient_checkpointing = gradient_checkpointing
        self.optimizer = optimizer
        self.lr = lr
        self.head_lr_factor = head_lr_factor
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.gradient_clip = gradient_clip
        self.model: ProcessRewardModel | None = None
        self.language_head: torch.nn.Parameter | None = None
        self.loss = BatchLoss(self.objectives, language_model, self.spec)
        self.meters: StepMeters | None = None
        self._check_options()

    @property
    def builder(self) -> TreeBuilder:
        """The tree builder of the model."""
        return self.reward_model.builder

    @property
    def objective_names(self) -> tuple[str, ...]:
        """Names of the objectives, in column order."""
        return tuple(objective.name for objective in self.spec.objectives)

    @property
    def reward_model(self) -> ProcessRewardModel:
        """The model.

        Raises:
            ConfigError: It is not built yet.
        """
        if self.model is None:
            raise ConfigError(
                "the model is not built yet",
                fix="A backbone from scratch needs training data or a checkpoint (--ckpt_path)",
            )
        return self.model

    def configure_model(self) -> None:
        """Build the model, once; a from-scratch tokenizer is trained on the training data."""
        if self.model is not None or not self._can_build():
            return
        texts: Iterator[str] = iter(())
        if self.source.needs_texts:
            texts = self._data.texts()
        tokenizer = self.source.tokenizer(texts)
        self.build(snapshot.same_on_all_ranks(tokenizer, self.trainer.strategy))
        if isinstance(self.trainer.strategy, ModelParallelStrategy):
            shard(self.reward_model, self.trainer.strategy.device_mesh["data_parallel"])

    def build(self, tokenizer: Any) -> None:
        """Build the model around a tokenizer."""
        stock = self.source.model(tokenizer)
        limit = getattr(stock.config.get_text_config(), "max_position_embeddings", None)
        if limit is not None and self.spec.max_length > limit:
            raise ConfigError(
                "max_length is over the backbone's position limit",
                expected=f"at most {limit}",
                got=self.spec.max_length,
                fix="Lower model.max_length",
            )
        if self.gradient_checkpointing:
            _checkpoint_activations(stock)
        self.model = ProcessRewardModel(stock, tokenizer, self.spec, self.head).train()
        self.spec = self.model.spec
        if self.freeze_backbone:
            self.model.backbone.requires_grad_(False)
        if self.lora is not None:
            self.lora.apply(self.model)
        if self.language_model is not None:
            self.language_head = _frozen(self.source.language_head(tokenizer))

    def rebuilt(self, state: dict[str, Tensor]) -> ProcessRewardModel:
        """Return a plain copy of the model on the CPU with the weights of a task's state."""
        twin = copy.copy(self)
        twin._modules = dict(self._modules)
        twin.model = None
        twin.build(self.reward_model.tokenizer)
        model = twin.reward_model
        model.load_state_dict(
            {
                name.removeprefix("model."): value
                for name, value in state.items()
                if name.startswith("model.")
            }
        )
        return model

    def setup(self, stage: str) -> None:
        """Fit what losses need to know about the training labels."""
        if stage != "fit":
            return
        for objective in self.objectives:
            labels = [
                float("nan") if value is None else value
                for chain in self._data.training_chains()
                for value in chain.labels.get(objective.name, ())
            ]
            if not any(value == value for value in labels):
                raise ConfigError(
                    f"no training chain has a label of objective {objective.name!r}",
                    fix="Name the objectives as the chains' labels are named",
                )
            objective.loss.fit_balance(torch.tensor(labels))

    def forward(self, batch: MicroBatch) -> ModelOutput:
        """Run the model on a micro-batch."""
        output: ModelOutput = self.reward_model(batch.trees)
        return output

    def training_step(self, batch: OptimizerBatch, batch_idx: int) -> None:
        """Take one optimizer step."""
        torch.manual_seed(self.global_step)  # a resumed run draws what the run would have drawn
        optimizer: Any = self.optimizers()
        totals = self.loss.totals(batch.targets)
        optimizer.zero_grad()
        sums = dict.fromkeys(totals, torch.zeros((), device=self.device))
        last = len(batch.micro_batches) - 1
        for index, micro_batch in enumerate(batch.micro_batches):
            with gradient_sync(self.trainer.strategy, self.reward_model, index == last):
                losses = self.loss.sums(micro_batch, self(micro_batch), self._output_embeddings())
                self.manual_backward(self.loss.mean(losses, totals) * self.trainer.world_size)
            sums = {name: sums[name] + loss.detach() for name, loss in losses.items()}
        norm = clip_gradients(self.parameters(), self.gradient_clip)
        optimizer.step()
        self._log_step(batch, sums, totals, norm)
        scheduler: Any = self.lr_schedulers()
        scheduler.step()

    def validation_step(  # type: ignore[override]
        self, batch: MicroBatch, batch_idx: int
    ) -> ReadLogits:
        """Score a micro-batch and count it in the validation metrics."""
        return self._evaluate(batch, "validation")

    def test_step(self, batch: MicroBatch, batch_idx: int) -> ReadLogits:  # type: ignore[override]
        """Score a micro-batch and count it in the test metrics."""
        return self._evaluate(batch, "test")

    def predict_step(self, batch: MicroBatch, batch_idx: int) -> ReadLogits:
        """Score a micro-batch."""
        return self._reads(batch, self.reward_model.step_logits(self(batch).columns))

    def on_validation_epoch_start(self) -> None:
        """Start the validation metrics anew."""
        self._start_meters("validation")

    def on_test_epoch_start(self) -> None:
        """Start the test metrics anew."""
        self._start_meters("test")

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics, per source and over all."""
        self._log_meters("val")

    def on_test_epoch_end(self) -> None:
        """Log the test metrics, per source and over all."""
        self._log_meters("test")

    def configure_optimizers(self) -> Any:
        """Return optimizer and schedule."""
        model = self.reward_model
        groups = parameter_groups(
            model.backbone, model.heads, self.lr, self.head_lr_factor, self.weight_decay
        )
        optimizer = self.optimizer(groups)
        num_steps = int(self.trainer.estimated_stepping_batches)
        return {
            "optimizer": optimizer,
            "lr_scheduler": self.schedule.scheduler(optimizer, num_steps),
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the spec and the tokenizer, as text, beside the weights."""
        checkpoint["prm"] = snapshot.take(self.reward_model)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build the model around the checkpoint's tokenizer if it is not built that way."""
        tokenizer, spec = snapshot.restore(checkpoint)
        if self.model is None or self.model.spec.tokenizer != spec.tokenizer:
            self.model = None
            self.build(tokenizer)
        snapshot.check_same_contract(self.spec, spec)
        if "state_dict" in checkpoint:
            snapshot.check_same_shapes(self.state_dict(), checkpoint["state_dict"])

    def _check_options(self) -> None:
        if self.lora is not None and self.freeze_backbone:
            raise ConfigError("lora and freeze_backbone exclude each other")
        if self.language_model is not None and self.freeze_backbone:
            raise ConfigError("language_model has no effect on a frozen backbone")

    def _can_build(self) -> bool:
        return not self.source.needs_texts or self.trainer.state.fn == "fit"

    @property
    def _data(self) -> ChainDataModule:
        data: Any = getattr(self.trainer, "datamodule", None)
        if data is None:
            raise ConfigError("ProcessRewardTask needs a ChainDataModule")
        return data  # type: ignore[no-any-return]

    @property
    def _reward_column(self) -> int:
        return self.objective_names.index(self.spec.reward_objective)

    def _output_embeddings(self) -> Tensor | None:
        if self.language_model is None:
            return None
        weight: Any = self.language_head
        if weight is None:
            weight = self.reward_model.backbone.model.get_input_embeddings().weight
        return whole(weight)

    def _log_step(
        self,
        batch: OptimizerBatch,
        sums: dict[str, Tensor],
        totals: dict[str, Tensor],
        norm: Tensor,
    ) -> None:
        means = {
            f"train/loss_{name}" if len(sums) > 1 else "train/loss": total
            / totals[name].clamp(1e-8)
            for name, total in sums.items()
        }
        if len(sums) > 1:
            means["train/loss"] = self.loss.mean(sums, totals)
        for name, value in means.items():
            self.log(name, value, prog_bar=name == "train/loss", sync_dist=True, reduce_fx="sum")
        tokens = sum(part.trees.num_tokens for part in batch.micro_batches if part.records)
        self.log("train/grad_norm", norm)
        self.log("train/lr", self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]
        self.log("train/tokens", float(tokens), sync_dist=True, reduce_fx="sum")

    def _reads(self, batch: MicroBatch, logits: Tensor) -> ReadLogits:
        return ReadLogits(
            batch.records,
            batch.targets.chain.cpu(),
            batch.targets.step.cpu(),
            logits.detach().float().cpu(),
        )

    def _evaluate(self, batch: MicroBatch, part: str) -> ReadLogits:
        reads = self._reads(batch, self.reward_model.step_logits(self(batch).columns))
        assert self.meters is not None
        probabilities = reads.logits[:, self._reward_column].sigmoid()
        for position, record in enumerate(reads.records):
            chosen = reads.chain == position
            chain = self._data.labeled(part)[record].chain
            self.meters.count(chain, reads.step[chosen], probabilities[chosen])
        return reads

    def _start_meters(self, part: str) -> None:
        sources = [item.chain.source for item in self._data.labeled(part)]
        self.meters = StepMeters(self.spec.reward_objective, sources).to(self.device)

    def _log_meters(self, prefix: str) -> None:
        assert self.meters is not None
        for name, value in self.meters.values().items():
            shown = name in ("step_auroc", "processbench_f1")
            self.log(f"{prefix}/{name}", value, prog_bar=shown, rank_zero_only=True)
        self.meters = None


def _checkpoint_activations(stock: Any) -> None:
    """Turn it on by its present name or by the one it had before transformers 5.20."""
    name = "activation_checkpointing_enable"
    enable = getattr(stock, name, None) or stock.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def _frozen(weight: torch.nn.Parameter | None) -> torch.nn.Parameter | None:
    if weight is not None:
        weight.requires_grad_(False)
    return weight
