"""FSDP2 and DeepSpeed, with checkpoints that any number of ranks and any strategy can load."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DeepSpeedStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed import default_pg_timeout
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from prm.errors import ConfigError, ModelError
from prm.models.reward_model import RewardModel
from prm.models.structure import decoder_layers
from prm.training.checkpoints import sharded, snapshot
from prm.training.checkpoints.sharded import by_index, by_name


def check_precision(precision: object) -> None:
    """Refuse precisions in which a task does not train exactly.

    float16 scales gradients before they are clipped; the `true` ones make the backbone what its own
    `dtype` says already.

    Args:
        precision: As Lightning names it; `None` for its default.

    Raises:
        ConfigError: It is none of those of float32 and bfloat16 autocast.
    """
    if precision not in (None, 32, "32", "32-true", "bf16", "bf16-mixed"):
        raise ConfigError(
            f"trainer.precision {precision} is not supported",
            fix="Use bf16-mixed, or 32-true with a backbone whose dtype is bfloat16",
        )


def gathered(task: L.LightningModule) -> dict[str, Any]:
    """Return the whole state of a task on rank 0; every rank must call it."""
    strategy = task.trainer.strategy
    if isinstance(strategy, ShardedStrategy):
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return get_model_state_dict(task, options=options)
    state = strategy.lightning_module_state_dict()
    return {name: value.detach().cpu() for name, value in state.items()}


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2: weights, gradients and optimizer states sharded over all ranks.

    Rank 0 alone builds or reads the model, into the memory of its machine; the others get their
    shards from it.

    Args:
        checkpoints: `whole`: one file, gathered on rank 0. `sharded`: a folder to which every rank
            writes its part. Either is resumed on any number of ranks, sharded or not.
        compute_dtype: Type that the backbone's weights are gathered and used in. With `bfloat16`
            the shards stay float32, gradients are summed in float32, and heads are float32.
        timeout: How long ranks wait for each other.
    """

    def __init__(
        self,
        checkpoints: Literal["whole", "sharded"] = "whole",
        compute_dtype: Literal["float32", "bfloat16"] | None = None,
        timeout: timedelta | None = default_pg_timeout,
    ) -> None:
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=checkpoints == "sharded",
            timeout=timeout,
        )
        self.compute_dtype = None if compute_dtype is None else getattr(torch, compute_dtype)
        self.checkpoint: str | None = None
        """What the run loads, which must be known before the model is sharded."""

    def setup_environment(self) -> None:
        """Use all ranks for data parallelism."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def spread(self, model: RewardModel) -> None:
        """Give every rank its shards of the model that rank 0 holds; others have its shape alone.

        Every decoder layer, the rest of the backbone and the heads are sharded. No rank but 0 ever
        holds the whole model, and that one in the memory of its machine.

        Raises:
            ModelError: Parameters are left unsharded, which would train ranks apart in silence.
        """
        state, buffers = model.state_dict(), dict(model.named_buffers())
        model.to("meta")
        mesh = self.device_mesh["data_parallel"]
        policy = MixedPrecisionPolicy(self.compute_dtype, reduce_dtype=torch.float32)
        for part in (*decoder_layers(model.backbone.model), model.backbone):
            fully_shard(part, mesh=mesh, mp_policy=policy)
        fully_shard(model.heads, mesh=mesh)
        fully_shard(model, mesh=mesh)
        left = [name for name, value in model.named_parameters() if not isinstance(value, DTensor)]
        if left:
            raise ModelError("parameters were not sharded", got=left[:5])
        model.to_empty(device=self.root_device)
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_model_state_dict(model, state if self.is_global_zero else {}, options=options)
        for name, buffer in model.named_buffers():
            if self.is_global_zero:
                buffer.copy_(buffers[name])
            dist.broadcast(buffer, 0)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return this rank's shards by parameter name, or on rank 0 the state of a single rank."""
        inner: Any = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        whole = not self._save_distributed_checkpoint
        options = StateDictOptions(full_state_dict=whole, cpu_offload=True)
        assert self.model is not None
        state: dict[str, Any] = get_optimizer_state_dict(self.model, inner, options=options)
        return by_index(state) if whole and self.is_global_zero else state

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint; every rank must call it."""
        path = Path(self.broadcast(filepath))
        if self._save_distributed_checkpoint:
            sharded.write(checkpoint, path)
        elif self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, path)

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load a checkpoint of either kind, and return it without its tensors."""
        path = Path(self.broadcast(checkpoint_path))
        assert self.model is not None
        if path.is_dir():
            stored = sharded.weight_shapes(path)
            snapshot.check_same_shapes(self.model.state_dict(), stored)
            return sharded.load(path, self.model, self.optimizers)
        checkpoint = snapshot.read(path)
        snapshot.check_same_shapes(self.model.state_dict(), checkpoint["state_dict"])
        self._load_whole(checkpoint)
        return checkpoint

    def _load_whole(self, checkpoint: dict[str, Any]) -> None:
        """Take this rank's shards out of whole tensors, which are mapped and not read at once."""
        assert self.model is not None
        options = StateDictOptions(full_state_dict=True)
        set_model_state_dict(self.model, checkpoint.pop("state_dict"), options=options)
        states: list[Mapping[str, Any]] = checkpoint.pop("optimizer_states", [])
        for optimizer, state in zip(self.optimizers, states, strict=False):
            groups: Any = get_optimizer_state_dict(self.model, optimizer)["param_groups"]
            named = by_name(state, groups)
            set_optimizer_state_dict(self.model, optimizer, optim_state_dict=named, options=options)


class ZeroStrategy(DeepSpeedStrategy):
    """DeepSpeed ZeRO; needs the extra `deepspeed`.

    Checkpoints are one file, gathered on rank 0, as a single rank writes it: DeepSpeed's own are
    pickles, and bound to the number of ranks. Every rank builds the whole model in the memory of
    its machine before it is sharded.

    Args:
        stage: What is sharded: 1 optimizer states, 2 gradients too, 3 weights too.
        offload_optimizer: Keep optimizer states in the memory of the machine, and step there.
    """

    def __init__(self, stage: Literal[1, 2, 3] = 2, offload_optimizer: bool = False) -> None:
        super().__init__(stage=stage, offload_optimizer=offload_optimizer)

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """Weights are loaded before DeepSpeed shards them."""
        return False

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Optimizer states are loaded after."""
        return True

    @contextmanager
    def model_sharded_context(self) -> Iterator[None]:
        """Build the model whole; DeepSpeed shards it in `setup`."""
        yield

    def setup(self, trainer: L.Trainer) -> None:
        """Let DeepSpeed clip the gradients, which it alone has whole, and autocast as Lightning."""
        task: Any = self.lightning_module
        assert isinstance(self.config, dict)
        self.config["gradient_clipping"] = task.gradient_clip or 0.0
        mixed = self.precision_plugin.precision == "bf16-mixed"
        self.config["bf16"] = {"enabled": False}
        self.config["torch_autocast"] = {"enabled": mixed, "dtype": "bfloat16"}
        super().setup(trainer)

    def gradient_norm(self) -> Tensor:
        """Return the norm of the last step's gradient before clipping."""
        engine: Any = self.deepspeed_engine
        return torch.as_tensor(float(engine.get_global_grad_norm()), device=self.root_device)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the whole weights on rank 0, and nothing on other ranks."""
        from deepspeed.runtime.zero import GatheredParameters

        assert self.lightning_module is not None
        module = self.lightning_module
        state = {}
        for name, value in module.state_dict(keep_vars=True).items():
            with GatheredParameters([value], enabled=hasattr(value, "ds_id")):
                if self.is_global_zero:
                    state[name] = value.detach().cpu().clone()
        return state

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the whole state on rank 0, as torch's optimizer has it on a single rank."""
        from deepspeed.utils import safe_get_full_optimizer_state

        inner: Any = self.optimizers[0]
        _link_state(inner)
        base = inner.optimizer
        sample = next(iter(base.state.values()))
        sharded = [key for key, value in sample.items() if getattr(value, "ndim", 0)]
        small = {key: value for key, value in sample.items() if key not in sharded}
        state: dict[str, Any] = {}
        for name, parameter in self._trained.items():
            values = {key: safe_get_full_optimizer_state(parameter, key) for key in sharded}
            if self.is_global_zero:
                state[name] = {
                    key: value.cpu().clone() for key, value in {**small, **values}.items()
                }
        groups = [
            {**group, "params": names}
            for group, names in zip(base.param_groups, self._names, strict=True)
        ]
        return by_index({"state": state, "param_groups": groups}) if self.is_global_zero else {}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Give DeepSpeed its shards of the state of a single rank."""
        (stored,) = checkpoint["optimizer_states"]
        inner: Any = self.optimizers[0]
        base = inner.optimizer
        named = by_name(stored, [{"params": names} for names in self._names])
        _make_state(inner, next(iter(named["state"].values())))
        for name, values in named["state"].items():
            for key, value in values.items():
                if value.ndim:
                    _set_state(self._trained[name], key, value.to(self.root_device))
        for group, old in zip(base.param_groups, named["param_groups"], strict=True):
            group |= {key: value for key, value in old.items() if key != "params"}

    def _setup_model_and_optimizer(
        self, model: Any, optimizer: Optimizer | None, lr_scheduler: Any = None
    ) -> tuple[Any, Any]:
        """Note which parameters are trained, in their groups, before DeepSpeed flattens them."""
        assert optimizer is not None
        name_of = {parameter: name for name, parameter in model.named_parameters()}
        groups = [group["params"] for group in optimizer.param_groups]
        self._names = [[name_of[parameter] for parameter in group] for group in groups]
        self._trained = {name_of[parameter]: parameter for group in groups for parameter in group}
        return super()._setup_model_and_optimizer(model, optimizer, lr_scheduler)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint on rank 0."""
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, filepath)

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint of any strategy."""
        return snapshot.read(checkpoint_path)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Load the weights, before DeepSpeed shards them."""
        assert self.lightning_module is not None
        self.lightning_module.load_state_dict(checkpoint["state_dict"], strict=strict)


def _make_state(optimizer: Any, sample: Mapping[str, Any]) -> None:
    """Make the state that DeepSpeed's optimizer lacks before its first step, like one of torch's.

    Args:
        optimizer: DeepSpeed's optimizer.
        sample: State of some parameter; what has no dimension in it is the same for all.
    """
    sharded = "fp32_partitioned_groups_flat"
    names = sharded if hasattr(optimizer, sharded) else "single_partition_of_fp32_groups"
    for flat in getattr(optimizer, names):
        optimizer.optimizer.state[flat] = {
            key: torch.zeros_like(flat) if value.ndim else value.clone()
            for key, value in sample.items()
        }
    _link_state(optimizer)


def _link_state(optimizer: Any) -> None:
    """Tie parameters to their states in ZeRO 1 and 2; DeepSpeed does so for one group only."""
    if hasattr(optimizer, "_lazy_init_hp_params_optimizer_state"):
        optimizer._hp_optimizer_states_linked = False
        optimizer._lazy_init_hp_params_optimizer_state()


def _set_state(parameter: Any, key: str, value: Tensor) -> None:
    """Set this rank's shard of a state; those of ZeRO 3 are padded to the same size."""
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    if not hasattr(parameter, "ds_id"):
        safe_set_full_optimizer_state(parameter, value, key)
        return
    size = parameter.ds_tensor.ds_numel
    shards = nn.functional.pad(value.flatten(), (0, size * dist.get_world_size() - value.numel()))
    safe_set_local_optimizer_state(parameter, shards.view(-1, size)[dist.get_rank()], key)
