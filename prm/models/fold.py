"""Folding: several objectives and their linear aggregation become one head column.

Scores are linear in the head columns, columns are linear in the hidden state, and so, with affine
normalizers, fixed weights and shaping that is affine too, is the reward:

    R = c sum_k w_k d_k (a_k s_k + b_k) + d = sum_k slope_k s_k + constant

A model with that one column is what trainers and serving engines that know one label can use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prm.aggregation.normalize import ZScore
from prm.errors import ModelError
from prm.models.lora import merged
from prm.models.reward_model import RewardModel
from prm.models.stock import head_has_bias
from prm.spec import ResponseHead, RewardSpec, Shaping

REWARD = "reward"
"""Name of the one objective of a folded model."""


@dataclass(frozen=True, slots=True)
class LinearReward:
    """A reward that is linear in the scores: `sum_k slopes[k] * score_k + constant`.

    Args:
        slopes: Objective to slope; objectives of weight 0 are left out.
        constant: What all responses get, whatever their scores.
    """

    slopes: Mapping[str, float]
    constant: float

    @classmethod
    def of(cls, spec: RewardSpec) -> LinearReward:
        """Return the reward of a spec.

        Raises:
            ModelError: The aggregation, a normalizer or the shaping is not linear, or nothing is
                aggregated.

        Example:
            >>> from prm.aggregation.objectives import WeightedSum
            >>> spec = RewardSpec(
            ...     step_heads=(),
            ...     response_heads=(
            ...         ResponseHead("safety"),
            ...         ResponseHead("length", direction="minimize"),
            ...     ),
            ...     normalizers={"length": ZScore(100.0, 50.0)},
            ...     objective_aggregation=WeightedSum({"safety": 1, "length": 0.5}),
            ... )
            >>> LinearReward.of(spec)
            LinearReward(slopes={'safety': 1.0, 'length': -0.01}, constant=1.0)
        """
        weights = _weights(spec)
        gain, constant = _shaping(spec)
        slopes = {}
        for objective in spec.response_heads:
            signed = gain * weights.get(objective.name, 0.0) * objective.sign
            if signed != 0:
                scale, shift = _line(spec, objective.name)
                slopes[objective.name] = signed * scale
                constant += signed * shift
        return cls(slopes, constant)

    @property
    def gain(self) -> float:
        """How much an error of 1 in every score can change the reward."""
        return sum(map(abs, self.slopes.values()))


def is_linear(spec: RewardSpec) -> bool:
    """Whether a model of this spec can be folded, if its heads are linear."""
    try:
        LinearReward.of(spec)
    except ModelError:
        return False
    return True


def fold(model: RewardModel) -> RewardModel:
    """Return a model with one objective, `reward`, whose score is the aggregated reward.

    The backbone is shared with `model`, not copied. Heads of stock decoders have no bias: the
    constant part of the reward, which changes neither ranking nor differences, is then not in the
    score. The folded model's spec adds it back, as the mean of a normalizer.

    Args:
        model: A model with response objectives and linear heads.

    Raises:
        ModelError: The heads, the aggregation, a normalizer or the shaping are not linear; the
            message says which.
    """
    plain = merged(model)
    weight, constant = _folded_head(plain)
    folded = RewardModel(
        plain.backbone.model,
        plain.tokenizer,
        _scalar_spec(plain.spec),
        kernel=plain.backbone.kernel,
    )
    layer = folded.heads.layers
    assert isinstance(layer, nn.Linear)
    has_bias = head_has_bias(plain.backbone.model, folded.spec)
    with torch.no_grad():
        layer.weight.copy_(weight[None])
        if has_bias:
            layer.bias.fill_(constant)
    if constant != 0 and not has_bias:
        shift = ZScore(-constant, 1.0, source="constant of the folded reward")
        folded.spec = folded.spec.with_(normalizers={REWARD: shift})
    return folded.to(plain.device).train(model.training)


def dropped_constant(folded: RewardSpec) -> float:
    """Return what a folded model's score lacks to be the reward: 0 if its head has a bias."""
    normalizer = folded.normalizers.get(REWARD)
    return -normalizer.mean if isinstance(normalizer, ZScore) else 0.0


def _weights(spec: RewardSpec) -> Mapping[str, float]:
    aggregation = spec.objective_aggregation
    if aggregation is None:
        raise ModelError("the model scores no whole responses", got=f"a {spec.kind} model")
    weights = aggregation.linear_weights(spec.response_names)
    if weights is None:
        raise ModelError(
            "the reward cannot be folded into one label: its aggregation is not linear",
            expected="fixed weights, as of weighted_sum or lagrangian",
            got=aggregation.name,
            fix="Choose another with --aggregation, or use all objectives (--to hf)",
        )
    return weights


def _shaping(spec: RewardSpec) -> tuple[float, float]:
    line = spec.shaping.affine()
    if line is None:
        raise ModelError(
            "the reward cannot be folded into one label: its shaping is not linear",
            expected="no squash and no clip",
            got=spec.shaping,
            fix="Use all objectives (--to hf), and shape the reward where it is used",
        )
    return line


def _line(spec: RewardSpec, name: str) -> tuple[float, float]:
    normalizer = spec.normalizers.get(name)
    if normalizer is None:
        return 1.0, 0.0
    line = normalizer.affine()
    if line is None:
        raise ModelError(
            f"the reward cannot be folded into one label: the normalizer of {name!r} is not linear",
            expected="none, or z_score",
            got=normalizer.name,
        )
    return line


def _folded_head(model: RewardModel) -> tuple[Tensor, float]:
    """Return weight `[hidden]` and constant of the reward, computed in float64."""
    reward = LinearReward.of(model.spec)
    layer = model.heads.layers
    if not isinstance(layer, nn.Linear):
        raise ModelError(
            "the reward cannot be folded into one label: the heads are not linear",
            expected="heads of kind linear",
            got=model.heads.kind,
        )
    mix = _mix(model.spec, reward).to(layer.weight.device)
    bias = layer.bias.double() @ mix if layer.bias is not None else mix.new_zeros(())
    return mix @ layer.weight.detach().double(), reward.constant + float(bias.detach())


def _mix(spec: RewardSpec, reward: LinearReward) -> Tensor:
    """Return the slope of the reward in each head column, shape `[column]`, float64."""
    mix = torch.zeros(spec.num_columns, dtype=torch.float64)
    for objective in spec.response_heads:
        own, slope = spec.columns[objective.name], reward.slopes.get(objective.name, 0.0)
        if objective.readout == "quantile":
            mix[own] = slope / objective.num_columns
        else:
            mix[own.start] = slope
    return mix


def _scalar_spec(spec: RewardSpec) -> RewardSpec:
    return spec.with_(
        step_heads=(),
        response_heads=(ResponseHead(REWARD),),
        chain_reward="",
        normalizers={},
        objective_aggregation=None,
        shaping=Shaping(),
        tokenizer=None,
        golden_chains=(),
        golden_responses=(),
    )
