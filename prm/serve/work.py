"""What requests ask of a model: scores of records, or the heads' columns for token ids."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import Tensor

from prm.models.reward_model import ModelOutput
from prm.records import Chain, Rating
from prm.scores.reaggregate import reaggregate
from prm.scoring.scorer import RewardScorer
from prm.scoring.stages import Score, Tokenized, finish, tokenize
from prm.serve.jobs import Tree
from prm.serve.metrics import ModelMetrics
from prm.spec import RewardSpec
from prm.trees.tree import TokenTree


@dataclass(frozen=True, slots=True)
class Request:
    """A record, and which objectives mean something for it (all of them if `None`)."""

    record: Chain | Rating
    applicable: Collection[str] | None = None


@dataclass(frozen=True, slots=True)
class Scoring:
    """Turns records into scores.

    Args:
        scorer: The scorer.
        spec: Its spec, with the aggregations that are wanted.
        metrics: What counts the scores.
    """

    scorer: RewardScorer
    spec: RewardSpec
    metrics: ModelMetrics

    def tokenize(self, inputs: Sequence[Request]) -> list[Tree]:
        """Return the token trees of the records."""
        records = [request.record for request in inputs]
        found = tokenize(self.scorer.builder, records, self.scorer.max_tokens)
        return [Tree(item.tree, item.places, (item, inputs)) for item in found]

    def finish(self, item: tuple[Tokenized, Sequence[Request]], output: ModelOutput) -> list[Score]:
        """Return the scores of the records of a tree."""
        tokens, inputs = item
        scores = finish(tokens, output.columns, self.spec, output.gates)
        self.metrics.count_reads(output.columns)
        for number, place in enumerate(tokens.places):
            applicable = inputs[place].applicable
            if applicable is not None:
                scores[number] = reaggregate(scores[number], self.spec, applicable=applicable)
            self.metrics.count(scores[number])
        return scores


class RawColumns:
    """Turns token ids with the positions that are read into the columns of the heads there."""

    def tokenize(self, inputs: Sequence[TokenTree]) -> list[Tree]:
        """Return the trees as they are."""
        return [Tree(tree, (index,), None) for index, tree in enumerate(inputs)]

    def finish(self, item: None, output: ModelOutput) -> list[Tensor]:
        """Return the columns, shape `[read, column]`."""
        return [output.columns]
