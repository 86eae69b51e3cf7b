"""Golden scores: texts whose scores are stored with a model and compared when it is loaded."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from prm.errors import DataError, ModelError
from prm.models.backbone import evaluating
from prm.models.reward_model import ModelOutput, RewardModel
from prm.records import Chain, Rating, Record
from prm.spec import GoldenChain, GoldenResponse, RewardSpec
from prm.trees.packing import pack
from prm.trees.tree import TokenTree
from prm.trees.units import unit_of

R = TypeVar("R", bound=Record)

CHAINS = (
    Chain("What is 2 + 3 * 4?", ["3 * 4 = 12", "2 + 12 = 14", "The answer is 14."]),
    Chain("What is 7 - 5 + 1?", ["7 - 5 = 3", "3 + 1 = 4"]),
)
"""Chains that models with step objectives score."""

RESPONSES = (
    Rating("What is the capital of France?", "It is Paris."),
    Rating("How do I boil an egg?", "Put it into boiling water for eight minutes, then cool it."),
)
"""Responses that models with response objectives score."""


def score_chains(model: RewardModel, chains: Sequence[Chain] = CHAINS) -> tuple[GoldenChain, ...]:
    """Score the chains that fit the model; none without step objectives."""
    scores = []
    for chain, tree in fitting(model, chains):
        logits = model.step_logits(read(model, tree).columns).double().T.tolist()
        scores.append(
            GoldenChain(
                str(chain.prompt),
                chain.completions[: tree.num_reads],
                dict(zip(model.spec.step_names, map(tuple, logits), strict=True)),
            )
        )
    return tuple(scores)


def score_responses(
    model: RewardModel, responses: Sequence[Rating] = RESPONSES
) -> tuple[GoldenResponse, ...]:
    """Score the responses that fit the model; none without response objectives."""
    scores = []
    for rating, tree in fitting(model, responses):
        output = read(model, tree)
        named = _named(model, model.response_scores(output.columns))
        gates = None if output.gates is None else _named(model, output.gates)
        scores.append(GoldenResponse(str(rating.prompt), rating.response, named, gates))
    return tuple(scores)


def refuse_infinite(spec: RewardSpec) -> None:
    """Refuse golden scores that no loaded model could be compared with.

    Raises:
        ModelError: One is not finite.
    """
    of_steps = [row for golden in spec.golden_chains for row in golden.step_logits.values()]
    numbers = [number for row in of_steps for number in row]
    numbers += [number for golden in spec.golden_responses for number in golden.scores.values()]
    if not all(map(math.isfinite, numbers)):
        raise ModelError(
            "the model gives scores that are not finite, so its folder could not be loaded",
            fix="Did its training diverge? Lower model.lr and start from an earlier checkpoint",
        )


def fitting(model: RewardModel, records: Iterable[R]) -> Iterator[tuple[R, TokenTree]]:
    """Yield the records that a model has heads and room for, each with its tree."""
    for record in records:
        if not model.spec.has_heads_for(record):
            continue
        try:
            tree = model.builder.build(unit_of([record])).tree
        except DataError:
            continue
        yield record, tree


def check(model: RewardModel, where: str) -> None:
    """Compare a model's golden scores with those in its spec.

    Raises:
        ModelError: A score differs by more than float tolerance (looser for half precision).
    """
    pairs: list[tuple[str, float, float]] = []
    chains = [Chain(old.prompt, old.completions) for old in model.spec.golden_chains]
    for old, new in zip(model.spec.golden_chains, score_chains(model, chains), strict=True):
        for name, values in old.step_logits.items():
            scored = zip(values, new.step_logits[name], strict=True)
            pairs += [(name, expected, got) for expected, got in scored]
    ratings = [Rating(old.prompt, old.response) for old in model.spec.golden_responses]
    for before, after in zip(
        model.spec.golden_responses, score_responses(model, ratings), strict=True
    ):
        pairs += [(name, value, after.scores[name]) for name, value in before.scores.items()]
        gates = after.gates or {}
        pairs += [
            (name, value, gates.get(name, 0.0)) for name, value in (before.gates or {}).items()
        ]
    tolerance = 0.2 if is_half(model) else 1e-3
    for name, expected, got in pairs:
        if not math.isclose(expected, got, rel_tol=tolerance, abs_tol=tolerance):
            raise ModelError(
                f"the loaded model does not score {name!r} as the saved one did",
                expected=f"{expected:.6f}",
                got=f"{got:.6f}",
                where=where,
                fix="Weights and prm_config.json are not from the same model",
            )


def exact(model: RewardModel) -> RewardModel:
    """Return the model in float32: a copy if it is in half precision, else the model itself."""
    return copy.deepcopy(model).float() if is_half(model) else model


def is_half(model: RewardModel) -> bool:
    """Whether the backbone's weights are in half precision."""
    return next(model.backbone.parameters()).dtype in (torch.bfloat16, torch.float16)


def _named(model: RewardModel, values: Tensor) -> dict[str, float]:
    return dict(zip(model.spec.response_names, values[0].tolist(), strict=True))


@torch.no_grad()
def read(model: RewardModel, tree: TokenTree) -> ModelOutput:
    """Run the model on one tree, in evaluation mode."""
    with evaluating(model):
        output: ModelOutput = model(pack([tree]).to(model.device))
    return output
