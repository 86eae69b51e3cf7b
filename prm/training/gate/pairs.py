"""What a frozen model says about pairs of responses, computed once for the training of a gate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from prm.aggregation.objectives import Gated
from prm.data.planning import plan_evaluation
from prm.errors import DataError
from prm.models.reward_model import RewardModel
from prm.records import Comparison
from prm.trees.packing import pack
from prm.trees.prompts import DroppedRecord
from prm.trees.tokenize import TokenizedResponses
from prm.trees.units import ResponseSet


class Pairs(NamedTuple):
    """Pairs of responses of which one is better; tensors are on the CPU.

    Args:
        states: State at the end of each prompt, shape `[prompt, hidden]`.
        utilities: Utilities of all responses, shape `[response, objective]`.
        prompt: Prompt of each pair, shape `[pair]`.
        better: Response that is better, shape `[pair]`.
        worse: Response that is worse, shape `[pair]`.
        weight: 1 over the number of pairs of the comparison, shape `[pair]`.
    """

    states: Tensor
    utilities: Tensor
    prompt: Tensor
    better: Tensor
    worse: Tensor
    weight: Tensor

    def differences(self, aggregation: Gated, objectives: Sequence[str]) -> Tensor:
        """Return better minus worse of the corrected utilities, shape `[pair, objective]`."""
        values = aggregation.corrected(self.utilities, objectives)
        return values[self.better] - values[self.worse]


@torch.no_grad()
def read_pairs(
    model: RewardModel,
    comparisons: Sequence[Comparison],
    max_tokens: int,
    on_read: Callable[[int], None],
) -> Pairs:
    """Run the model over comparisons.

    Args:
        model: A decoder.
        comparisons: Comparisons; those that do not fit the model are left out.
        max_tokens: Tokens in one forward pass.
        on_read: Called with the number of comparisons since the last call.

    Raises:
        DataError: No comparison that fits ranks one response above another.
        ModelError: The model is an encoder.
    """
    model.eval()
    sets = [ResponseSet.of([comparison]) for comparison in comparisons]
    kept = [
        (one, tokens)
        for one, tokens in zip(sets, model.builder.build_all(sets), strict=True)
        if not isinstance(tokens, DroppedRecord) and None not in tokens.branches
    ]
    trees = [tokens.tree for _, tokens in kept]
    states: dict[int, Tensor] = {}
    utilities: dict[int, Tensor] = {}
    for plan in plan_evaluation([tree.num_tokens for tree in trees], max_tokens):
        packed = pack([trees[index] for index in plan.records]).to(model.device)
        output = model(packed)
        sizes = [trees[index].num_reads for index in plan.records]
        prompts = model.prompt_states(packed, output.states).float().cpu().split(sizes)
        values = model.spec.utilities(model.response_scores(output.columns).cpu()).split(sizes)
        states |= {index: own[0] for index, own in zip(plan.records, prompts, strict=True)}
        utilities |= dict(zip(plan.records, values, strict=True))
        on_read(len(plan.records))
    rows = list(_pairs(kept))
    if not rows:
        raise DataError("no comparison that fits the model ranks one response above another")
    return Pairs(
        torch.stack([states[index] for index in range(len(kept))]),
        torch.cat([utilities[index] for index in range(len(kept))]),
        *(torch.tensor(column) for column in zip(*rows, strict=True)),
    )


def _pairs(
    kept: Sequence[tuple[ResponseSet, TokenizedResponses]],
) -> Iterator[tuple[int, int, int, float]]:
    """Yield prompt, better, worse and weight of the pairs of some comparisons."""
    offset = 0
    for prompt, (one, tokens) in enumerate(kept):
        comparison = one.records[0]
        reads = [offset + int(tokens.branches[place] or 0) for place in one.places[0]]
        ranked = sorted(zip(comparison.ranks, reads, strict=True))
        pairs = [(a, b) for (i, a), (j, b) in combinations(ranked, 2) if i < j and a != b]
        yield from ((prompt, better, worse, 1 / len(pairs)) for better, worse in pairs)
        offset += tokens.tree.num_reads
