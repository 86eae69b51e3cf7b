"""What depends on ranks: sharding (FSDP2), gradient exchange, and putting a model together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Partial

from prm.errors import ModelError
from prm.models.backbone import decoder_layers

if TYPE_CHECKING:
    from prm.models.reward_model import RewardModel


def spread(
    model: RewardModel, mesh: Any, device: torch.device, compute_dtype: torch.dtype | None = None
) -> None:
    """Shard a model that only rank 0 holds; those of the other ranks lie on the meta device.

    Every decoder layer, the rest of the backbone and the heads are sharded. No rank but 0 ever
    holds the whole model, and that one in the memory of its machine.

    Args:
        model: The model.
        mesh: The ranks that share it.
        device: Where the shards go.
        compute_dtype: Type that the backbone's weights are gathered and used in; gradients are
            summed in float32, and the heads stay as they are.

    Raises:
        ModelError: Parameters are left unsharded, which would train ranks apart in silence.
    """
    state, buffers = model.state_dict(), dict(model.named_buffers())
    is_first = dist.get_rank() == 0
    model.to("meta")
    policy = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=torch.float32)
    for part in (*decoder_layers(model.backbone.model), model.backbone):
        fully_shard(part, mesh=mesh, mp_policy=policy)
    fully_shard(model.heads, mesh=mesh)
    fully_shard(model, mesh=mesh)
    left = [name for name, value in model.named_parameters() if not isinstance(value, DTensor)]
    if left:
        raise ModelError("parameters were not sharded", got=left[:5])
    model.to_empty(device=device)
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(model, state if is_first else {}, options=options)
    for name, buffer in model.named_buffers():
        if is_first:
            buffer.copy_(buffers[name])
        dist.broadcast(buffer, 0)


def whole(weight: Tensor) -> Tensor:
    """Return a weight that may be sharded as one tensor.

    Its gradient, which differs from rank to rank, is averaged over the ranks into the shards, as
    FSDP averages the others.
    """
    if not isinstance(weight, DTensor):
        return weight
    num_ranks = weight.device_mesh.size()
    full = weight.full_tensor(grad_placements=[Partial()])
    full.register_hook(lambda gradient: gradient / num_ranks)
    return full


def gradient_sync(strategy: Any, last: bool) -> contextlib.AbstractContextManager[Any]:
    """Skip the gradient exchange between ranks for all but the last micro-batch.

    FSDP exchanges with each: it would have to keep the gradients of the whole model until the last.
    """
    if hasattr(strategy.model, "set_gradient_accumulation_boundary"):  # DeepSpeed
        strategy.model.optimizer.clear_backward_seen_flag()  # what its own forward pass does
        strategy.model.set_gradient_accumulation_boundary(last)
    elif hasattr(strategy.model, "no_sync") and not last:
        return strategy.model.no_sync()  # type: ignore[no-any-return]
    return contextlib.nullcontext()


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average gradients that neither DDP nor FSDP exchanges over all ranks."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        dist.all_reduce(parameter.grad)
        parameter.grad /= dist.get_world_size()


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float | None) -> Tensor:
    """Scale gradients down to a norm of at most `limit`; return the norm before, over all ranks."""
    by_type: dict[type, list[Tensor]] = {}
    for gradient in [item.grad for item in parameters if item.grad is not None]:
        by_type.setdefault(type(gradient), []).append(gradient)
    norms: list[Any] = [nn.utils.get_total_norm(gradients) for gradients in by_type.values()]
    norms = [one.full_tensor() if hasattr(one, "full_tensor") else one for one in norms]
    norm: Tensor = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
    if limit is not None:
        factor = (limit / (norm + 1e-6)).clamp(max=1.0)
        for gradients in by_type.values():
            torch._foreach_mul_(gradients, factor)
    return norm
