"""What the layers of a stock model are made of, as far as it decides how the model can be run."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.pytorch_utils import Conv1D

from prm.errors import ModelError
from prm.models.tree_attention import TREE_ATTENTION, tree_attention

ATTENDING = {"attention", "full_attention", "sliding_attention", "chunked_attention"}
"""Types of layers, in `config.layer_types`, that do nothing but attend."""

_MIXING = re.compile(
    r"(?i:mamba|statespace|recurren|rglru|rwkv|deltanet|retention|hyena|indexer|linearattention"
    r"|lightning|conv(?!ert|1d$))|SSM|Ssm|[sm]LSTM"
)
"""Class names of modules that mix tokens otherwise than by attention."""

_PICKING = re.compile(r"(?i:indexe[dr]|sparse_attention|_sparse\b|compressed)")
"""Types of layers, and class names, that attend to the tokens of highest score only."""

_WINDOWS = ("window_size", "attention_window", "local_attention_window", "local_window_size")
"""Fields of configurations that are windows wherever they occur."""


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """Return the layers of a decoder.

    The outermost module list with as many entries as `config.num_hidden_layers` says; without one,
    the longest.
    """
    lists = {
        name: list(module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module)
    }
    fitting = [name for name, layers in lists.items() if len(layers) == _num_layers(model)]
    if fitting:
        return lists[min(fitting, key=lambda name: name.count("."))]
    return max(lists.values(), key=len, default=[])


def compile_layers(model: nn.Module) -> None:
    """Compile every decoder layer, in place, for batches of any number of tokens.

    Layers of one kind share their compiled code. Attention over trees, whose kernels are compiled
    or written by hand already, is left out.
    """
    AttentionInterface.register(TREE_ATTENTION, torch.compiler.disable(tree_attention))
    for layer in decoder_layers(model):
        layer.compile(dynamic=True)


def why_not_attending(model: nn.Module) -> str | None:
    """Return why layers are more than attention and what acts on each token alone, if they are."""
    types: Sequence[str] = getattr(_text_config(model), "layer_types", None) or ()
    others = sorted(set(types) - ATTENDING)
    if others:
        return f"it has layers of type {', '.join(others)}"
    parts = [part for layer in decoder_layers(model) for part in layer.modules()]
    mixing = sorted({type(part).__name__ for part in parts if _mixes(part)})
    return f"its layers mix tokens by {', '.join(mixing[:3])}" if mixing else None


def why_not_each_layer(model: nn.Module, attended: Sequence[nn.Module]) -> str | None:
    """Return which layers did not attend exactly once, if there are any.

    Args:
        model: The model.
        attended: The attention module of each call during one forward pass.
    """
    layers = decoder_layers(model)
    owner = {id(part): index for index, layer in enumerate(layers) for part in layer.modules()}
    calls = Counter(owner.get(id(module), -1) for module in attended)
    wrong = [index for index in range(len(layers)) if calls[index] != 1]
    if not layers:
        return "it has no list of layers"
    if not attended:
        return "it attends by code of its own, which knows no trees"
    if wrong:
        more = ", ..." if len(wrong) > 3 else ""
        named = ", ".join(map(str, wrong[:3])) + more
        return f"layers {named} of {len(layers)} do not attend exactly once"
    return "something beside its layers attends" if calls[-1] else None


def windows(model: nn.Module, asked: set[int]) -> set[int]:
    """Return the attention windows and chunks that a model uses.

    Args:
        model: The model.
        asked: Windows of the masks that it asks for; some ask for masks that no layer uses.
    """
    config = _text_config(model)
    types = set(getattr(config, "layer_types", None) or ())
    if types and not types & {"sliding_attention", "chunked_attention"}:
        asked = set()
    names = list(_WINDOWS)
    if "sliding_attention" in types or (
        not types and getattr(config, "use_sliding_window", None) is not False
    ):
        names.append("sliding_window")
    if "chunked_attention" in types or not types:
        names.append("attention_chunk_size")
    layers = config.per_layer_config if getattr(config, "is_heterogeneous", False) else [config]
    values = [getattr(layer, name, None) for layer in layers for name in names]
    flat = [one for value in values for one in (value if isinstance(value, list) else [value])]
    return asked | {one for one in flat if isinstance(one, int) and one > 0}


def attends_both_ways(model: nn.Module) -> bool:
    """Whether all attention layers that say whether they are causal are not."""
    flags = {getattr(part, "is_causal", None) for part in model.modules()} - {None}
    return flags == {False}


def picks_tokens(model: nn.Module) -> bool:
    """Whether layers attend to the tokens of highest score only.

    Where scores are equal, which tokens are taken changes with the padding of a row.
    """
    types: Sequence[str] = getattr(_text_config(model), "layer_types", None) or ()
    parts = (type(part).__name__ for layer in decoder_layers(model) for part in layer.modules())
    return any(_PICKING.search(name) for name in (*types, *parts))


def changes_with_length(model: nn.Module) -> bool:
    """Whether attention may be another one for long rows: in windows, chunks, blocks or buckets."""
    sizes = {
        name: value
        for name, value in vars(_text_config(model)).items()
        if re.search("window|chunk|block|bucket|local|landmark", name)
    }
    return any(value not in (0, None, False, "") for value in sizes.values())


def token_embeddings(model: Any) -> Tensor:
    """Return the table of token embeddings, `[token, hidden]`.

    Raises:
        ModelError: There is none: the model reads characters, or no text.
    """
    try:
        table = model.get_input_embeddings()
        weight: Tensor = table.weight
    except (AttributeError, NotImplementedError) as error:
        raise ModelError(
            f"{type(model).__name__} has no table of token embeddings", expected="a text model"
        ) from error
    return weight


def _mixes(module: nn.Module) -> bool:
    if isinstance(module, Conv1D):  # a linear layer of GPT-2
        return False
    convolution = nn.modules.conv._ConvNd
    return isinstance(module, convolution | nn.RNNBase) or bool(
        _MIXING.search(type(module).__name__)
    )


def _text_config(model: nn.Module) -> Any:
    config: Any = model.config
    return config.get_text_config()


def _num_layers(model: nn.Module) -> int | None:
    if not hasattr(model, "config"):
        return None
    number: int | None = getattr(_text_config(model), "num_hidden_layers", None)
    return number
