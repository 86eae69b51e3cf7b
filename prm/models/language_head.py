"""The head of a stock language model, from the states of its backbone to its own logits.

Between states and logits lie factors (Cohere, Granite), soft caps (Gemma), biases (Phi, GPT-J) and
layers (ModernBERT). All of it is run by the model's own class, whose backbone is taken out: the
likelihood is the model's own, whatever its family.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from prm.errors import ModelError
from prm.models.dropout import turn_off_dropout
from prm.models.structure import token_embeddings

NEVER = -1e30
"""Logit of a token that is never next; finite, so that 0 times it is 0."""


class LanguageHead(nn.Module):
    """What a language model does after its backbone, with frozen weights.

    Args:
        model: A stock language model; its backbone is taken out of it.
        tie: Predict with the input embeddings, which are an argument of `forward`, as models do
            whose embeddings are tied.

    Attributes:
        is_tied: As `tie`.
        never: Ids of tokens that are no part of the language, such as a step marker.

    Raises:
        ModelError: It is not one backbone with a head, or its embeddings cannot be tied.
    """

    def __init__(self, model: PreTrainedModel, tie: bool) -> None:
        super().__init__()
        output = _output_layer(model)
        self.is_tied = tie
        self.num_tokens = len(output.weight)
        self.never: Sequence[int] = ()
        self._tied: str | None = None
        if tie:
            expected = tuple(output.weight.shape)
            got = tuple(token_embeddings(model).shape)
            if got != expected:
                raise ModelError(
                    f"{type(model).__name__} cannot predict with its input embeddings",
                    expected=f"shape {expected}",
                    got=got,
                )
            names = {module: name for name, module in model.named_modules()}
            self._tied = f"{names[output]}.weight"
            output.weight = None
        self._given = _take_out_backbone(model)
        if hasattr(model.config, "output_router_logits"):
            model.config.output_router_logits = False
        turn_off_dropout(model)
        self.model = model.requires_grad_(False).train()

    def forward(self, states: Tensor, input_embeddings: Tensor) -> Tensor:
        """Return logits `[token, vocabulary]`, float32.

        Args:
            states: Last hidden states, shape `[token, hidden]`.
            input_embeddings: Shape `[vocabulary or more, hidden]`; used if embeddings are tied.
        """
        weights = {} if self._tied is None else {self._tied: input_embeddings[: self.num_tokens]}
        first = next(iter([*weights.values(), *self.model.parameters()]))
        self._given.states = states[None].to(first.dtype)
        ids = torch.zeros(1, len(states), dtype=torch.int64, device=states.device)
        output: Any = functional_call(
            self.model, weights, (), {"input_ids": ids, "use_cache": False}
        )
        self._given.states = None
        logits: Tensor = output.logits[0].float()
        never = [token for token in self.never if token < self.num_tokens]
        unsaid = torch.tensor(never, dtype=torch.int64, device=logits.device)
        return logits.index_fill(1, unsaid, NEVER)


def is_tied(model: PreTrainedModel) -> bool:
    """Whether a language model's output embeddings are its input embeddings."""
    return _output_layer(model).weight is token_embeddings(model)


def head_weights(model: PreTrainedModel) -> set[str]:
    """Return the names of a language model's weights outside its backbone."""
    name = _backbone_name(model)
    return {one for one in model.state_dict() if not one.startswith(f"{name}.")}


def _output_layer(model: PreTrainedModel) -> Any:
    layer: Any = model.get_output_embeddings()
    if layer is None:
        raise ModelError(f"{type(model).__name__} has no output embeddings")
    return layer


def _backbone_name(model: PreTrainedModel) -> str:
    names = [name for name, part in model.named_children() if isinstance(part, PreTrainedModel)]
    if len(names) != 1:
        raise ModelError(
            f"{type(model).__name__} is not a backbone with a head", expected="one backbone"
        )
    return names[0]


def _take_out_backbone(model: PreTrainedModel) -> _Given:
    """Put what gives back states in the place of a model's backbone, and return it."""
    name = _backbone_name(model)
    given = _Given(getattr(model, name))
    setattr(model, name, given)
    return given


class _Given(nn.Module):
    """Stands for a backbone: gives the states that were put into it.

    Args:
        backbone: What it stands for, whose plain attributes it has: some heads read factors there.
    """

    states: Tensor | None = None

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        plain = {
            name: value
            for name, value in vars(backbone).items()
            if not name.startswith("_") and name != "training"
        }
        self.__dict__.update(plain)

    @property
    def decoder(self) -> _Given:
        """Itself: OPT's head calls the decoder within its backbone."""
        return self

    def forward(self, *_: Any, **__: Any) -> _Output:
        """Return the states, whatever is asked."""
        return _Output(last_hidden_state=self.states)


class _Output(BaseModelOutputWithPast):
    """States, and nothing where a head looks for more."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)
