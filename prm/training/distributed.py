"""What depends on ranks: gradient exchange, and putting weights and gradients together."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Partial

from prm.errors import ModelError
from prm.models.backbone import Backbone

logger = logging.getLogger(__name__)


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


def freeze_unused(backbone: Backbone, strategy: Any) -> None:
    """Do not train what no read depends on; rank 0, which alone may hold weights, says what.

    DDP waits for a gradient of every trained weight, and stops at the second step.

    Raises:
        ModelError: The model cannot be run.
    """
    weights = dict(backbone.model.named_parameters())
    is_here = not any(weight.is_meta for weight in weights.values())
    names = backbone.unused_weights() if is_here else []
    if strategy.world_size > 1:
        names = strategy.broadcast(names)
    for name in names:
        weights[name].requires_grad_(False)
    if names:
        parts = sorted({name.partition(".")[0] for name in names})
        logger.info("not trained, as no read depends on it: %s", ", ".join(parts))


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average gradients that neither DDP nor FSDP exchanges over all ranks."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        dist.all_reduce(parameter.grad)
        parameter.grad /= dist.get_world_size()


def check_finite(module: nn.Module) -> None:
    """Refuse weights that are not finite, on all ranks if on any.

    Raises:
        ModelError: A weight is not finite.
    """
    local = [
        weight.to_local() if hasattr(weight, "to_local") else weight
        for weight in module.parameters()
        if weight.is_floating_point()
    ]
    wrong = torch.stack([(~weight.isfinite().all()).float() for weight in local]).max()
    if dist.is_initialized():
        dist.all_reduce(wrong, dist.ReduceOp.MAX)
    if wrong > 0:
        raise ModelError(
            "weights are not finite, so nothing was written",
            fix="Lower model.lr; what was written before is from earlier steps",
        )


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
