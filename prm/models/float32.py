"""Run a model of any precision in float32, without a float32 copy of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from prm.models.structure import decoder_layers

HALF = (torch.bfloat16, torch.float16)


def is_sharded(model: nn.Module) -> bool:
    """Whether this process holds a part of the weights only, as under FSDP or DeepSpeed."""
    return any(
        hasattr(weight, "to_local") or hasattr(weight, "ds_id") for weight in model.parameters()
    )


@contextmanager
def in_float32(model: nn.Module) -> Iterator[None]:
    """Run a model in float32 within the context, on its own weights, a layer at a time.

    Each decoder layer has float32 copies of its weights while it runs, and of the rest each module
    has its own; embeddings are cast after they are looked up. Weights that are sharded stay as they
    are.
    """
    half = any(weight.dtype in HALF for weight in model.parameters())
    with ExitStack() as stack, _full_precision():
        if half and not is_sharded(model):
            for handle in _hooks(model):
                stack.callback(handle.remove)
        yield


@contextmanager
def _full_precision() -> Iterator[None]:
    """Multiply float32 matrices in float32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _hooks(model: nn.Module) -> Iterator[RemovableHandle]:
    layers = decoder_layers(model)
    inside = {id(part) for layer in layers for part in layer.modules()}
    for layer in layers:
        yield from _cast_while_running(layer, list(layer.modules()))
    for module in model.modules():
        if id(module) in inside:
            continue
        if isinstance(module, nn.Embedding):
            yield module.register_forward_hook(lambda _module, _inputs, output: output.float())
        elif next(module.parameters(recurse=False), None) is not None:
            yield from _cast_while_running(module, [module])


def _cast_while_running(module: nn.Module, parts: list[nn.Module]) -> Iterator[RemovableHandle]:
    kept: list[tuple[dict[str, Any], str, Tensor]] = []

    def cast(*_: Any) -> None:
        for part in parts:
            for store in (part._parameters, part._buffers):
                for name, value in store.items():
                    if value is not None and value.dtype in HALF:
                        kept.append((store, name, value))
                        store[name] = _like(value)

    def restore(*_: Any) -> None:
        for store, name, value in kept:
            store[name] = value
        kept.clear()

    yield module.register_forward_pre_hook(cast)
    yield module.register_forward_hook(restore, always_call=True)


def _like(value: Tensor) -> Any:
    cast = value.detach().float()
    return nn.Parameter(cast, requires_grad=False) if isinstance(value, nn.Parameter) else cast
