"""The decoder layers of a stock model: what is sharded, recomputed or compiled one by one."""

from __future__ import annotations

import torch
from torch import nn
from transformers import AttentionInterface

from prm.models.tree_attention import TREE_ATTENTION, tree_attention


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """Return the modules of the longest module list, which in a decoder are its layers."""
    lists = [list(module) for module in model.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len, default=[])


def compile_layers(model: nn.Module) -> None:
    """Compile every decoder layer, in place, for batches of any number of tokens.

    Layers of one kind share their compiled code. Attention over trees, whose kernels are compiled
    or written by hand already, is left out.
    """
    AttentionInterface.register(TREE_ATTENTION, torch.compiler.disable(tree_attention))
    for layer in decoder_layers(model):
        layer.compile(dynamic=True)
